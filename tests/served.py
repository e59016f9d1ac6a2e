"""`python tests/served.py COMMAND …` runs a command whose processes fork from one that has torch,
timm and fastai loaded, instead of loading them fifty times; `nbdev_test COMMAND …` tests the
notebooks first."""
import gc
import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

from execnb.shell import CaptureShell
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import nbdev_test, test_nb

from forking import CommandServer, wait_for_servers
from imgclf_nb.base.kernels import KernelServer, can_fork, preload

words = sys.argv[1:]
notebooks = words[0] == 'nbdev_test'
if notebooks: words = words[1:]  # a command to run afterwards, or nothing
tests = 'pytest' in words
if notebooks or tests: os.environ['MPLBACKEND'] = 'agg'  # kernels save figures, and show none


def test_one(path, skip):
    "Test a notebook in this fork, which ends with it"
    passed, _ = test_nb(path, skip_flags=skip, basepath=get_config().config_path)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(not passed)


def test_in_forks(n=3):
    """nbdev_test with a fork for each notebook: in one that has run others, OpenVINO's threads, PyTorch's and
    a further fork end in a segmentation fault"""
    context = multiprocessing.get_context('fork')
    skip = get_config().tst_flags.split()
    todo = [o.absolute() for o in sorted(nbglob(as_path=True))]
    os.chdir(get_config().nbs_path)
    failed, running, took = [], {}, []
    while todo or running:
        while todo and len(running) < n:
            process = context.Process(target=test_one, args=(todo[0], skip))
            process.start()
            running[process.sentinel] = process, todo.pop(0), time.time()
        for sentinel in wait(list(running)):
            process, path, began = running.pop(sentinel)
            process.join()
            took.append((time.time() - began, path.name))
            if process.exitcode: failed.append(f'{path.name} (exit code {process.exitcode})')
    for seconds,name in sorted(took, reverse=True)[:40]: print(f'{name}: {seconds:.0f} secs')
    os.chdir(get_config().config_path)
    if failed: sys.exit('Notebooks that failed: ' + ', '.join(failed))


def run_notebooks():
    "Test the notebooks in forks of this process; it ends here if one fails"
    # they draw every figure, but not at twice the resolution
    CaptureShell.__init__.__defaults__ = (None, 'png', *CaptureShell.__init__.__defaults__[2:])
    if can_fork():
        preload()  # while the server does the same
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 20, 50)  # objects of dozens of notebooks stay in a worker
        server.wait()
        return test_in_forks()
    nbdev_test(n_workers=2, timing=True)


if can_fork():  # all kernels, whichever process wants them, come from one server
    server = KernelServer()
    os.environ.update(
        IMGCLF_KERNELS=server.path,
        JUPYTER_DEFAULT_PROVISIONER_NAME='imgclf-fork')

if notebooks: run_notebooks()
if words:
    if can_fork(): os.environ['IMGCLF_COMMANDS'] = CommandServer().path
    if not tests: wait_for_servers()  # pytest waits when it has collected its tests
    sys.exit(subprocess.run(words).returncode)
