"""`python tests/served.py COMMAND …` runs a command whose processes fork from one that has torch,
timm and fastai loaded, instead of loading them fifty times."""
import gc
import os
import subprocess
import sys

from nbdev.test import nbdev_test

from forking import CommandServer
from imgclf_nb.base.kernels import KernelServer, can_fork, preload

if can_fork():  # all kernels, whichever process wants them, come from one server
    server = KernelServer().wait()
    os.environ.update(
        IMGCLF_KERNELS=server.path,
        JUPYTER_DEFAULT_PROVISIONER_NAME='imgclf-fork')

if sys.argv[1] != 'nbdev_test':
    if can_fork(): os.environ['IMGCLF_COMMANDS'] = CommandServer().path
    sys.exit(subprocess.run(sys.argv[1:]).returncode)

if can_fork():  # and the notebooks run in forks of this process
    preload()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)  # objects of dozens of notebooks stay in a worker
nbdev_test(n_workers=2, timing=True)
