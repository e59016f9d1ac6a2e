"""`python tests/served.py COMMAND …` runs a command whose processes fork from one that has torch,
timm and fastai loaded, instead of loading them fifty times; `nbdev_test COMMAND …` tests the
notebooks first."""
import gc
import os
import subprocess
import sys

from execnb.shell import CaptureShell
from nbdev.test import nbdev_test

from forking import CommandServer, wait_for_servers
from imgclf_nb.base.kernels import KernelServer, can_fork, preload

words = sys.argv[1:]
notebooks = words[0] == 'nbdev_test'
if notebooks: words = words[1:]  # a command to run afterwards, or nothing
tests = 'pytest' in words
if notebooks or tests: os.environ['MPLBACKEND'] = 'agg'  # kernels save figures, and show none


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
