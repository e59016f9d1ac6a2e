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

from conftest import REAL  # noqa: F401
from imgclf_nb.auditing.label_errors import recall_suspicious
from imgclf_nb.base.reading import find_fault, is_there
from imgclf_nb.base.run_files import MODEL, RECORD, read_model_record
from imgclf_nb.base.run_names import find_impossible, find_unwise
from imgclf_nb.base.runs import Run, get_run, get_run_folder, make_run_folder, open_run
from imgclf_nb.base.runs import record_refusal
from imgclf_nb.core import DiskError, ParameterError, UserError, get_cache, get_records
from imgclf_nb.core import get_temporary, write_csv, write_json, write_text
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
from imgclf_nb.results.measured import read_measured

SECONDS = 20  # for one reader and one damage: a named pipe must not make it wait


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


@pytest.mark.parametrize('name', FILES)
def test_a_damaged_file_is_told_and_kept(name, tmp_path):
    "One sentence with the path, what is wrong and what to do next; the file stays as it is"
    make, read = FILES[name]
    printed, error = call(lambda: (make(tmp_path), read(tmp_path)))
    assert not error or name == 'begun', error  # the good file is read; that run is done with other parameters
    for number,damage in enumerate(DAMAGES):
        tmp = tmp_path/str(number)
        for part in ('runs', 'records'): (tmp/part).mkdir(parents=True)
        with pytest.MonkeyPatch.context() as context:
            context.setenv('IMGCLF_RUNS', str(tmp/'runs'))
            context.setenv('IMGCLF_RECORDS', str(tmp/'records'))
            path, printed, error, same = try_damage(name, damage, tmp, make, read)
        if (name, damage) in HARMLESS: continue
        assert 'Traceback' not in error, f'{name} {damage}: {error}'
        assert path.name in error and len(error) < 900, f'{name} {damage}: {error!r}'
        assert error.rstrip().endswith('.') and (': ' in error), f'{name} {damage}: {error!r}'
        assert same, f'{name} {damage}: the file was changed'


@pytest.mark.parametrize('name', PASSED_OVER)
def test_a_damaged_file_of_another_is_passed_over(name, tmp_path):
    "A cache, or a record of another set: a line, and the work goes on"
    make, read = PASSED_OVER[name]
    for number,damage in enumerate(DAMAGES):
        tmp = tmp_path/str(number)
        for part in ('records', 'cache'): (tmp/part).mkdir(parents=True)
        with pytest.MonkeyPatch.context() as context:
            context.setenv('IMGCLF_RECORDS', str(tmp/'records'))
            context.setenv('IMGCLF_CACHE', str(tmp/'cache'))
            path, printed, error, _ = try_damage(name, damage, tmp, make, read)
        assert not error, f'{name} {damage}: {error}'
        if (name, damage) in HARMLESS: continue
        assert path.name in printed, f'{name} {damage}: {printed!r}'
