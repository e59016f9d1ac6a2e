"A training that is killed, stopped or breaks: what is kept, and that it resumes to the same end"
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from conftest import command, get_kernel, get_startup, start_script

EXE = Path(sys.executable).parent
RECIPE = '''-p dataset pc_parts_mini -p weights none -p arch mobilenetv3_small_050 -p size 32 -p epochs 4
    -p patience 6 -p batch_size 16 -p ema 0.9 -p mixup 0.2 -p precision fp32'''.split()


def read(folder):
    "A run's run.json"
    return json.loads((folder/'run.json').read_text())


def start(run, *more, **env):
    "04 in the background; the kernel's lines are printed as they come"
    run.mkdir(exist_ok=True)
    args = [EXE/'papermill', '--log-output', 'nbs/04_train.ipynb', run/'out.ipynb', '-p', 'run', run]
    return start_script([*args, *RECIPE, *more], {**os.environ, **env})


def get_parent(pid):
    "The process that started this one; None if it has ended"
    try: return int(Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[1])
    except (OSError, IndexError): return None


def get_children(pid):
    "Processes that this one started"
    return [int(o) for o in os.listdir('/proc') if o.isdigit() and get_parent(o) == pid]


def is_alive(pid):
    try: return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError: return False


def wait_until_gone(pid, seconds=120):
    until = time.time() + seconds
    while is_alive(pid):
        assert time.time() < until, f'{pid} does not end'
        time.sleep(.05)


def kill_all(p, kernel):
    "kill -9 for papermill and its kernel; wait until both are gone"
    os.kill(kernel, signal.SIGKILL)
    p.kill()
    p.wait()
    wait_until_gone(kernel)


def wait_for(p, text):
    for line in p.stdout:
        if text in line: return line
    raise AssertionError(f'{text} never came')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The run that nobody disturbs"
    d = tmp_path_factory.mktemp('whole')/'run'
    p = start(d)
    assert p.wait(timeout=600) == 0, p.stdout.read()
    return d


def check_same(a, b):
    x, y = load_file(a/'model.safetensors'), load_file(b/'model.safetensors')
    assert set(x) == set(y) and all((x[k] == y[k]).all() for k in x)
    assert (a/'predictions.csv').read_text() == (b/'predictions.csv').read_text()
    assert not (b/'checkpoint.safetensors').exists()


@pytest.mark.xdist_group('resume')
def test_papermill_killed_and_the_same_command_again(whole, tmp_path):
    """papermill is killed and leaves its kernel, a child of its own, which ends by itself or is
    waited for; the same command immediately afterwards ends with the same bits"""
    p = start(tmp_path/'run', IMGCLF_FORK='0')
    wait_for(p, 'epoch 2/4')
    kernels = get_children(p.pid)
    p.kill()
    p.wait()
    assert kernels
    again = start(tmp_path/'run')
    out, _ = again.communicate(timeout=600)
    assert again.returncode == 0, out
    r = read(tmp_path/'run')
    assert r['status'] == 'done' and len(r['resumed']) == 1 and r['resumed'][0]['epoch'] >= 1
    assert 'resuming from epoch' in out
    check_same(whole, tmp_path/'run')


SLOW = """
import time
from imgclf_nb.training.checkpoints import Checkpoint
good = Checkpoint.after_batch
def stay(self):
    here = self.training and (self.learn.epoch, self.learn.iter) == PLACE
    if here: self.every = 0  # a checkpoint is due after this step
    good(self)
    if not here: return
    self.finish()
    print('waiting to be killed', flush=True)
    time.sleep(600)
Checkpoint.after_batch = stay
"""
BEGINS = """
import time
from imgclf_nb.training.checkpoints import Checkpoint
def stay(self):
    print('waiting to be killed', flush=True)
    time.sleep(600)
Checkpoint.before_fit = stay
"""


@pytest.mark.xdist_group('resume')
@pytest.mark.parametrize('place', [(1, 0), (3, 1)], ids=['early', 'late'])
def test_kill_9_in_the_middle_of_an_epoch(place, whole, tmp_path):
    """papermill and its kernel are killed after a step that is not an epoch's last, and once more
    while the run only begins; it ends with the same bits, and `resumed` has one entry, the true one"""
    run = tmp_path/'run'
    env = get_startup(tmp_path, SLOW.replace('PLACE', str(place)))
    p = start(run, **env)
    wait_for(p, 'waiting to be killed')
    kill_all(p, get_kernel(tmp_path))
    left = run/'.checkpoint.safetensors.999999999'  # of a writer that was killed
    left.touch()
    p = start(run, **get_startup(tmp_path, BEGINS))
    wait_for(p, 'waiting to be killed')
    kill_all(p, get_kernel(tmp_path))
    assert read(run)['resumed'] == [] and not left.exists()
    again = start(run)
    out, _ = again.communicate(timeout=600)
    assert again.returncode == 0, out
    epoch, step = place[0], place[1] + 1
    assert [(o['epoch'], o['step']) for o in read(run)['resumed']] == [(epoch, step)]
    assert f'resuming from epoch {epoch+1}, step {step+1}' in out
    check_same(whole, run)


@pytest.mark.xdist_group('resume')
def test_the_run_says_how_it_was_computed(whole):
    r = read(whole)
    assert r['allocator'] in ('mallopt', 'default') and r['way']['precision'] == 'fp32'
    assert r['events'] == [] and r['checkpoint_seconds'] > 0


@pytest.mark.xdist_group('resume')
def test_ctrl_c_keeps_everything(whole, tmp_path):
    "imgclf_run is stopped by Ctrl-C in its terminal: one sentence, the state kept, the same command goes on"
    args = ['imgclf_run', 'pc_parts_mini', '--run', tmp_path/'run', *RECIPE[3:]]
    p = start_script([EXE/args[0], *args[1:]], os.environ.copy())
    wait_for(p, 'epoch 2/4')
    os.kill(p.pid, signal.SIGINT)
    out = p.stdout.read()
    p.wait(timeout=120)
    assert p.returncode != 0 and 'the same command resumes' in out and 'Traceback' not in out, out
    assert (tmp_path/'run'/'checkpoint.safetensors').exists()
    assert 'resumes' in read(tmp_path/'run')['error']['message']
    rc, out = command(*args)
    assert rc == 0 and 'resuming from epoch' in out, out
    x, y = load_file(whole/'model.safetensors'), load_file(tmp_path/'run'/'model.safetensors')
    assert all((x[k] == y[k]).all() for k in x)


@pytest.mark.xdist_group('stops')
def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    "Another model in the same folder: a sentence, and the file stays"
    run = tmp_path/'run'
    p = start(run, **get_startup(tmp_path))
    wait_for(p, 'epoch 3/4')
    kill_all(p, get_kernel(tmp_path))
    kept = (run/'checkpoint.safetensors').read_bytes()
    r = read(run)
    r['parameters']['arch'] = 'resnet10t'
    (run/'run.json').write_text(json.dumps(r))
    other = start(run, '-p', 'arch', 'resnet10t')
    out, _ = other.communicate(timeout=600)
    assert other.returncode != 0 and 'Delete it' in out
    assert "arch was 'mobilenetv3_small_050' and is 'resnet10t'" in out
    assert (run/'checkpoint.safetensors').read_bytes() == kept


POISON = """
from imgclf_nb.training.learner import EpochLine
good = EpochLine.after_batch
def poison(self):
    good(self)
    if self.training and PLACE: next(self.model.parameters()).data.fill_(float('inf'))
EpochLine.after_batch = poison
"""


@pytest.mark.xdist_group('stops')
def test_a_loss_that_is_no_number(tmp_path):
    "The weights break after the second step of the third epoch: the run stops, names the next step and what to do, and keeps the state from before"
    p = start(tmp_path/'run', **get_startup(tmp_path, POISON.replace('PLACE', '(self.epoch, self.iter) == (2, 1)')))
    out, _ = p.communicate(timeout=600)
    r = read(tmp_path/'run')
    assert p.returncode != 0 and r['status'] == 'failed' and r['error']['parameter'] == 'lr'
    assert 'epoch 3, step 3' in r['error']['message'] and 'smaller lr' in r['error']['message']
    from imgclf_nb.training.checkpoints import read_checkpoint
    facts = read_checkpoint(tmp_path/'run'/'checkpoint.safetensors')[1]
    assert (facts['epoch'], facts['step']) == (2, 0) and len(facts['history']) == 2


KEEPS_PROBE = '-p arch tf_efficientnet_lite0 -p weights auto -p epochs 1 -p ema 0.0'.split()

@pytest.mark.xdist_group('stops')
def test_a_training_that_breaks_in_its_last_step_keeps_the_probe(tmp_path):
    "One epoch whose last step ends with broken weights: the head on the frozen body is the model, and run.json says why"
    p = start(tmp_path/'run', *KEEPS_PROBE, **get_startup(tmp_path, POISON.replace('PLACE', 'self.iter + 1 == self.n_iter')))
    out, _ = p.communicate(timeout=600)
    assert p.returncode == 0, out
    r = read(tmp_path/'run')
    assert 'diverged: share 0.0 is kept' in r['events'][-1]['event'] and r['blend'][-1]['valid_loss'] is None and r['blend'][0]['valid_loss'] > 0
    assert all((abs(v) < 1e30).all() for v in load_file(tmp_path/'run'/'model.safetensors').values())


MEMORY = """
import torch
from imgclf_nb.training.learner import Trainer
good = Trainer._accumulate
def small(self, xb, yb):
    if (self.micro or len(xb)) > 4: raise torch.OutOfMemoryError('too many pictures')
    good(self, xb, yb)
Trainer._accumulate = small
"""


@pytest.mark.xdist_group('stops')
def test_an_event_of_the_memory_is_kept(tmp_path):
    "A memory that holds four images: the run ends as it would, in parts of the same steps, and run.json says so"
    p = start(tmp_path/'run', '-p', 'epochs', '1', **get_startup(tmp_path, MEMORY))
    out, _ = p.communicate(timeout=600)
    assert p.returncode == 0, out
    events = read(tmp_path/'run')['events']
    assert [o['micro'] for o in events] == [8, 4] and all('out of memory' in o['event'] and (o['epoch'], o['step']) == (1, 1) for o in events)


@pytest.mark.xdist_group('stops')
def test_the_allocator_can_be_left_alone(tmp_path):
    rc, out = command('papermill', 'nbs/04_train.ipynb', tmp_path/'x.ipynb', '-p', 'run', tmp_path/'run', *RECIPE, '-p', 'epochs', '1', IMGCLF_MALLOC='0')
    assert rc == 0 and read(tmp_path/'run')['allocator'] == 'default', out
