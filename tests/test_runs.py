"What needs more than one process: papermill in a terminal, a killed run, two processes on a run"
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import ROOT, command, get_kernel, get_startup, start_script
from imgclf_nb.base.kernels import can_fork
from imgclf_nb.base.parameters import check_parameters
from imgclf_nb.base.running import run_notebook
from imgclf_nb.base.runs import get_run
from imgclf_nb.commands import _is_same
from imgclf_nb.core import ParameterError, UserError, write_json

pytestmark = pytest.mark.xdist_group('runs')  # one worker makes what they share

FILES = {'run.json', '04_train.ipynb', '05_evaluation.ipynb', 'model.safetensors', 'model.json',
    'predictions.csv', 'history.csv', 'figures/confusion.png'}
KEYS = '''run notebook dataset parameters status error started seconds seed split_seed data_hash
    split_hash git_commit environment split_sizes unreadable classes positive_class metrics
    test_opened resumed cost'''.split()
COSTS = {'train_seconds', 'images_per_second', 'parameters', 'macs', 'peak_memory_mb'}


def read(folder):
    "A run's run.json"
    return json.loads((folder/'run.json').read_text())


def get_times(folder):
    "When each file of a run was changed"
    files = [path for path in folder.rglob('*') if path.is_file() and path.name != '.lock']
    return {path: path.stat().st_mtime_ns for path in files}


def papermill(out, *args, cwd=ROOT, **env):
    "04 by papermill, as a user starts it"
    nb = 'nbs/04_train.ipynb' if cwd == ROOT else '04_train.ipynb'
    return command('papermill', nb, out, *args, cwd=cwd, **env)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A miniature, trained and evaluated by the command that make uses"
    d = tmp_path_factory.mktemp('runs')/'mini'
    rc, out = command('imgclf_run', 'pc_parts_mini', '--run', d)
    assert rc == 0, out
    return d, out


def test_run_folder_is_complete(trained):
    d, out = trained
    r = read(d)
    names = {p.relative_to(d).as_posix() for p in d.rglob('*') if not p.name.startswith('.')}
    assert FILES <= names and set(KEYS) <= set(r)
    assert r['status'] == 'done' and r['error'] is None and r['test_opened'] == 1
    for split in ('valid', 'test'):
        m = r['metrics'][split]['accuracy']
        assert 0 <= m['low'] <= m['value'] <= m['high'] <= 1
        headline = f"{m['value']:.3f} ({m['low']:.3f}–{m['high']:.3f})"
        assert headline in out
    assert COSTS <= set(r['cost'])
    assert not list(d.rglob('*.pkl'))


def test_a_done_run_is_returned_immediately(trained):
    d, _ = trained
    before = (d/'model.safetensors').stat().st_mtime_ns
    rc, out = command('imgclf_run', 'pc_parts_mini', '--run', d)
    assert rc == 0 and 'epoch 1/1' in trained[1] and 'epoch' not in out, out
    assert (d/'model.safetensors').stat().st_mtime_ns == before and read(d)['test_opened'] == 1


def test_a_done_run_with_other_parameters_is_not_returned(trained):
    "Also where the difference is a default that was left out, as with a run of another model"
    d, _ = trained
    r, given = read(d), dict(dataset='pc_parts_mini')
    other_arch = {**r, 'parameters': {**r['parameters'], 'arch': 'resnet18'}}
    assert _is_same(r, given) and not _is_same(r, {**given, 'epochs': 7})
    assert not _is_same(other_arch, given)
    assert not _is_same({**r, 'data_hash': 'other'}, given)
    assert not _is_same({**r, 'decisions': {**r['decisions'], 'sha256': 'other'}}, given)
    rc, out = command('imgclf_run', 'pc_parts_mini', '-p', 'run', d, '-p', 'epochs', '7')
    assert rc != 0 and 'epochs was 1 and is now 7' in out and 'Traceback' not in out


def test_papermill_on_a_done_run_shows_it_again(trained, tmp_path):
    d, _ = trained
    before = (d/'model.safetensors').stat().st_mtime_ns
    rc, out = papermill(tmp_path/'again.ipynb', '-p', 'run', d)
    assert rc == 0 and (d/'model.safetensors').stat().st_mtime_ns == before, out


def test_other_parameters_are_refused_and_nothing_is_lost(trained, tmp_path):
    d, _ = trained
    before = get_times(d)
    rc, out = papermill(tmp_path/'other.ipynb', '-p', 'run', d, '-p', 'epochs', '2')
    assert rc != 0 and 'epochs was 1 and is now 2' in out
    rc, out = papermill(tmp_path/'bad.ipynb', '-p', 'run', d, '-p', 'epochs', 'three')
    assert rc != 0 and "epochs = 'three' is not allowed" in out
    assert before == get_times(d)


REFUSED = [
    ('epoch', '3', 'Did you mean epochs?'),
    ('class_weights', 'false', 'True or False'),
    ('lr', '7', 'from 1e-07 to 1'),
    ('arch', 'resnet81', 'resnet18'),
    ('policy', 'hard', 'strong'),
    ('dataset', 'chest_xrays', 'chest_xray'),
    ('weights', 'nowhere.pth', "'auto' or 'none'")]

@pytest.mark.parametrize('name, value, says', REFUSED)
def test_a_wrong_parameter_stops_the_run_with_a_sentence(name, value, says, tmp_path):
    "Exit code not zero, the sentence on the screen, and the parameter's name in run.json"
    rc, out = papermill(tmp_path/'x.ipynb', '-p', 'run', tmp_path/'run', '-p', name, value)
    assert rc != 0
    r = read(tmp_path/'run')
    assert r['status'] == 'failed' and r['error']['parameter'] == name
    assert says in r['error']['message'] and r['error']['message'] in out


def test_a_corrected_parameter_may_use_the_same_run(tmp_path):
    "A run that was refused never began: the name is free"
    ns = dict(__annotations__=dict(size=int, run=str), size='x', run=str(tmp_path/'a'))
    with pytest.raises(ParameterError): check_parameters(ns, '04_train')
    run = get_run('04_train', check_parameters({**ns, 'size': 3}, '04_train'))
    assert run.record['status'] == 'running' and run.record['error'] is None
    run.close()


def test_from_the_notebooks_folder(tmp_path):
    "From nbs/ the same command reaches the same runs and data; a missing set stops with what to do"
    rc, out = papermill(tmp_path/'x.ipynb', '-p', 'dataset', 'chest_xray', '-p', 'run',
        tmp_path/'run', cwd=ROOT/'nbs', IMGCLF_DATA=str(tmp_path))
    message = read(tmp_path/'run')['error']['message']
    assert rc != 0 and message in out
    assert 'Kaggle tolgadincer/labeled-chest-xray-images' in message
    assert 'chest_xray_mini' in message


def test_a_killed_kernel_leaves_a_run_that_resumes(tmp_path):
    "kill -9 on the kernel: a sentence, the run says failed; the same command finishes it"
    run = tmp_path/'run'
    args = ['imgclf_run', 'pc_parts_mini', '--run', str(run), '-p', 'epochs', '3', '-p', 'size', '64']
    env = {**os.environ, **get_startup(tmp_path)}
    p = start_script([Path(sys.executable).parent/args[0], *args[1:]], env)
    for line in p.stdout:
        if line.startswith('head:'): break  # the kernel is at work, the first epoch begins
    os.kill(get_kernel(tmp_path), signal.SIGKILL)
    out = p.stdout.read()
    p.wait(timeout=120)
    assert p.returncode != 0 and 'ended from outside' in out and 'Traceback' not in out, out
    assert read(run)['status'] == 'failed' and (run/'04_train.ipynb').exists()
    rc, out = command(*args)
    assert rc == 0 and read(run)['status'] == 'done' and len(read(run)['resumed']) == 1, out


HOLD = '''
import sys
from imgclf_nb.base.runs import get_run
run = get_run('t', {parameters!r})
print('locked', flush=True)
sys.stdin.read()'''

def test_two_processes_cannot_work_on_one_run(tmp_path):
    p = dict(dataset='pc_parts_mini', seed=0, run=str(tmp_path/'a'))
    other = subprocess.Popen([sys.executable, '-c', HOLD.format(parameters=p)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == 'locked\n'
    with pytest.raises(UserError, match='another process'): get_run('t', p)
    other.kill()
    other.wait()
    run = get_run('t', p)  # a dead process holds no lock
    assert run.record['status'] == 'running'
    run.close()


def test_a_run_that_is_finished_while_we_wait_for_the_lock_is_not_reset(tmp_path, monkeypatch):
    "The record is read again under the lock"
    p = dict(dataset='pc_parts_mini', seed=0, run=str(tmp_path/'a'))
    get_run('t', p).close()
    acquire = filelock.FileLock.acquire
    def late(self, *a, **kw):
        done = {**read(tmp_path/'a'), 'status': 'done', 'metrics': {'valid': {'accuracy': 1}}}
        write_json(tmp_path/'a'/'run.json', done)
        return acquire(self, *a, **kw)
    monkeypatch.setattr(filelock.FileLock, 'acquire', late)
    assert get_run('t', p).done and read(tmp_path/'a')['metrics'] == {'valid': {'accuracy': 1}}


def test_a_run_that_had_begun_is_not_forgotten(tmp_path):
    "A failure after training began keeps its parameters and its error, whatever is refused later"
    ns = dict(__annotations__=dict(size=int, run=str), size=3, run=str(tmp_path/'a'))
    run = get_run('t', check_parameters(ns))
    run.begin()
    run.fail(UserError('The loss became nan', 'lr'))
    with pytest.raises(ParameterError): check_parameters({**ns, 'size': 'x'}, 't')
    assert read(tmp_path/'a')['error']['message'] == 'The loss became nan'
    with pytest.raises(UserError, match='size was 3'): get_run('t', {'size': 4, 'run': ns['run']})


def test_a_size_that_a_model_cannot_take(tmp_path):
    rc, _ = papermill(tmp_path/'x.ipynb', '-p', 'run', tmp_path/'run',
        '-p', 'arch', 'tutorial_cnn', '-p', 'weights', 'none', '-p', 'size', '64')
    error = read(tmp_path/'run')['error']
    assert rc != 0 and error['parameter'] == 'size' and 'give size=32' in error['message']


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path/'file').write_text('here')
    with pytest.raises(UserError, match='Cannot write the run folder'):
        get_run('t', dict(run=str(tmp_path/'file'/'run')))
    assert (tmp_path/'file').read_text() == 'here'


def test_a_repeat_that_fails_keeps_the_old_report(trained, tmp_path):
    "05 on a run whose model is gone: the earlier notebook stays, the failed one gets another name"
    d = tmp_path/'copy'
    shutil.copytree(trained[0], d)
    (d/'model.safetensors').unlink()
    before = (d/'05_evaluation.ipynb').read_bytes()
    with pytest.raises(UserError, match='no model.safetensors'):
        run_notebook('05_evaluation', str(d), quiet=True)
    assert (d/'05_evaluation.ipynb').read_bytes() == before
    assert (d/'05_evaluation-failed.ipynb').exists()


def train_small(folder, seed):
    "The weights of a small network, trained from scratch on the CPU"
    cpu = {} if can_fork() else dict(CUDA_VISIBLE_DEVICES='')  # without a GPU kernels are forked
    rc, out = papermill(f'{folder}.ipynb', '-p', 'run', folder, '-p', 'seed', str(seed),
        '-p', 'weights', 'none', '-p', 'arch', 'small_cnn', '-p', 'size', '32', '-p', 'epochs', '1',
        **cpu)
    assert rc == 0, out
    return load_file(folder/'model.safetensors')


def are_equal(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_the_same_seed_gives_the_same_weights(tmp_path):
    "Two processes, the same parameters: bit-identical on CPU; another seed: not"
    a = train_small(tmp_path/'a', seed=0)
    b = train_small(tmp_path/'b', seed=0)
    c = train_small(tmp_path/'c', seed=1)
    assert are_equal(a, b) and not are_equal(a, c)
    # the split has a seed of its own
    assert read(tmp_path/'a')['split_hash'] == read(tmp_path/'c')['split_hash']
