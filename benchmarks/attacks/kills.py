"""kill -9 and full disks: nothing is lost, and the same command ends with the same bits"""
import errno, os, resource, shutil, signal, subprocess, sys, time
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors.numpy import load_file

from imgclf_nb import fetching
from imgclf_nb.datasets import archives, records
from imgclf_nb.datasets.sources import Source
from attacks import caches, servers, weights
from attacks.cases import ROOT, Lost, Silent, ask, find_difference, read_tree
from attacks.commands import end_session, get_env
from attacks.samples import draw, make_tar, make_zip

PLANTED = 10
RECIPE = '''-p dataset pc_parts_mini -p weights none -p arch mobilenetv3_small_050 -p size 32 -p epochs 5
    -p patience 6 -p batch_size 16 -p ema 0.9 -p mixup 0.2 -p precision fp32'''.split()


def start_training(run, folder):
    "04 by papermill, in the background"
    run.mkdir(exist_ok=True)
    script = Path(sys.executable).parent/'papermill'
    words = [sys.executable, script, 'nbs/04_train.ipynb', run/'out.ipynb', '-p', 'run', run, *RECIPE]
    return subprocess.Popen([str(o) for o in words], cwd=ROOT, env=get_env(folder),
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE)


def prepare(folder):
    "A training that nobody disturbs, a slow server, archives of many files, images and their results"
    began = time.time()
    process = start_training(folder/'whole', folder)
    errors = process.communicate()[1].decode(errors='replace')
    training = time.time() - began
    if process.returncode: raise RuntimeError(errors[-500:])
    shared = caches.prepare(folder)
    many = {f'many/{"ab"[i % 2]}/{i}.jpg': draw(i % 50) + i.to_bytes(2, 'big') for i in range(1500)}
    waits = servers.prepare(folder)
    return shared | waits | dict(whole=folder/'whole', training=training, many=many,
        zip=make_zip(many), tar=make_tar(many))


# ---- trainings

def read_end(run):
    "The weights as bytes, and the predictions"
    weights = {name: value.tobytes() for name,value in load_file(run/'model.safetensors').items()}
    return weights, (run/'predictions.csv').read_text()


def kill_training(case):
    "A training is killed once or twice, and started again: the same bits"
    run = case.folder/'run'
    longest = case.shared['training']
    times = [case.rng.uniform(1, longest) for _ in range(case.rng.choice([1, 1, 2]))]
    case.title(f"04 killed after {', '.join(f'{o:.1f} s' for o in times)}")
    for seconds in times:
        process = start_training(run, case.folder)
        time.sleep(seconds)
        end_session(process)
    process = start_training(run, case.folder)
    errors = process.communicate(timeout=120)[1].decode(errors='replace')
    if process.returncode: raise Lost(f'the same command failed: {errors[-300:]}')
    if read_end(run) != read_end(case.shared['whole']): raise Silent('other weights or predictions')
    if (run/'checkpoint.safetensors').exists(): raise Silent('the checkpoint stays')


# ---- functions in a process that is killed

def fork(function):
    "A process that calls this function and ends"
    pid = os.fork()
    if pid: return pid
    try: function()
    except BaseException: os._exit(1)
    os._exit(0)


def kill_after(pid, seconds):
    "kill -9 after some seconds, unless it has ended"
    until = time.time() + seconds
    while time.time() < until:
        if os.waitpid(pid, os.WNOHANG)[0]: return
        time.sleep(.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def slow(h, n, start):
    "The rest of the set, slowly"
    rest = servers.WHOLE[start:]
    more = {'ETag': '"one"'}
    if start: more['Content-Range'] = f'bytes {start}-{len(servers.WHOLE)-1}/{len(servers.WHOLE)}'
    servers.send(h, 206 if start else 200, rest, more, most=0)
    for i in range(0, len(rest), 4000):
        h.wfile.write(rest[i:i+4000])
        time.sleep(.005)


def kill_fetch(case):
    "A fetch is killed up to three times, and called again"
    server = case.shared['server']
    server.habit, server.asked = slow, 0
    folder = case.folder/'data'/f'pets-{case.folder.name}'
    folder.parent.mkdir()
    source = Source('https', f'{server.url}/set.tar')
    times = [case.rng.uniform(0, .8) for _ in range(3)]
    case.title(f"fetch killed after {', '.join(f'{o:.2f} s' for o in times)}")
    for seconds in times:
        kill_after(fork(lambda: fetching.fetch(source, folder)), seconds)
        if folder.exists(): check_files(servers.FIRST, folder)
    result, sentence = ask(fetching.fetch, source, folder)
    if sentence: raise Lost(sentence)
    check_files(servers.FIRST, folder)
    left = [path.name for path in folder.parent.iterdir() if path != folder]
    if left: raise Lost(f'{left} is left behind')


def check_files(wanted, folder):
    "`Lost` for a file that is missing or another one"
    difference = find_difference(wanted, read_tree(folder))
    if difference: raise Lost(difference)


def kill_unpack(case):
    "Unpacking is killed, and called again"
    kind = case.rng.choice(['zip', 'tar'])
    (case.folder/f'x.{kind}').write_bytes(case.shared[kind])
    seconds = case.rng.uniform(0, .6)
    case.title(f'unpack of a {kind} killed after {seconds:.2f} s')
    target = case.folder/'set'
    kill_after(fork(lambda: archives.unpack(case.folder/f'x.{kind}', target)), seconds)
    if not target.exists(): archives.unpack(case.folder/f'x.{kind}', target)
    check_files(case.shared['many'], target)
    left = [path.name for path in case.folder.iterdir() if path.name not in ('set', f'x.{kind}')]
    if left: raise Lost(f'{left} is left behind')


def kill_cache(case):
    "The caches are filled, killed twice, and used"
    os.environ['IMGCLF_CACHE'] = str(case.folder/'cache')
    times = [case.rng.uniform(0, 1.2) for _ in range(2)]
    case.title(f"caches killed after {', '.join(f'{o:.2f} s' for o in times)}")
    for seconds in times: kill_after(fork(lambda: caches.get_all(case.shared['images'])), seconds)
    check_caches(case)


def check_caches(case):
    "`Silent` for another result than without caches"
    got, sentence = ask(caches.get_all, case.shared['images'])
    if sentence: raise Lost(sentence)
    wrong = [name for name,value in case.shared['wanted'].items() if got[name] != value]
    if wrong: raise Silent(f"other {', '.join(wrong)}")


def kill_records(case):
    "A process that saves decisions is killed: none that was saved is gone"
    os.environ['IMGCLF_RECORDS'] = str(case.folder/'records')
    images, done = case.shared['images'], case.folder/'done'
    seconds = case.rng.uniform(.05, 1)
    case.title(f'decisions killed after {seconds:.2f} s')
    def decide_all():
        for i in range(500):
            records.decide(str(images), f'{i}.jpg', 'drop')
            with open(done, 'a') as file: file.write(f'{i}.jpg\n')
    kill_after(fork(decide_all), seconds)
    saved = done.read_text().split() if done.exists() else []
    table = records.read_decisions(str(images))
    gone = set(saved) - set(table.path)
    if gone: raise Lost(f'{len(gone)} of {len(saved)} decisions are gone')


# ---- full disks

@contextmanager
def small_disk(folder, kilobytes):
    "A disk of this size, where that is allowed; else the files of this process may only be so long"
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'attack', str(folder)]
    mounted = shutil.which('mount') and not subprocess.run(command, capture_output=True).returncode
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not mounted: resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, limits[1]))
    try: yield
    finally:
        if mounted: subprocess.run(['umount', '-l', str(folder)], check=True)
        else: resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def fill(folder, free):
    "Fill a disk up to some bytes"
    with suppress(OSError), open(folder/'filler', 'wb') as file:
        while shutil.disk_usage(folder).free > free: file.write(bytes(4096))


def full_records(case):
    "Decisions on a disk that fills up: what was saved stays"
    disk = case.folder/'disk'
    case.title('decisions on a full disk')
    images = str(case.shared['images'])
    os.environ['IMGCLF_RECORDS'] = str(disk/'records')
    with small_disk(disk, 400):
        records.decide(images, [f'{i}.jpg' for i in range(40)], 'drop')
        before = records.get_decisions_path(images).read_bytes()
        fill(disk, case.rng.choice([0, 4096]))
        n, sentence = ask(records.decide, images, [f'new{i}.jpg' for i in range(800)], 'drop')
        kept = records.get_decisions_path(images).read_bytes()
        if sentence and kept != before: raise Lost('decisions changed although saving failed')
        missing = sentence is None and len(records.read_decisions(images)) != 840
        if missing: raise Lost('decisions are missing')


def full_cache(case):
    "Caches on a disk that is full: the same results, or a sentence"
    disk = case.folder/'disk'
    size = case.rng.choice([8, 60, 200, 1000])
    case.title(f'caches on a disk of {size} KB')
    os.environ['IMGCLF_CACHE'] = str(disk/'cache')
    with small_disk(disk, size):
        got, sentence = ask(caches.get_all, case.shared['images'])
        wrong = [name for name,value in case.shared['wanted'].items() if got and got[name] != value]
    if wrong: raise Silent(f"other {', '.join(wrong)}")


def full_unpack(case):
    "Unpacking on a disk that fills up: a sentence, and nothing is there"
    disk = case.folder/'disk'
    case.title('unpack on a small disk')
    (case.folder/'x.tar').write_bytes(case.shared['tar'])
    with small_disk(disk, case.rng.choice([100, 900, 1900])):
        result, sentence = ask(archives.unpack, case.folder/'x.tar', disk/'set')
        left = [path.name for path in disk.iterdir()]
        if sentence is None: check_files(case.shared['many'], disk/'set')
        elif left: raise Lost(f'{left} is left behind')


def full_checkpoint(case):
    "A checkpoint and a model on a full disk: the old ones stay whole"
    from imgclf_nb import backbones
    disk = case.folder/'disk'
    case.title('model on a full disk')
    card = weights.make_card()
    with small_disk(disk, 9000):
        run = disk/'run'
        run.mkdir()
        backbones.save_model(run, weights.make_model(1), card)
        before = read_tree(run)
        fill(disk, case.rng.choice([0, 5000, 300_000]))
        result, sentence = ask(backbones.save_model, run, weights.make_model(2), card)
        if sentence is None: raise Silent('a model was written to a full disk')
        after = {name: data for name,data in read_tree(run).items() if not name.startswith('.')}
        difference = find_difference(before, after)
        if difference: raise Lost(difference)


def attack(case):
    "One kill or one full disk"
    kinds = (kill_fetch, kill_unpack, kill_cache, full_records, kill_training, kill_records,
        full_cache, full_unpack, kill_unpack, full_checkpoint)
    case.pick(kinds)(case)


# ---- wrong writers, which must be reported

def write_in_place(shared):
    "A writer that writes slowly into the file itself"
    def bad(path, table):
        with open(path, 'w') as file:
            for line in table.to_csv(index=False).splitlines():
                file.write(f'{line}\n')
                file.flush()
                time.sleep(.002)
    records.write_csv = bad


def unpack_in_place(shared):
    "Unpacks into the folder itself, and takes what is there for the whole"
    def bad(archive, folder, **limits):
        import tarfile, zipfile
        kind = zipfile.ZipFile if str(archive).endswith('zip') else tarfile.open
        with kind(archive) as file: file.extractall(folder)
        return folder
    archives.unpack = bad


def raise_inner(shared):
    "A reader of decisions that lets the library's error through"
    def bad(dataset, paths, *given, **more): raise OSError(errno.ENOSPC, 'No space left on device')
    records.decide = bad


PLANTS = {'lost': write_in_place, 'lost-unpack': unpack_in_place, 'traceback': raise_inner}
