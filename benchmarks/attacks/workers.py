"""A group of attacks in a process of its own, which may hang or die without ending the attack"""
import importlib, json, os, selectors, signal, subprocess, sys, tempfile, threading, time
from pathlib import Path

from attacks.cases import ROOT, judge, make_case, write_line

SCRIPT = Path(__file__).resolve().parent.parent/'attack.py'
GROUPS = ('images', 'archives', 'servers', 'caches', 'weights', 'small_files', 'kills', 'commands',
    'injection')
START = 240  # seconds that the preparation of a group may take


def load(group):
    "The module of a group"
    return importlib.import_module(f'attacks.{group}')


def use_own_folders(folder):
    "Runs, records and caches of this process lie in a folder of the attack"
    for name in ('RUNS', 'RECORDS', 'CACHE'):
        os.environ[f'IMGCLF_{name}'] = str(folder/name.lower())
        (folder/name.lower()).mkdir()


def attack_once(module, group, seed, number, place, shared, report):
    "The row of one case, whose folder is deleted afterwards"
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as folder:
        os.chdir(ROOT)  # where the last case may have left it does not exist any more
        case = make_case(group, seed, number, Path(folder), shared, report)
        began = time.time()
        row = judge(module.attack, case, load_limit(group))
        return row | dict(seconds=round(time.time() - began, 2))


def end_with_parent(parent):
    "End this process and all that it started when the attack was stopped"
    while os.getppid() == parent: time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def work(group, seed, numbers, seconds, out, plant=None):
    "Run these cases until the time is over, one line of JSON for each"
    threading.Thread(target=end_with_parent, args=[os.getppid()], daemon=True).start()
    module = load(group)
    with tempfile.TemporaryDirectory(prefix='attack-', ignore_cleanup_errors=True) as place:
        use_own_folders(Path(place))
        shared = module.prepare(Path(place))
        if plant: module.PLANTS[plant](shared)
        write_line(out, dict(ready=True))
        until = time.time() + seconds
        for number in numbers:
            if time.time() > until: break
            report = lambda row: write_line(out, row)
            write_line(out, attack_once(module, group, seed, number, place, shared, report))
    write_line(out, dict(end=True))


def start(group, seed, first, n, seconds, plant):
    "The process that runs these cases"
    given = json.dumps([group, seed, first, n, seconds, plant])
    args = [sys.executable, str(SCRIPT), '--worker', given]
    return subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        start_new_session=True, cwd=ROOT)


def kill(process):
    "End a process and all that it started"
    try: os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError: pass  # it has ended
    process.wait()


def read_rows(process, limit):
    "Yield what the process writes; None where nothing comes for `limit` seconds"
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    buffer, wait = b'', START
    while True:
        if not selector.select(wait): yield None
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data: return
        *lines, buffer = (buffer + data).split(b'\n')
        yield from (json.loads(line) for line in lines)
        wait = limit


def watch(process, limit, report):
    "`(finished rows, the case that hung or died or None, whether it was ready)`"
    rows, current, ready = [], None, False
    for row in read_rows(process, limit):
        if row is None or row.get('end'): break
        ready = ready or 'ready' in row
        if 'outcome' in row:
            rows.append(row)
            report(row)
            current = dict(number=row['number'] + 1, name='?')
        elif 'name' in row: current = row
    ended = row is not None and row.get('end')
    return rows, None if ended else current or dict(number=0, name='preparation'), ready


def describe_end(process, limit):
    "How a process ended that did not finish its cases"
    if process.poll() is None: return f'it hung for more than {limit} s'
    return f'the process ended with code {process.returncode}'


def run_group(group, seed, first, n, seconds, plant=None, report=print):
    "The rows of a group; its process starts again after a case that hung or died"
    limit = load_limit(group)
    rows, until, last = [], time.time() + seconds, first + n
    while first < last and time.time() < until:
        process = start(group, seed, first, last - first, until - time.time(), plant)
        try: more, stuck, ready = watch(process, limit + 20, report)
        finally: reason = kill_and_describe(process, limit)
        rows += more
        if stuck is None: break
        number = max(first, stuck['number'])
        rows.append(dict(number=number, name=stuck['name'], tried=1, outcome='traceback',
            reason=reason, seconds=limit))
        report(rows[-1])
        if not ready: break
        first = number + 1
    return [dict(group=group, **row) for row in rows]


def kill_and_describe(process, limit):
    "End the process; how it ended before"
    try: process.wait(1)
    except subprocess.TimeoutExpired: pass  # it hangs, or ends only now
    reason = describe_end(process, limit)
    kill(process)
    return reason


LIMITS = dict(small_files=20, weights=30, images=150, kills=150, commands=150, injection=150)

def load_limit(group):
    "Seconds that a case may take, where Python can stop it; its process has 20 more"
    return LIMITS.get(group, 60)
