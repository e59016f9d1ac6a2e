"python tests/served.py COMMAND …: what it starts forks from processes that have torch, timm and fastai loaded, instead of loading them fifty times"
import gc, os, subprocess, sys

from nbdev.test import nbdev_test

from imgclf_nb.base.kernels import KernelServer, can_fork, preload

if can_fork():  # all kernels, whichever process wants them, come from one server
    server = KernelServer().wait()
    os.environ.update(IMGCLF_KERNELS=server.path, JUPYTER_DEFAULT_PROVISIONER_NAME='imgclf-fork')
if sys.argv[1] != 'nbdev_test': sys.exit(subprocess.run(sys.argv[1:]).returncode)
if can_fork():  # and the notebooks run in forks of this process
    preload()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)  # a worker goes through dozens of notebooks, whose objects stay
nbdev_test(n_workers=2, timing=True)
