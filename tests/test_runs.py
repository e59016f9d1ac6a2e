"What needs more than one process: papermill from a terminal, a killed run, two processes on one run"
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest

from conftest import ROOT, command
from imgclf_nb.base.kernels import can_fork

read = lambda p: json.loads((p/'run.json').read_text())

pytestmark = pytest.mark.xdist_group('runs')  # one worker makes what they share


def papermill(out, *args, cwd=ROOT, **env):
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
    assert {'run.json', '04_train.ipynb', '05_evaluation.ipynb', 'model.safetensors', 'model.json', 'predictions.csv', 'history.csv', 'figures/confusion.png'} <= names
    keys = 'run notebook dataset parameters status error started seconds seed split_seed data_hash split_hash git_commit environment split_sizes unreadable classes positive_class metrics test_opened resumed cost'
    assert set(keys.split()) <= set(r) and r['status'] == 'done' and r['error'] is None and r['test_opened'] == 1
    for split in ('valid', 'test'):
        m = r['metrics'][split]['accuracy']
        assert 0 <= m['low'] <= m['value'] <= m['high'] <= 1
        assert f"{m['value']:.3f} ({m['low']:.3f}–{m['high']:.3f})" in out  # the headline is what run.json says
    assert {'train_seconds', 'images_per_second', 'parameters', 'macs', 'peak_memory_mb'} <= set(r['cost'])
    assert not list(d.rglob('*.pkl'))


def test_a_done_run_is_handed_back_at_once(trained):
    d, _ = trained
    before, t0 = (d/'model.safetensors').stat().st_mtime_ns, time.time()
    rc, out = command('imgclf_run', 'pc_parts_mini', '--run', d)
    assert rc == 0 and time.time() - t0 < 60 and (d/'model.safetensors').stat().st_mtime_ns == before and read(d)['test_opened'] == 1


def test_a_done_run_with_other_parameters_is_not_handed_back(trained):
    "Also where the difference is a default that was left out, as with a run of another model"
    from imgclf_nb.commands import _is_same
    r = read(trained[0])
    assert _is_same(r, dict(dataset='pc_parts_mini')) and not _is_same(r, dict(dataset='pc_parts_mini', epochs=7))
    assert not _is_same({**r, 'parameters': {**r['parameters'], 'arch': 'resnet18'}}, dict(dataset='pc_parts_mini'))
    assert not _is_same({**r, 'data_hash': 'other'}, dict(dataset='pc_parts_mini'))
    rc, out = command('imgclf_run', 'pc_parts_mini', '-p', 'run', trained[0], '-p', 'epochs', '7')
    assert rc != 0 and 'epochs was 1 and is now 7' in out and 'Traceback' not in out


def test_papermill_on_a_done_run_shows_it_again(trained, tmp_path):
    d, _ = trained
    before = (d/'model.safetensors').stat().st_mtime_ns
    rc, out = papermill(tmp_path/'again.ipynb', '-p', 'run', d)
    assert rc == 0 and (d/'model.safetensors').stat().st_mtime_ns == before, out


def test_other_parameters_are_refused_and_nothing_is_lost(trained, tmp_path):
    d, _ = trained
    before = {p: p.stat().st_mtime_ns for p in d.rglob('*') if p.is_file() and p.name != '.lock'}
    rc, out = papermill(tmp_path/'other.ipynb', '-p', 'run', d, '-p', 'epochs', '2')
    assert rc != 0 and 'epochs was 1 and is now 2' in out
    rc, out = papermill(tmp_path/'bad.ipynb', '-p', 'run', d, '-p', 'epochs', 'three')
    assert rc != 0 and "epochs = 'three' is not allowed" in out
    assert before == {p: p.stat().st_mtime_ns for p in d.rglob('*') if p.is_file() and p.name != '.lock'}


@pytest.mark.parametrize('given, says', [(('-p', 'epoch', '3'), ('epoch', 'Did you mean epochs?')), (('-p', 'class_weights', 'false'), ('class_weights', 'True or False')),
                                         (('-p', 'lr', '7'), ('lr', 'from 1e-07 to 1')), (('-p', 'arch', 'resnet81'), ('arch', 'resnet18')),
                                         (('-p', 'policy', 'hard'), ('policy', 'strong')), (('-p', 'dataset', 'chest_xrays'), ('dataset', 'chest_xray')),
                                         (('-p', 'weights', 'nowhere.pth'), ('weights', "'auto' or 'none'"))])
def test_a_wrong_parameter_stops_the_run_with_a_sentence(given, says, tmp_path):
    "Exit code not zero, the sentence on the screen, and the parameter's name in run.json"
    rc, out = papermill(tmp_path/'x.ipynb', '-p', 'run', tmp_path/'run', *given)
    assert rc != 0
    r = read(tmp_path/'run')
    assert r['status'] == 'failed' and r['error']['parameter'] == says[0] and says[1] in r['error']['message'] and r['error']['message'] in out


def test_a_mended_parameter_may_use_the_same_run(tmp_path):
    "A run that was refused never began: the name is free"
    from imgclf_nb.core import ParameterError
    from imgclf_nb.base.parameters import check_parameters
    from imgclf_nb.base.runs import get_run
    ns = dict(__annotations__=dict(size=int, run=str), size='x', run=str(tmp_path/'a'))
    with pytest.raises(ParameterError): check_parameters(ns, '04_train')
    run = get_run('04_train', check_parameters({**ns, 'size': 3}, '04_train'))
    assert run.record['status'] == 'running' and run.record['error'] is None
    run.close()


def test_from_the_notebooks_folder(tmp_path):
    "From nbs/ the same command reaches the same runs and data; a set that is not there stops with the way to get it"
    rc, out = papermill(tmp_path/'x.ipynb', '-p', 'dataset', 'chest_xray', '-p', 'run', tmp_path/'run', cwd=ROOT/'nbs', IMGCLF_DATA=str(tmp_path))
    message = read(tmp_path/'run')['error']['message']
    assert rc != 0 and 'Kaggle tolgadincer/labeled-chest-xray-images' in message and 'chest_xray_mini' in message and message in out


def test_a_killed_kernel_leaves_a_run_that_goes_on(tmp_path):
    "kill -9 on the kernel in the middle: a sentence, the run says failed; the same command finishes it"
    args = [Path(sys.executable).parent/'imgclf_run', 'pc_parts_mini', '--run', tmp_path/'run', '-p', 'epochs', '3']
    own = {**os.environ, 'IMGCLF_FORK': '0'}  # its kernels are its children
    p = subprocess.Popen(list(map(str, args)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=own)
    for line in p.stdout:
        if line.startswith('head:'): break  # the kernel is at work, the first epoch begins
    kernels = [pid for pid in map(int, filter(str.isdigit, os.listdir('/proc'))) if _parent(pid) == p.pid and 'ipykernel' in _cmdline(pid)]
    assert kernels
    for k in kernels: os.kill(k, signal.SIGKILL)
    out = p.stdout.read(); p.wait(timeout=120)
    assert p.returncode != 0 and 'ended from outside' in out and 'Traceback' not in out, out
    assert read(tmp_path/'run')['status'] == 'failed' and (tmp_path/'run'/'04_train.ipynb').exists()
    rc, out = command(args[0].name, *args[1:])
    assert rc == 0 and read(tmp_path/'run')['status'] == 'done' and len(read(tmp_path/'run')['resumed']) == 1, out


def _parent(pid):
    try: return int(Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[1])
    except (OSError, IndexError): return None  # it ended meanwhile

def _cmdline(pid):
    try: return Path(f'/proc/{pid}/cmdline').read_text()
    except OSError: return ''  # it ended meanwhile


def test_two_processes_cannot_work_on_one_run(tmp_path):
    from imgclf_nb.core import UserError
    from imgclf_nb.base.runs import get_run
    p = dict(dataset='pc_parts_mini', seed=0, run=str(tmp_path/'a'))
    code = f"from imgclf_nb.base.runs import get_run; import sys; r = get_run('t', {p!r}); print('locked', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert other.stdout.readline() == 'locked\n'
    with pytest.raises(UserError, match='another process'): get_run('t', p)
    other.kill(); other.wait()
    run = get_run('t', p)  # a dead process holds no lock
    assert run.record['status'] == 'running'
    run.close()


def test_a_run_that_is_finished_while_we_wait_for_the_lock_is_not_reset(tmp_path, monkeypatch):
    "The record is read again under the lock"
    import filelock
    from imgclf_nb.base.runs import Run, get_run
    from imgclf_nb.core import write_json
    p = dict(dataset='pc_parts_mini', seed=0, run=str(tmp_path/'a'))
    get_run('t', p).close()
    acquire = filelock.FileLock.acquire
    def late(self, *a, **kw):
        write_json(tmp_path/'a'/'run.json', {**read(tmp_path/'a'), 'status': 'done', 'metrics': {'valid': 1}})
        return acquire(self, *a, **kw)
    monkeypatch.setattr(filelock.FileLock, 'acquire', late)
    assert get_run('t', p).done and read(tmp_path/'a')['metrics'] == {'valid': 1}


def test_a_run_that_had_begun_is_not_forgotten(tmp_path):
    "A failure after training began keeps its parameters and its error, whatever is refused later"
    from imgclf_nb.core import ParameterError, UserError
    from imgclf_nb.base.parameters import check_parameters
    from imgclf_nb.base.runs import get_run
    ns = dict(__annotations__=dict(size=int, run=str), size=3, run=str(tmp_path/'a'))
    run = get_run('t', check_parameters(ns))
    run.begin(); run.fail(UserError('The loss became nan', 'lr'))
    with pytest.raises(ParameterError): check_parameters({**ns, 'size': 'x'}, 't')
    assert read(tmp_path/'a')['error']['message'] == 'The loss became nan'
    with pytest.raises(UserError, match='size was 3'): get_run('t', {'size': 4, 'run': ns['run']})


def test_a_size_that_a_model_cannot_take(tmp_path):
    rc, out = papermill(tmp_path/'x.ipynb', '-p', 'run', tmp_path/'run', '-p', 'arch', 'tutorial_cnn', '-p', 'weights', 'none', '-p', 'size', '64')
    assert rc != 0 and read(tmp_path/'run')['error']['parameter'] == 'size' and 'give size=32' in read(tmp_path/'run')['error']['message']


def test_a_folder_that_cannot_be_written(tmp_path):
    from imgclf_nb.core import UserError
    from imgclf_nb.base.runs import get_run
    (tmp_path/'file').write_text('here')
    with pytest.raises(UserError, match='Cannot write the run folder'): get_run('t', dict(run=str(tmp_path/'file'/'run')))
    assert (tmp_path/'file').read_text() == 'here'


def test_a_repeat_that_fails_keeps_the_old_report(trained, tmp_path):
    "05 on a run whose model is gone: the executed notebook of before stays, the failed one lies beside it"
    import shutil
    from imgclf_nb.core import UserError
    from imgclf_nb.base.running import run_notebook
    d = tmp_path/'copy'
    shutil.copytree(trained[0], d)
    (d/'model.safetensors').unlink()
    before = (d/'05_evaluation.ipynb').read_bytes()
    with pytest.raises(UserError, match='no model.safetensors'): run_notebook('05_evaluation', str(d), quiet=True)
    assert (d/'05_evaluation.ipynb').read_bytes() == before and (d/'05_evaluation-failed.ipynb').exists()


def test_the_same_seed_gives_the_same_weights(tmp_path):
    "Two processes, the same parameters: bit-identical on CPU; another seed: not"
    import numpy as np
    from safetensors.numpy import load_file
    def train(name, seed):
        rc, out = papermill(tmp_path/f'{name}.ipynb', '-p', 'run', tmp_path/name, '-p', 'seed', str(seed), '-p', 'weights', 'none', '-p', 'arch', 'small_cnn', '-p', 'epochs', '1', **({} if can_fork() else dict(CUDA_VISIBLE_DEVICES='')))  # forked where there is no GPU
        assert rc == 0, out
        return load_file(tmp_path/name/'model.safetensors')
    a, b, c = train('a', 0), train('b', 0), train('c', 1)
    assert all(np.array_equal(a[k], b[k]) for k in a) and not all(np.array_equal(a[k], c[k]) for k in a)
    assert read(tmp_path/'a')['split_hash'] == read(tmp_path/'c')['split_hash']  # the split has its own seed
