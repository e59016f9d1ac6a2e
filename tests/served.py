"python tests/served.py COMMAND …: all kernels that it starts, by whatever process, are forked from one server"
import os, subprocess, sys

from imgclf_nb.base.kernels import KernelServer, can_fork

more = {}
if can_fork(): more = dict(IMGCLF_KERNELS=KernelServer().wait().path, JUPYTER_DEFAULT_PROVISIONER_NAME='imgclf-fork')
sys.exit(subprocess.run(sys.argv[1:], env={**os.environ, **more}).returncode)
