"Kernels that are forked from a server give the same numbers as others, and end as others do"
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from conftest import ROOT
from imgclf_nb.base.kernels import KernelServer, can_fork

pytestmark = [
    pytest.mark.skipif(not can_fork(), reason='kernels are forked on Linux, without a GPU'),
    pytest.mark.xdist_group('kernels')]
SMALL = dict(dataset='pc_parts_mini', size=32, epochs=1)


@pytest.fixture(scope='module')
def served():
    "The environment of a process whose kernels are all forked"
    path = os.environ.get('IMGCLF_KERNELS') or KernelServer().wait().path
    return {**os.environ, 'IMGCLF_KERNELS': path}


def start(folder, env, **parameters):
    "A process that runs 03 in a kernel, and first prints the kernel's process number"
    code = f'''
import threading, time
from imgclf_nb.base import running
def say():
    while not running._get_pid(): time.sleep(.05)
    print(running._get_pid(), flush=True)
threading.Thread(target=say, daemon=True).start()
running.run_notebook('03_baseline', {str(folder)!r}, quiet=True, **{parameters!r})'''
    return subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def is_forked(pid):
    "Whether a process is a fork of the server"
    return b'serve_kernels' in Path(f'/proc/{pid}/cmdline').read_bytes()


def is_gone(pid, seconds=120):
    "Whether a process ends"
    until = time.time() + seconds
    while Path(f'/proc/{pid}').exists() and time.time() < until: time.sleep(.1)
    return not Path(f'/proc/{pid}').exists()


@pytest.fixture(scope='module')
def plain(served, tmp_path_factory):
    "A run where the server cannot be reached: the kernel's process number was a fork, the run"
    folder = tmp_path_factory.mktemp('plain')
    p = start(folder/'run', {**served, 'IMGCLF_KERNELS': str(folder/'nobody')}, **SMALL)
    forked = is_forked(int(p.stdout.readline()))
    assert p.wait(timeout=600) == 0, p.stderr.read()
    return forked, folder/'run'


def test_without_a_server_it_is_an_ordinary_process(plain):
    forked, run = plain
    assert not forked and (run/'model.safetensors').exists()


def test_the_same_weights_as_in_a_process_of_its_own(served, plain, tmp_path):
    p = start(tmp_path/'run', served, **SMALL)
    assert is_forked(int(p.stdout.readline()))
    assert p.wait(timeout=600) == 0, p.stderr.read()
    a, b = [load_file(run/'model.safetensors') for run in (tmp_path/'run', plain[1])]
    assert a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


def test_it_ends_with_the_process_that_asked(served, tmp_path):
    "kill -9 leaves no kernel behind that continues to train and holds the run's lock"
    p = start(tmp_path/'run', served, **{**SMALL, 'epochs': 1000})
    kernel = int(p.stdout.readline())
    assert is_forked(kernel)
    p.kill()
    p.wait()
    assert is_gone(kernel)


def test_a_killed_kernel_is_said(served, tmp_path):
    p = start(tmp_path/'run', served, **{**SMALL, 'epochs': 1000})
    kernel = int(p.stdout.readline())
    while not (tmp_path/'run'/'run.json').exists(): time.sleep(.1)  # until it is at work
    os.kill(kernel, signal.SIGKILL)
    _, err = p.communicate(timeout=300)
    assert p.returncode == 1 and 'ended from outside' in err, err


LOOK = '''
import os, sys
import matplotlib.pyplot as plt, pandas as pd, torch
from fastcore.imports import IN_NOTEBOOK
from tqdm.auto import tqdm
print('serve_kernels' in open('/proc/self/cmdline').read())
print(pd.get_option('display.max_columns'), IN_NOTEBOOK, tqdm.__module__, plt.get_backend(),
    torch.get_num_threads(), os.getcwd(), os.environ['IMGCLF_RUNS'], 'imgclf_nb' in sys.modules)
'''

def look(folder, env):
    "Whether a kernel with this environment was forked, and what LOOK prints in it"
    code = f"""
from jupyter_client.manager import start_new_kernel
km, kc = start_new_kernel(kernel_name='python3', cwd={str(folder)!r})
kc.execute_interactive({LOOK!r}, timeout=300)
kc.stop_channels(); km.shutdown_kernel(now=True)"""
    r = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    forked, looks = r.stdout.split('\n', 1)
    return forked, looks


def test_libraries_are_as_in_a_process_of_its_own(served, tmp_path):
    "What they decide while they are loaded; and nothing of ours is loaded"
    forking = {**served, 'JUPYTER_DEFAULT_PROVISIONER_NAME': 'imgclf-fork',
        'IMGCLF_RUNS': str(tmp_path/'runs')}
    forking.pop('MPLBACKEND', None)
    forked, looks = look(tmp_path, forking)
    plain, should = look(tmp_path, {**forking, 'IMGCLF_FORK': '0'})
    assert (forked, plain) == ('True', 'False')
    assert looks == should and looks.startswith('20 True') and looks.endswith('False\n')
    assert 'inline' in looks
    forked, looks = look(tmp_path, {**forking, 'MPLBACKEND': 'agg'})  # set for this kernel alone
    assert forked == 'True' and ' agg ' in looks


ENDS = '''
import atexit, pathlib, threading, time
atexit.register(pathlib.Path('handler').write_text, 'done')
left_open = open('unclosed', 'w')
left_open.write('all')
threading.Thread(target=lambda: (time.sleep(.2), pathlib.Path('thread').write_text('done'))).start()
'''

def test_a_forked_kernel_finishes_what_its_cells_began(served, tmp_path):
    "It ends without freeing the libraries, but after its threads, its exit handlers and its files"
    code = f"""
from jupyter_client.manager import start_new_kernel
km, kc = start_new_kernel(kernel_name='python3', cwd={str(tmp_path)!r})
print(type(km.provisioner.process).__name__)
km.shutdown_wait_time = 120
kc.execute_interactive({ENDS!r}, timeout=300)
kc.stop_channels(); km.shutdown_kernel()"""
    env = {**served, 'JUPYTER_DEFAULT_PROVISIONER_NAME': 'imgclf-fork'}
    r = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout == 'Forked\n', r.stderr
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == dict(handler='done', unclosed='all', thread='done')


def test_a_server_survives_bad_clients(served):
    "A client disconnects, or sends nonsense: the next one is answered"
    for sent in (b'', b'nonsense\n', b'{}\n'):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(served['IMGCLF_KERNELS'])
            s.sendall(sent)
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(120)
        s.connect(served['IMGCLF_KERNELS'])
        s.sendall(b'{"cmd": ["another python"], "env": {}, "cwd": "/", "asker": 1}\n')
        assert s.recv(10) == b'0\n'
