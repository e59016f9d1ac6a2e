"What several tests share: commands, the real images, and all modules and notebooks by name"
import ast
import os
import re
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from forking import run_forked, wait_for_servers

# an example may take any time: a slow machine is no fault
settings.register_profile('patient', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('patient')
ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get('IMGCLF_REAL', ROOT.parent/'shared'/'data'))
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')  # also where a test loads libraries alone


def get_notebooks():
    "The notebooks' paths, in order"
    paths = (ROOT/'nbs').rglob('*.ipynb')
    return sorted(path for path in paths if '.ipynb_checkpoints' not in path.parts)


def get_modules():
    "The modules' names, dotted and without the package's name"
    package = ROOT/'imgclf_nb'
    no_module = ('__init__.py', '_modidx.py')
    paths = [path for path in package.rglob('*.py') if path.name not in no_module]
    return sorted('.'.join(path.relative_to(package).with_suffix('').parts) for path in paths)


NOTEBOOKS = get_notebooks()
MODULES = get_modules()


@pytest.fixture
def real():
    "The folder of real images; tests that need it say so when they skip"
    if not (REAL/'chest_xray').is_dir():
        pytest.skip(f'no real images at {REAL}: '
            'set IMGCLF_REAL to a folder with chest_xray/, pc_parts/ …')
    return REAL


def execute(args, cwd, env, timeout, out, err):
    "A Python script with its arguments, forked where there is a server; its output goes to files"
    code = run_forked(args, env, cwd, out.name, err.name, timeout)
    if code is not None: return code
    return subprocess.run([sys.executable, *args], cwd=cwd, env=env, timeout=timeout,
        stdin=subprocess.DEVNULL, stdout=out, stderr=err).returncode


def open_output():
    return tempfile.NamedTemporaryFile('a+', encoding='utf-8', errors='replace')


def read_output(file):
    file.seek(0)
    return file.read()


def command(*args, cwd=ROOT, timeout=600, **env):
    "A command of the project's environment: its exit code and all that it printed"
    name, *rest = map(str, args)
    script = str(Path(sys.executable).parent/name)
    with open_output() as out:
        code = execute([script, *rest], cwd, {**os.environ, **env}, timeout, out, out)
        return code, read_output(out)


def start_script(args, env, cwd=ROOT):
    """A Python script with its arguments that runs in the background: it answers signals, also where
    this process is a background job; `stdout` takes both outputs"""
    return subprocess.Popen([sys.executable, *map(str, args)], cwd=cwd, env=env, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=listen)


def listen():
    "A child answers signals"
    for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):
        number = getattr(signal, name, None)  # not all of them are on every system
        if number: signal.signal(number, signal.default_int_handler if name == 'SIGINT' else signal.SIG_DFL)


def run_code(code, env, timeout=300):
    "Python code in a fresh process, without warnings: its exit code, stdout and stderr"
    with open_output() as script, open_output() as out, open_output() as err:
        script.write(f"import warnings\nwarnings.simplefilter('ignore')\n{code}")
        script.flush()
        code = execute([script.name], ROOT, env, timeout, out, err)
        return code, read_output(out), read_output(err)


# Loaded by every Python process of an environment, before anything else: kernels and workers too
WATCH = '''
import os, sys
LOCAL = {None, '', b'', 'localhost', b'localhost', '127.0.0.1', '::1', '0.0.0.0', '::'}
PLACE = {'socket.connect': 1, 'socket.sendto': 1, 'socket.getaddrinfo': 0, 'socket.gethostbyname': 0}

def watch(event, args):
    if event not in PLACE: return
    address = args[PLACE[event]]
    if event in ('socket.connect', 'socket.sendto'):
        if not isinstance(address, tuple): return  # a file, as kernels use
        address = address[0]
    if address in LOCAL: return
    with open(os.environ['IMGCLF_WATCH'], 'a') as file: print(event, address, *sys.argv[:2], file=file)

sys.addaudithook(watch)
'''


def make_watch(folder):
    "An environment whose processes report each server that they look for, and the report"
    (folder/'sitecustomize.py').write_text(WATCH)
    report = folder/'report'
    report.touch()
    env = {name: value for name,value in os.environ.items() if not re.match('NO_ALBUM|HF_|IMGCLF_', name)}
    env |= {f'IMGCLF_{name.upper()}': str(folder/name) for name in ('runs', 'records', 'cache')}
    return env | dict(PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]), IMGCLF_WATCH=str(report)), report


def get_startup(folder, code=''):
    "An environment in which every kernel first writes its process number, then runs this code"
    startup = folder/'ipython'/'profile_default'/'startup'
    startup.mkdir(parents=True, exist_ok=True)
    say = f"import os, pathlib\npathlib.Path({str(folder/'kernel')!r}).write_text(str(os.getpid()))"
    (startup/'00.py').write_text(f'{say}\n{code}')
    return dict(IPYTHONDIR=str(folder/'ipython'))


def get_kernel(folder):
    "The process number of the kernel that started last in this environment"
    return int((folder/'kernel').read_text())


def get_path(module):
    return ROOT/'imgclf_nb'/f"{module.replace('.', '/')}.py"


def get_source(module):
    return get_path(module).read_text(encoding='utf-8')


def is_ours(name):
    return name.split('.')[0] == 'imgclf_nb'


def get_imported_names(node, module):
    "Dotted names that an import statement of a module imports"
    if isinstance(node, ast.Import): return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom): return []
    above = ['imgclf_nb', *module.split('.')][:-node.level] if node.level else []
    base = '.'.join([*above, *filter(None, [node.module])])
    if is_ours(base) and get_path(base.partition('.')[2]).exists(): return [base]
    return [f'{base}.{alias.name}' for alias in node.names]


@cache
def get_imports(code, module):
    "Our modules, without the package's name, that this code imports anywhere, also in functions"
    found = set()
    for node in ast.walk(ast.parse(code)):
        names = get_imported_names(node, module)
        found |= {name.partition('.')[2] for name in names if is_ours(name)}
    return frozenset(found - {''})


LONGEST = ['resume', 'evaluation', 'studies', 'runs', 'stops', 'kernels', 'weights']  # groups of tests


def get_rank(item):
    "Where a test stands in the order: long groups first, tests without a group last"
    mark = item.get_closest_marker('xdist_group')
    if mark is None: return len(LONGEST) + 1
    return LONGEST.index(mark.args[0]) if mark.args[0] in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(items):
    "Long groups, each of which stays on one worker, begin first; single tests fill what is left"
    items.sort(key=get_rank)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    "The servers load their libraries while the tests are collected"
    if hasattr(session.config, 'workerinput'): wait_for_servers()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    "pytest 9.2 keeps xdist 3.8 from marking the groups: their fixtures would be set up on every worker"
    if not getattr(session.config.option, 'loadgroup', False): return
    grouped = [item for item in session.items if item.get_closest_marker('xdist_group')]
    lost = [item.nodeid for item in grouped if '@' not in item.nodeid]
    if lost: raise pytest.UsageError(f'{lost[0]} is not marked with its group: see pytest in settings.ini')
