"Every small file that is read back, damaged in every way: a sentence with its path, and nothing lost"
import errno
import io
import json
import os
import shutil
import signal
import traceback
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imgclf_nb.auditing.label_errors import recall_suspicious
from imgclf_nb.base.reading import find_fault, is_there
from imgclf_nb.base.run_files import MODEL, RECORD, read_model_record
from imgclf_nb.base.run_names import find_impossible, find_unwise
from imgclf_nb.base.runs import Run, get_run, get_run_folder, make_run_folder, open_run
from imgclf_nb.base.runs import record_refusal
from imgclf_nb.core import DiskError, ParameterError, UserError, get_cache, get_records
from imgclf_nb.core import get_temporary, write_csv, write_json
from imgclf_nb.datasets.cards import open_set
from imgclf_nb.datasets.miniatures import _put_folder, get_miniature
from imgclf_nb.datasets.records import decide, find_moved_decisions, log_opening, read_decisions
from imgclf_nb.datasets.records import read_ledger
from imgclf_nb.datasets.sources import get_source
from imgclf_nb.fetching import fetch
from imgclf_nb.images.contents import distrust, is_settled
from imgclf_nb.reporting.facts import get_example
from imgclf_nb.reporting.model_card import write_card
from imgclf_nb.results.artifacts import read_history, read_predictions
from imgclf_nb.results.leaderboard import get_leaderboard
from imgclf_nb.results.manifest import read_run_manifest
from imgclf_nb.results.paired_predictions import find_runs, get_unusable_reason
from imgclf_nb.results.measured import read_measured

SECONDS = 120  # for one reader and one damage: a named pipe must not make it wait


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    "Runs, records and cache of one test"
    for name in ('RUNS', 'RECORDS', 'CACHE'):
        monkeypatch.setenv(f'IMGCLF_{name}', str(tmp_path/name.lower()))
        (tmp_path/name.lower()).mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def alarm():
    "An error in place of waiting for ever"
    def ring(*_): raise TimeoutError('it waits for ever')
    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# the files -----------------------------------------------------------------------------

def make_test(n=6):
    "A test split of some images"
    return pd.DataFrame(dict(sha256=[f'{i:064x}' for i in range(n)], label='a'))


def make_set(tmp):
    "A folder of class folders, which need not hold images, and its records"
    root = tmp/'birds'
    (root/'crow').mkdir(parents=True, exist_ok=True)
    return str(root)


def make_run(tmp, name='a'):
    "A finished run with all of its small files"
    folder = tmp/'runs'/name
    folder.mkdir(parents=True, exist_ok=True)
    record, model = get_example()
    write_json(folder/'run.json', record | dict(run=name, status='done', data_hash='1', split_hash='1',
        classes=['no', 'yes'], positive_class='yes', seed=0))
    write_json(folder/'model.json', model | dict(classes=['no', 'yes']))
    p = np.linspace(.1, .9, 12)
    table = pd.DataFrame(dict(path=[f'{i}.png' for i in range(12)], label=['no', 'yes']*6, split='valid',
        predicted=np.where(p > .5, 'yes', 'no'), probability=p, p_no=1 - p, p_yes=p, group=''))
    write_csv(folder/'predictions.csv', table)
    write_csv(folder/'history.csv', pd.DataFrame(dict(epoch=[1], train_loss=[.5], valid_loss=[.4])))
    manifest = dict(path=['a.png'], sha256=['0'], labelled=['1'], split=['train'])
    write_csv(folder/'manifest.csv', pd.DataFrame(manifest))
    return folder


def in_run(name, read):
    "A file of a run and what reads it"
    def make(tmp): return make_run(tmp)/name
    return make, lambda tmp: read(Run(tmp/'runs'/'a'))


def make_ledger(tmp):
    found = open_set(make_set(tmp))
    log_opening(found, 'first', make_test())
    return get_records(found.key)/'ledger.csv'


def make_decisions(tmp):
    found = open_set(make_set(tmp))
    decide(found, 'crow/1.jpg', 'drop')
    return get_records(found.key)/'decisions.csv'


def make_place(tmp):
    return make_decisions(tmp).with_name('place.txt')


def make_contents(tmp):
    [file] = (make_ledger(tmp).parent/'tests').iterdir()
    return file


def make_source(tmp):
    (tmp/'pets').mkdir(exist_ok=True)
    path = get_records('pets')/'source.json'
    path.parent.mkdir(exist_ok=True)
    write_json(path, dict(kind='https', address='https://x.org/a.zip', asked=None, revision=None,
        sha256=None, fetched='2026-11-26T10:00:00'))
    return path


def make_miniature(tmp):
    (tmp/'pc_parts_mini').mkdir(exist_ok=True)
    path = tmp/'pc_parts_mini'/'miniature.json'
    write_json(path, dict(name='pc_parts_mini', version=1, about='drawn by imgclf_nb'))
    return path


def make_measured(tmp):
    path = tmp/'settings.json'
    again = dict(by='x', command='make x', time='1 s')
    write_json(path, dict(title='t', caption='c', again=again, keys=[], columns=[], rows=[]))
    return path


def make_notes(tmp):
    distrust('/a.png')
    return get_cache('facts')/'changed.jsonl'


ITEMS = pd.DataFrame(dict(file=['a'], sha256=['0'], label=['a'], group=[''], copies=[0], sequence=[''], frame=[0]))

def recall(tmp=None):
    return recall_suspicious(ITEMS[:0], lambda: None, 'x')


def make_suspicion(tmp):
    recall()
    [file] = get_cache('suspicion').iterdir()
    return file


def use_birds(f):
    return lambda tmp: f(open_set(make_set(tmp)))


FILES = dict(  # what makes a good file, and what reads it
    run=in_run('run.json', lambda run: run.record['status']),
    opened=in_run('run.json', lambda run: open_run('a').done),
    begun=in_run('run.json', lambda run: get_run('04_train', dict(run='a'))),
    updated=in_run('run.json', lambda run: run.update(seconds=3)),
    model=in_run('model.json', lambda run: read_model_record(run.path)),
    card=in_run('model.json', write_card),
    predictions=in_run('predictions.csv', read_predictions),
    history=in_run('history.csv', read_history),
    manifest=in_run('manifest.csv', read_run_manifest),
    ledger=(make_ledger, use_birds(read_ledger)),
    opening=(make_ledger, use_birds(lambda found: log_opening(found, 'second', make_test()))),
    decisions=(make_decisions, use_birds(read_decisions)),
    decided=(make_decisions, use_birds(lambda found: decide(found, 'crow/2.jpg', 'drop'))),
    source=(make_source, lambda tmp: fetch(get_source('pets', 'https://x.org/a.zip'), tmp/'pets')),
    miniature=(make_miniature, lambda tmp: get_miniature('pc_parts_mini', tmp)),
    measured=(make_measured, lambda tmp: read_measured('settings', tmp)))
PASSED_OVER = dict(  # a damage is told in a line, and the work goes on
    place=(make_place, lambda tmp: find_moved_decisions(open_set(make_set(tmp)), ['x'])),
    contents=(make_contents, use_birds(lambda found: log_opening(found, 'second', make_test(5)))),
    others=(make_ledger, lambda tmp: log_opening('pc_parts_mini', 'run', make_test())),
    notes=(make_notes, lambda tmp: is_settled(pd.DataFrame(dict(path=['/b.png'], mtime=0, ctime=0, seen=10**18)))),
    suspicion=(make_suspicion, recall))


# the damages ---------------------------------------------------------------------------

def replace(path, data):
    path.unlink()
    path.write_bytes(data)


def put_folder(path):
    path.unlink()
    path.mkdir()


def put_pipe(path):
    path.unlink()
    os.mkfifo(path)


def put_link(path):
    path.unlink()
    path.symlink_to('nothing_here')


def put_circle(path):
    path.unlink()
    path.symlink_to(path)


DAMAGES = dict(
    half=lambda path: replace(path, path.read_bytes().rstrip()[:-2]),
    latin=lambda path: replace(path, path.read_bytes()[:-3] + b'\xe9' + path.read_bytes()[-3:]),
    nul=lambda path: replace(path, path.read_bytes() + b'\0'*50),
    zeros=lambda path: replace(path, b'\0'*path.stat().st_size),
    empty=lambda path: replace(path, b''), blank=lambda path: replace(path, b' \n \n'),
    list=lambda path: replace(path, b'[]\n'), null=lambda path: replace(path, b'null\n'),
    number=lambda path: replace(path, b'3\n'), text=lambda path: replace(path, b'"run"\n'),
    nan=lambda path: replace(path, b'{"seed": NaN}\n'), much=lambda path: replace(path, b'{"seed": 1e999}\n'),
    digits=lambda path: replace(path, b'{"seed": ' + b'9'*5000 + b'}\n'),
    deep=lambda path: replace(path, b'['*10_000 + b'\n'),
    nested=lambda path: replace(path, b'{"a": '*900 + b'1' + b'}'*900 + b'\n'),
    image=lambda path: replace(path, b'\x89PNG\r\n\x1a\n' + bytes(range(256))),
    page=lambda path: replace(path, b'<!doctype html><html>not found</html>\n'),
    folder=put_folder, pipe=put_pipe, link=put_link, circle=put_circle)
HARMLESS = {  # what these damages leave is content that the file may have
    ('decisions', 'half'), ('decided', 'half'),  # a table written by hand may end without a line break
    ('contents', 'half'),
    ('measured', 'link'), ('measured', 'circle')}  # there is no table, and the others are named
HARMLESS |= {(name, 'half') for name in ('place',)}


def get_state(path):
    "What lies under a name, without reading a pipe"
    if path.is_symlink(): return os.readlink(path)
    if not path.is_file(): return path.stat().st_mode if path.exists() else None
    return path.read_bytes()


def call(f, *args):
    "What a call prints, and the error's message: of a `UserError`, or a traceback"
    signal.alarm(SECONDS)
    said = io.StringIO()
    try:
        with redirect_stdout(said): f(*args)
    except UserError as error: return said.getvalue(), str(error)
    except BaseException: return said.getvalue(), traceback.format_exc()
    finally: signal.alarm(0)
    return said.getvalue(), ''


def try_damage(name, damage, tmp, make, read):
    "Damage a file and read it: `(path, printed, error, whether the file is as before)`"
    path = make(tmp)
    DAMAGES[damage](path)
    before = get_state(path)
    printed, error = call(read, tmp)
    same = before == get_state(path)
    if path.is_dir() and not path.is_symlink(): shutil.rmtree(path)
    elif is_there(path): path.unlink()
    return path, printed, error, same


def try_damages(name, folder, make, read, *parts):
    "Yield each damage with what comes of it, in new folders for these parts of a project"
    for number,damage in enumerate(DAMAGES):
        tmp = folder/str(number)
        with pytest.MonkeyPatch.context() as context:
            for part in parts:
                (tmp/part).mkdir(parents=True)
                context.setenv(f'IMGCLF_{part.upper()}', str(tmp/part))
            yield damage, try_damage(name, damage, tmp, make, read)


@pytest.mark.parametrize('name', FILES)
def test_a_damaged_file_is_told_and_kept(name, tmp_path):
    "One sentence with the path, what is wrong and what to do next; the file stays as it is"
    make, read = FILES[name]
    printed, error = call(lambda: (make(tmp_path), read(tmp_path)))
    assert not error or name == 'begun', error  # the good file is read; that run is done with other parameters
    for damage,(path, printed, error, same) in try_damages(name, tmp_path, make, read, 'runs', 'records'):
        if (name, damage) in HARMLESS: continue
        assert 'Traceback' not in error, f'{name} {damage}: {error}'
        assert path.name in error and len(error) < 900, f'{name} {damage}: {error!r}'
        assert error.rstrip().endswith('.') and (': ' in error), f'{name} {damage}: {error!r}'
        assert same, f'{name} {damage}: the file was changed'


@pytest.mark.parametrize('name', PASSED_OVER)
def test_a_damaged_file_of_another_is_passed_over(name, tmp_path):
    "A cache, or a record of another set: a line, and the work goes on"
    make, read = PASSED_OVER[name]
    for damage,(path, printed, error, _) in try_damages(name, tmp_path, make, read, 'records', 'cache'):
        assert not error, f'{name} {damage}: {error}'
        if (name, damage) in HARMLESS: continue
        assert path.name in printed, f'{name} {damage}: {printed!r}'


def test_one_damaged_run_does_not_hide_the_others(tmp_path):
    "The leaderboard names it; so does a misspelt name of a run"
    for name in ('a', 'b'): make_run(tmp_path, name)
    for damage in DAMAGES:
        make_run(tmp_path, 'b')
        DAMAGES[damage](tmp_path/'runs'/'b'/'run.json')
        said, error = call(lambda: print(*get_leaderboard().attrs['left_out'], sep='\n'))
        assert not error and 'b:' in said, f'{damage}: {said} {error}'
        with pytest.raises(UserError, match='Did you mean'): open_run('aa')
        shutil.rmtree(tmp_path/'runs'/'b')


# schemas -------------------------------------------------------------------------------

STRANGE = [None, [], {}, '', 'x', 3, -1.5, True, [3], ['x'], [[]], {'x': 3}, {'value': 'x'}, {'value': {}}]

def read_all(run):
    "What chapters and commands do with a record, without a model"
    write_card(run)
    get_leaderboard()
    get_unusable_reason(run)
    get_run('04_train', dict(run=run.path.name, dataset='chest_xray'))


@pytest.mark.parametrize('file, read', [('run.json', read_all), ('model.json', write_card)])
def test_an_entry_of_another_type(file, read, tmp_path):
    "A sentence or a result: never a traceback"
    folder = make_run(tmp_path)
    good = json.loads((folder/file).read_text())
    lost = []
    for key in good:
        for value in STRANGE:
            write_json(folder/file, good | {key: value})
            _, error = call(read, Run(folder))
            if 'Traceback' in error: lost.append((key, value, error.splitlines()[-1]))
        write_json(folder/file, {name: o for name,o in good.items() if name != key})
        _, error = call(read, Run(folder))
        if 'Traceback' in error: lost.append((key, 'missing', error.splitlines()[-1]))
    assert not lost


def test_a_schema_names_the_part():
    assert 'split_sizes.train' in find_fault(dict(split_sizes=dict(train='x')), RECORD)
    assert 'preprocessing.size' in find_fault(dict(arch='a', classes=[], preprocessing=dict(size='x')), MODEL)
    assert not find_fault(get_example()[0], RECORD) and not find_fault(get_example()[1], MODEL)


# names ---------------------------------------------------------------------------------

BAD = ['', ' ', '.', '..', '...', 'a\0b', 'a\nb', 'a\tb', '\x1b[31m', 'a\u2028b', 'a\x9fb', 'caf\udce9',
    300*'x', 250*'x', 128*'é', '-x', '--help', '~', '~root', 'a.', 'a ', ' a', 'NUL', 'con', 'aux.txt',
    'LPT1', 'a*', 'a?b', 'a\\b', 'C:\\runs\\a', 'a\u202eb', '/', '/etc/..', 300*'d' + '/a', 'a/' + 300*'b',
    'a/\0', 'a/nul', '~no-such-user/a', '/dev/null/a', '/proc/a', 'x/' * 3000 + 'x']

@pytest.mark.parametrize('name', BAD, ids=range(len(BAD)))
def test_a_run_cannot_have_this_name(name, tmp_path, monkeypatch):
    "A sentence wherever a name is given; nothing is made, and a refusal is still told"
    (tmp_path/'work').mkdir()
    monkeypatch.chdir(tmp_path/'work')
    if name:
        _, error = call(get_run, '04_train', dict(run=name, dataset='x'))
        assert error and 'Traceback' not in error, error
    for read in (open_run, find_runs):
        _, error = call(read, name)
        assert error and 'Traceback' not in error, error
    if name: assert 'Traceback' not in call(record_refusal, '04_train', dict(run=name), ParameterError('no', 'size'))[1]
    assert not list((tmp_path/'work').iterdir()) and not list((tmp_path/'runs').iterdir())


GOOD = ['chest', '2026_01_09', 'a.b', 'été', '猫と犬', 'a b', "it's", 'a,b', '$(touch x)', '[1]', 200*'x', '.hidden', '%s', '<b>']

@pytest.mark.parametrize('name', GOOD, ids=range(len(GOOD)))
def test_a_run_can_have_this_name(name, tmp_path):
    run = get_run('04_train', dict(run=name, dataset='x'))
    run.finish()
    assert run.path.parent == tmp_path/'runs' and open_run(name).done and len(find_runs(name)) == 1
    assert not find_impossible(name) and not find_unwise(name)


def test_accents_do_not_make_another_run(tmp_path):
    get_run('04_train', dict(run='e\u0301te', dataset='x')).finish()
    assert open_run('\xe9te').done and get_run('04_train', dict(run='\xe9te', dataset='x')).done


def test_a_run_without_a_name_has_a_short_one(tmp_path):
    for dataset in (300*'é', '/data/' + 255*'x', '-x', 'a\nb', 'nul', '...'):
        run = get_run('04_train', dict(dataset=dataset, arch='hf-hub:' + 200*'a/'))
        run.close()
        assert run.path.is_dir() and len(run.path.name.encode()) <= 200


# folders of others ---------------------------------------------------------------------

OTHERS = {
    'home': ['.bashrc', '.bashrc.20240101', 'letter.txt'], 'photos': ['IMG_1.jpg', '.IMG_1.jpg.20240101'],
    'notebooks': ['analysis.ipynb'], 'code': ['setup.py', 'README.md'], 'model': ['model.json', 'history.csv'],
    'decisions': ['decisions.csv'], 'nbs': ['04_train.ipynb', '_quarto.yml'], 'git': ['.git'],
    'another': ['run.json']}

@pytest.mark.parametrize('kind', OTHERS)
def test_a_folder_of_others_is_no_run(kind, tmp_path):
    "It is refused with the names of its files, and nothing in it changes"
    folder = tmp_path/kind
    folder.mkdir()
    for name in OTHERS[kind]: (folder/name).write_text('{"id": 7}')
    before = get_tree(folder)
    for start in (lambda: get_run('04_train', dict(run=str(folder), dataset='x')), lambda: make_run_folder(folder)):
        with pytest.raises(UserError, match='holds other files than a run'): start()
    record_refusal('04_train', dict(run=str(folder)), ParameterError('no', 'size'))
    (tmp_path/'runs'/'linked').symlink_to(folder)
    with pytest.raises(UserError, match='holds other files'): get_run('04_train', dict(run='linked', dataset='x'))
    assert get_tree(folder) == before


def get_tree(folder):
    "All that lies in a folder, with times"
    return {path.name: (path.lstat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_leftovers_of_others_survive_in_a_run(tmp_path):
    "Only unfinished files of ours are deleted, and only of processes that have ended"
    run = get_run('04_train', dict(run='a', dataset='x'))
    run.close()
    kept = ['.bashrc.20240101', '.notes.999999999', '.IMG.20240101.jpg', '.env.99999999.txt',
        get_temporary('notes.json').name]
    ours = ['.run.json.imgclf-999999999', '.run.json.999999999', '.index.imgclf-999999999.npy',
        '.model.safetensors.999999999']
    for name in (*kept, *ours): (run.path/name).write_text('x')
    (run.path/'.folder.imgclf-999999999').mkdir()
    get_run('04_train', dict(run='a', dataset='x')).close()
    left = {path.name for path in run.path.iterdir()}
    assert left == {*kept, '.folder.imgclf-999999999', '.lock', 'run.json'}


def test_a_linked_run(tmp_path):
    "A link to a run is that run; a run.json that is a link is read, and never written through"
    get_run('04_train', dict(run='a', dataset='x')).finish()
    (tmp_path/'runs'/'best').symlink_to('a')
    assert open_run('best').done and get_run('04_train', dict(run='best', dataset='x')).done
    shutil.move(tmp_path/'runs'/'a'/'run.json', tmp_path/'kept.json')
    (tmp_path/'runs'/'a'/'run.json').symlink_to(tmp_path/'kept.json')
    before = (tmp_path/'kept.json').read_bytes()
    Run(tmp_path/'runs'/'a').update(seconds=7)
    assert (tmp_path/'kept.json').read_bytes() == before and open_run('a').record['seconds'] == 7
    (tmp_path/'runs'/'gone').symlink_to('nowhere')
    with pytest.raises(UserError, match='a link to nowhere'): get_run('04_train', dict(run='gone', dataset='x'))


def test_an_older_miniature_is_kept(tmp_path):
    "Somebody may have added images to it; a folder of others with a miniature.json stays as it is"
    path = make_miniature(tmp_path)
    write_json(path, dict(name='pc_parts_mini', version=0, about='drawn by imgclf_nb'))
    (path.parent/'mine.jpg').write_text('x')
    new = tmp_path/'new'
    new.mkdir()
    with redirect_stdout(io.StringIO()) as said: _put_folder(new, path.parent)
    [kept] = tmp_path.glob('pc_parts_mini-version-0-*')
    assert (kept/'mine.jpg').exists() and str(kept) in said.getvalue() and path.parent.is_dir()
    write_json(path, dict(name='x', version=1, about='a folder of mine'))
    new.mkdir()
    with pytest.raises(UserError, match='is not a miniature of this project'): _put_folder(new, path.parent)
    assert path.exists()


# disks ---------------------------------------------------------------------------------

def break_disk(monkeypatch, number):
    "Every file that is written fails with this error at its end"
    def fail(*_): raise OSError(number, os.strerror(number))
    monkeypatch.setattr(os, 'fsync', fail)


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_takes_no_more(number, tmp_path, monkeypatch):
    "Runs and records stop with a sentence and keep what they had; a cache goes on without, told once"
    folder, found = make_run(tmp_path), open_set(make_set(tmp_path))
    decide(found, 'a', 'drop')
    log_opening(found, 'first', make_test())
    kept = [folder/'run.json', *get_records(found.key).glob('*.csv'), *get_records(found.key).glob('tests/*')]
    before = [path.read_bytes() for path in kept]
    run = get_run('04_train', dict(run='b', dataset='x'))
    break_disk(monkeypatch, number)
    writes = [lambda: Run(folder).update(seconds=1), lambda: decide(found, 'b', 'drop'), run.finish,
        lambda: log_opening(found, 'second', make_test()), lambda: write_csv(tmp_path/'a.csv', ITEMS),
        lambda: get_run('04_train', dict(run='c', dataset='x'))]
    for write in writes:
        with pytest.raises(DiskError, match='cannot be written') as error: write()
        assert str(error.value).endswith('.') and error.value.errno == number
    said, error = call(run.fail, ValueError('x'))
    assert 'is not recorded' in said and not error and run.lock is None
    said, error = call(lambda: (recall(), recall()))
    assert not error and said.count('cannot be written') == 1
    assert [path.read_bytes() for path in kept] == before
    assert not [path for path in tmp_path.rglob('.*.imgclf-*')]


def as_nobody(f):
    "What a call prints and raises as a user who may read and write nothing; by a fork, if we are root"
    if os.geteuid(): return ''.join(call(f))
    reading, writing = os.pipe()
    if not os.fork():
        os.setuid(65534)
        os.write(writing, ''.join(call(f)).encode()[:60_000])
        os._exit(0)
    os.wait()
    os.close(writing)
    with open(reading, errors='replace') as said: return said.read()


def test_what_may_not_be_read_or_written(tmp_path, monkeypatch):
    "Another user's runs and records: a sentence; another user's cache: a line"
    found = open_set(make_set(tmp_path))
    decide(found, 'a', 'drop')
    log_opening(found, 'first', make_test())
    folder = make_run(tmp_path)
    recall()
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path('/tmp'): path.chmod(path.stat().st_mode | 0o555)
    for path in ('runs', 'records', 'cache'): (tmp_path/path).chmod(0)
    calls = dict(run=lambda: Run(folder).record, opened=lambda: open_run('a').done, board=get_leaderboard,
        begun=lambda: get_run('04_train', dict(run='b', dataset='x')), decisions=lambda: read_decisions(found),
        decided=lambda: decide(found, 'b', 'drop'), ledger=lambda: read_ledger(found),
        opening=lambda: log_opening(found, 'second', make_test()))
    try:
        said = {name: as_nobody(f) for name,f in calls.items()}
        cached = as_nobody(lambda: (recall(), recall()))
        for path in ('runs', 'records', 'cache'): (tmp_path/path).chmod(0o555)
        said |= {f'{name} read-only': as_nobody(calls[name]) for name in ('begun', 'decided', 'opening')}
        for path in (tmp_path/'records').rglob('*'): path.chmod(0o555 if path.is_dir() else 0o444)
        said |= {f'{name} kept': as_nobody(calls[name]) for name in ('decided', 'opening')}
    finally:
        for path in ('runs', 'records', 'cache'): (tmp_path/path).chmod(0o755)
    wrong = {name: text for name,text in said.items() if 'Traceback' in text or 'cannot be' not in text.lower() and 'Cannot' not in text}
    assert not wrong
    assert cached.count('cannot be used') == 1 and 'Traceback' not in cached


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path/'file').write_text('here')
    monkeypatch.setenv('IMGCLF_CACHE', str(tmp_path/'file'))
    said, error = call(lambda: (recall(), recall()))
    assert not error and said.count('cannot be used') == 1 and (tmp_path/'file').read_text() == 'here'


def test_a_study_lists_the_models_that_it_left_out(places):
    "The run.json of a model study is read again, as it always was; its card does not take the list for a number"
    folder = places/'runs'/'study'
    folder.mkdir()
    for left_out in ([], [dict(arch='vit_huge', error='no weights')], 3):
        write_json(folder/'run.json', dict(run='study', status='done', notebook='07b_model_study', left_out=left_out))
        assert Run(folder).record['left_out'] == left_out
