"What several tests share: a project of its own in a temporary folder's runs, the real images where they lie, and all modules and notebooks by name"
import ast, os, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get('IMGCLF_REAL', ROOT.parent/'shared'/'data'))
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
MODULES = sorted('.'.join(p.relative_to(ROOT/'imgclf_nb').with_suffix('').parts) for p in (ROOT/'imgclf_nb').rglob('*.py') if p.name not in ('__init__.py', '_modidx.py'))
os.environ.setdefault('HF_HUB_OFFLINE', '1')


@pytest.fixture
def real():
    "The folder of real images; tests that need it say so when they skip"
    if not (REAL/'chest_xray').is_dir(): pytest.skip(f'no real images at {REAL}: set IMGCLF_REAL to a folder with chest_xray/, pc_parts/ …')
    return REAL


def command(*args, cwd=ROOT, timeout=600, **env):
    "A command of the project's environment: its exit code and all that it printed"
    exe = Path(sys.executable).parent/args[0]
    r = subprocess.run([str(exe), *map(str, args[1:])], cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    return r.returncode, r.stdout


def get_path(module): return ROOT/'imgclf_nb'/f"{module.replace('.', '/')}.py"
def get_source(module): return get_path(module).read_text(encoding='utf-8')


def get_imports(code, module):
    "Modules of ours, dotted and without the package's name, that this code of a module imports anywhere, also in its functions"
    found = set()
    for n in ast.walk(ast.parse(code)):
        if isinstance(n, ast.Import): names = [a.name for a in n.names]
        elif isinstance(n, ast.ImportFrom):
            above = ['imgclf_nb', *module.split('.')][:-n.level] if n.level else []
            base = '.'.join([*above, *filter(None, [n.module])])
            names = [base] if is_ours(base) and get_path(base.partition('.')[2]).exists() else [f'{base}.{a.name}' for a in n.names]
        else: continue
        found |= {o.partition('.')[2] for o in names if is_ours(o)}
    return found - {''}


def is_ours(name): return name.split('.')[0] == 'imgclf_nb'


def pytest_collection_modifyitems(items):
    "Groups, which are long and stay on one worker, begin first; single tests fill what is left"
    items.sort(key=lambda o: o.get_closest_marker('xdist_group') is None)
