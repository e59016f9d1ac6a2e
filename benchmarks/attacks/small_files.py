"""Damaged JSON, CSV and text files of runs and records: a sentence, and nothing is deleted"""
import json, os, shutil
from pathlib import Path

from imgclf_nb import backbones, comparison, fetching
from imgclf_nb.base import runs
from imgclf_nb.core import UserError
from imgclf_nb.data import get_items
from imgclf_nb.datasets import records
from imgclf_nb.datasets.cards import open_set
from imgclf_nb.datasets.sources import Source
from imgclf_nb.results import artifacts, leaderboard, manifest, metrics, paired_predictions
from imgclf_nb.training import run_items
from attacks.cases import Lost, Shown, ask
from attacks.finished import DATASET, copy_places, make_run
from attacks.mutants import mutate

PLANTED = 80
SOURCE = Source('https', 'https://example.com/pets.zip')
RECORD = dict(kind='https', address=SOURCE.address, asked=None, revision=None, sha256='0'*64,
    fetched='2026-01-01T00:00:00+00:00', files=3, bytes=999)
GENERATED = ('.ipynb', '.png', '.safetensors', '.lock', '.md')


def prepare(folder):
    "A run, a second one with another seed, and records of a fetched set"
    first = make_run()
    second = first.with_name('second')
    shutil.copytree(first, second)
    record = json.loads((second/'run.json').read_text())
    record['parameters']['seed'] = record['seed'] = 1
    record['run'] = 'second'
    (second/'run.json').write_text(json.dumps(record))
    pets = folder/'records'/'pets'
    pets.mkdir(parents=True)
    (pets/'source.json').write_text(json.dumps(RECORD))
    (folder/'pets').mkdir()
    return dict(place=folder)


# ---- what users do with these files

def read_record(place): return runs.Run(place/'runs'/'first').record, repr(runs.open_run('first'))


def resume(place):
    "04 once more with the same parameters"
    record = json.loads((place/'kept.json').read_text())
    with_lock = runs.get_run('04_train', record['parameters'], free=('epochs',))
    with_lock.close()


def read_splits(place):
    "The images of the run with its split, as 05 needs them"
    run = runs.open_run('first')
    return run_items.get_run_items(run, manifest.open_run_set(run))


def read_set(place): return manifest.open_run_set(runs.open_run('first'))


def read_manifest(place): return manifest.read_run_manifest(runs.open_run('first'))


def check_images(place):
    run = runs.open_run('first')
    manifest.check_run_images(run, get_items(DATASET), open_set(DATASET))


def take_images(place):
    return manifest.take_run_images(runs.open_run('first'), get_items(DATASET))


def read_predictions(place): return artifacts.read_predictions(runs.open_run('first'))


def compare(place): return comparison.compare_many(['first', 'second'], draws=100)


def compare_test(place):
    return comparison.compare_many(['second', 'first'], split='test', draws=100)


def rank(place):
    board = leaderboard.get_leaderboard(place/'runs')
    return leaderboard.format_leaderboard(board)


def show_headline(place):
    run = runs.open_run('first')
    return metrics.get_headline(run), metrics.get_locations(run)


def load(place): return backbones.load_model(place/'runs'/'first')


def find(place): return paired_predictions.find_runs('f*'), paired_predictions.find_runs('second')


def list_images(place): return get_items(DATASET, cache=True)


def list_other(place): return get_items('instruments_mini')


def read_decisions(place): return records.read_decisions(DATASET)


def read_ledger(place): return records.read_ledger(DATASET)


def fetch_again(place): return fetching.fetch(SOURCE, place/'pets')


READERS = (read_record, read_set, read_manifest, check_images, take_images, read_predictions, compare,
    compare_test, rank, show_headline, load, find, list_images, read_decisions, read_ledger,
    fetch_again, read_splits)


def add_decision(place):
    "One more decision"
    items = place/'items.txt'
    return records.decide(DATASET, items.read_text().split('\n')[5], 'keep', reason='new')


def add_opening(place):
    "One more opening of the test set"
    test = get_items(DATASET, decisions=False)[:20]
    return records.log_opening(DATASET, 'third', test)


def update_run(place): runs.Run(place/'runs'/'second').update(notes='new')


WRITERS = {'decisions.csv': add_decision, 'ledger.csv': add_opening, 'run.json': update_run}
WANTED = {  # what uses a file; all others use it too, if no reader is named
    'run.json': (read_record, compare, rank, show_headline, read_set, find, resume),
    'model.json': (load, rank), 'predictions.csv': (read_predictions, compare, compare_test, rank),
    'history.csv': (rank, show_headline), 'manifest.csv': (read_manifest, check_images, take_images),
    'source.json': (fetch_again,), 'ledger.csv': (read_ledger, add_opening),
    'decisions.csv': (read_decisions, list_images, read_set, list_other),
    'place.txt': (list_other, list_images)}


# ---- damage

VALUES = (None, True, 0, -1, 1e308, '', 'x', [], {}, [[]], [{}], 'NaN', '\x00', 10**30)

def change_value(rng, data):
    "One value of the JSON has another type, somewhere inside"
    tree = json.loads(data)
    place = tree
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys)
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < .6: place = inner
        else: break
    place[key] = rng.choice([o for o in VALUES if type(o) is not type(inner)])
    return json.dumps(tree).encode()


def drop_key(rng, data):
    "One key is missing"
    tree = json.loads(data)
    if not isinstance(tree, dict) or not tree: return b'{}'
    del tree[rng.choice(list(tree))]
    return json.dumps(tree).encode()


def other_json(rng, data):
    "Valid JSON of another kind"
    return rng.choice([b'[]', b'"x"', b'1', b'null', b'true', b'{}', b'[{}]', b'NaN', b'[' * 3000])


def add_bytes(rng, data):
    "Bytes that are not UTF-8"
    at = rng.randrange(len(data))
    return data[:at] + rng.choice([b'\xff', b'\xe9', b'\0', b'\xed\xa0\x80']) + data[at:]


def drop_column(rng, data):
    "One column of a CSV is missing"
    lines = [line.split(b',') for line in data.split(b'\n')]
    at = rng.randrange(len(lines[0]))
    return b'\n'.join(b','.join(line[:at] + line[at+1:]) for line in lines)


def rename_column(rng, data):
    "One column of a CSV has another name"
    head, _, rest = data.partition(b'\n')
    names = head.split(b',')
    names[rng.randrange(len(names))] = rng.choice([b'x', b'', names[0], b'"'])
    return b','.join(names) + b'\n' + rest


def change_cell(rng, data):
    "One cell of a CSV holds something else"
    lines = [line.split(b',') for line in data.split(b'\n')]
    line = rng.choice([o for o in lines[1:] if len(o) > 1] or lines)
    line[rng.randrange(len(line))] = rng.choice([b'', b'x', b'-1', b'inf', b'nan', b'"', b'1e999'])
    return b'\n'.join(b','.join(line) for line in lines)


def add_cells(rng, data):
    "One line of a CSV has more cells"
    lines = data.split(b'\n')
    at = rng.randrange(len(lines))
    lines[at] += b',1,2,3'
    return b'\n'.join(lines)


def keep_header(rng, data): return data.split(b'\n')[0] + b'\n'


def add_mark(rng, data):
    "A byte order mark, as Windows writes it"
    return b'\xef\xbb\xbf' + data


def in_utf16(rng, data): return data.decode('utf-8', 'replace').encode('utf-16')


def with_semicolons(rng, data): return data.replace(b',', b';')


BYTES = (add_bytes, add_mark, in_utf16)
JSON = (change_value, change_value, change_value, drop_key, drop_key, other_json)
CSV = (drop_column, rename_column, change_cell, add_cells, keep_header, with_semicolons)


def become_folder(path):
    "A folder in the place of the file"
    path.unlink()
    path.mkdir()


def become_loop(path):
    "A link to itself"
    path.unlink()
    path.symlink_to(path.name)


def become_pipe(path):
    "A named pipe, which nobody writes"
    path.unlink()
    os.mkfifo(path)


def vanish(path): path.unlink()


def become_dangling(path):
    "A link to a missing file"
    path.unlink()
    path.symlink_to('missing')


PLACES = (become_folder, become_loop, become_pipe, vanish, become_dangling)


def damage(rng, path):
    "Damage a file in one of these ways; the name of the way"
    data = path.read_bytes()
    if rng.random() < .12:
        how = rng.choice(PLACES)
        how(path)
        return how.__name__
    if rng.random() < .35: name, data = mutate(rng, data)
    else:
        kinds = JSON if path.suffix == '.json' else CSV if path.suffix == '.csv' else ()
        how = rng.choice(kinds + BYTES)
        name, data = how.__name__, how(rng, data)
    path.write_bytes(data)
    return name


# ---- the attack

def list_small(place):
    "The small files, by path, in order"
    found = [path for path in place.rglob('*') if path.is_file() or path.is_symlink()]
    return sorted(path for path in found if path.suffix in ('.json', '.csv', '.txt')
        and not path.name.startswith('.') and path.name not in ('kept.json', 'items.txt'))


def take_state(place):
    "What must not change: kind and content of all files of runs and records"
    state = {}
    for path in sorted(place.rglob('*')):
        if path.name.startswith('.') or path.suffix in ('.lock', '.ipynb'): continue
        kind = 'link' if path.is_symlink() else 'file' if path.is_file() else 'other'
        state[path.relative_to(place)] = path.read_bytes() if kind == 'file' else kind
    return state


def check_state(before, place, written=()):
    "`Lost` if a file is gone or changed; those that may be `written` keep their lines"
    after = take_state(place)
    for name,content in before.items():
        if name not in after: raise Lost(f'{name} is gone')
        if after[name] == content: continue
        if name.parent.name == 'tests': continue  # the list of images of a test set, made again
        if name.name not in written: raise Lost(f'{name} was overwritten')
        check_lines(name, content, after[name])


OPENED = ('ledger.csv', 'run.json')  # comparing test images is an opening, which both count


def check_keys(name, before, after):
    "`Lost` if a key of the old JSON is no longer in the new one"
    gone = set(json.loads(before)) - set(json.loads(after))
    if gone: raise Lost(f'{name} lost {sorted(gone)}')


def get_lines(content):
    "The lines as texts, as they are read: in UTF-8, else as Windows programs write them"
    try: text = content.decode()
    except UnicodeDecodeError: text = content.decode('cp1252', 'replace')
    return [line.strip('\r') for line in text.split('\n')]


def check_lines(name, before, after):
    "`Lost` if a whole line or a key of the old content is no longer in the new one"
    if name.suffix == '.json': return check_keys(name, before, after)
    if name.suffix != '.csv' or not isinstance(before, bytes): return
    old = get_lines(before)[1:-1]
    new = set(get_lines(after))
    gone = [line for line in old if line.count(',') == 3 and line not in new]
    if gone: raise Lost(f'{name} lost {len(gone)} of {len(old)} lines, e.g. {gone[0]!r}')


def use(function, place):
    "Call a function; one that needs longer than ten seconds is told"
    try: return ask(function, place)
    except UserError: raise
    except Exception as error:
        what = f'{function.__name__}: {type(error).__name__}: {error}'
        raise Shown(f'{what} {get_place(error)}') from error


def get_place(error):
    "The last line of ours that an error passed"
    import traceback
    frames = [f for f in traceback.extract_tb(error.__traceback__) if '/imgclf_nb/' in f.filename]
    return f'({Path(frames[-1].filename).name}:{frames[-1].lineno})' if frames else ''


def attack_file(case, place):
    "One damaged file, and all that reads it"
    files = list_small(place)
    names = sorted({path.name for path in files if path.parent.name != 'tests'})
    name = case.rng.choice(names + ['run.json']*4 + ['predictions.csv']*2 + ['tests'])
    path = case.rng.choice([o for o in files if name in (o.name, o.parent.name)])
    case.title(f'{path.relative_to(place)}')
    how = damage(case.rng, path)
    case.title(f'{path.relative_to(place)}: {how}')
    before = take_state(place)
    for reader in WANTED.get(path.name, READERS):
        if reader is not add_opening: use(reader, place)
        if reader is resume: before = take_state(place)
    check_state(before, place, OPENED)
    writer = WRITERS.get(path.name)
    if writer:
        use(writer, place)
        check_state(before, place, (path.name, *OPENED))


# ---- names and folders of runs

ODD_NAMES = ('x'*300, 'a\0b', '', ' ', '.', '..', '...', '~', '-rf', 'a\nb', 'a\x1b[2Jb', '\ud800',
    'CON', 'a/b/c', '../out', 'x'*255, '$(touch x)', '`x`', 'first/', 'first/run.json', '/dev/null', '/proc/1')


def attack_name(case, place):
    "An odd name of a run, or a folder that is none"
    name = case.rng.choice(ODD_NAMES)
    case.title(f'run {name[:40]!r}')
    before = take_state(place/'records')
    os.chdir(case.folder)
    for function in (runs.open_run, runs.get_run_folder, paired_predictions.find_runs):
        use(lambda _, call=function: call(name), place)
    parameters = dict(run=name, dataset=DATASET, seed=0, split_seed=0)
    run = use(lambda _: runs.get_run('04_train', parameters), place)[0]
    if run: run.close()
    check_state(before, place/'records')


PRECIOUS = ('.bashrc.20240101', '.vimrc.1', '.notes.99999999', '.profile.12345.bak', 'thesis.txt',
    '.x.7.ipynb', '.env.2024', '.run.json.999999', '.zshrc.99999999.old')


def attack_folder(case, place):
    "A folder that holds other things is given as a run"
    home = place/'home'
    home.mkdir()
    for name in PRECIOUS: (home/name).write_text('precious')
    kind = case.rng.choice(['plain', 'with run.json', 'with empty run.json', 'twice'])
    case.title(f'a folder of other things, {kind}')
    if kind == 'with run.json': (home/'run.json').write_text('{"name": "of another program"}')
    if kind == 'with empty run.json': (home/'run.json').write_text('')
    parameters = dict(run=str(home), dataset=DATASET, seed=0, split_seed=0)
    for _ in range(2 if kind == 'twice' else 1):
        run = use(lambda _: runs.get_run('04_train', parameters), place)[0]
        if run: run.close()
    own = {'run.json'} if kind in ('plain', 'twice') else set()
    kept = {o.name for o in home.iterdir() if o.name in own or o.read_text() == 'precious'}
    ours = {'.run.json.999999'}  # looks like a file of ours
    gone = sorted(set(PRECIOUS) - kept - ours)
    if gone: raise Lost(f'{gone} deleted')
    if kind == 'with run.json' and 'another program' not in (home/'run.json').read_text():
        raise Lost('run.json of another program was overwritten')


# ---- folders that cannot be used

def attack_place(case, place):
    "The folder of runs, records or caches is a file, a link to nowhere, or missing"
    name = case.rng.choice(['RUNS', 'RECORDS', 'CACHE'])
    kind = case.rng.choice(['a file', 'inside a file', 'dangling', 'missing', 'loop', 'empty name'])
    case.title(f'IMGCLF_{name} is {kind}')
    odd = case.folder/'odd'
    given = {'a file': odd, 'inside a file': odd/'deeper', 'dangling': odd, 'missing': odd/'x'/'y',
        'loop': odd, 'empty name': Path('\n')}[kind]
    if kind in ('a file', 'inside a file'): odd.write_text('x')
    if kind == 'dangling': odd.symlink_to('nowhere/at/all')
    if kind == 'loop': odd.symlink_to('odd')
    before = os.environ[f'IMGCLF_{name}']
    os.environ[f'IMGCLF_{name}'] = str(given)
    os.chdir(case.folder)
    try:
        for reader in (*READERS, add_decision, add_opening, resume): use(reader, place)
    finally: os.environ[f'IMGCLF_{name}'] = before


def attack(case):
    "One damaged file, name or folder, in a copy of runs and records"
    copy_places(case.shared['place'], case.folder)
    place = case.folder
    shutil.copytree(case.shared['place']/'pets', place/'pets')
    shutil.copy(place/'runs'/'first'/'run.json', place/'kept.json')
    (place/'items.txt').write_text('\n'.join(get_items(DATASET, decisions=False).file))
    kinds = (attack_file,)*7 + (attack_name, attack_folder, attack_place)
    case.pick(kinds)(case, place)


# ---- wrong readers, which must be reported

def raise_inner(shared):
    "A reader of run.json without a check"
    def record(self): return json.loads((self.path/'run.json').read_text())
    runs.Run.record = property(record)


def overwrite(shared):
    "A reader that writes a new file in the place of a damaged one"
    real = records.read_decisions
    def bad(dataset):
        try: return real(dataset)
        except UserError:
            records.get_decisions_path(dataset).write_text('path,action,value,reason\n')
            return real(dataset)
    records.read_decisions = bad


PLANTS = {'traceback': raise_inner, 'lost': overwrite}
