"What several tests share: a project of its own in a temporary folder's runs, and the real pictures where they lie"
import os, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get('IMGCLF_REAL', ROOT.parent/'shared'/'data'))
os.environ.setdefault('HF_HUB_OFFLINE', '1')


@pytest.fixture
def real():
    "The folder of real pictures; tests that need it say so when they skip"
    if not (REAL/'chest_xray').is_dir(): pytest.skip(f'no real pictures at {REAL}: set IMGCLF_REAL to a folder with chest_xray/, pc_parts/ …')
    return REAL


def command(*args, cwd=ROOT, timeout=600, **env):
    "A command of the project's environment: its exit code and all that it printed"
    exe = Path(sys.executable).parent/args[0]
    r = subprocess.run([str(exe), *map(str, args[1:])], cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    return r.returncode, r.stdout
