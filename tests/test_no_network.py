"No import, and no command that needs no network, looks up a server or connects to one"
import ast, json, os, re, subprocess, sys
from pathlib import Path

import pytest

from conftest import MODULES, NOTEBOOKS, ROOT, get_source
from imgclf_nb.base.kernels import PRELOADED, can_fork

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


@pytest.fixture
def watched(tmp_path):
    "An environment whose processes report each server that they look for, and the report"
    (tmp_path/'sitecustomize.py').write_text(WATCH)
    report = tmp_path/'report'
    report.touch()
    env = {name: value for name,value in os.environ.items() if not re.match('NO_ALBUM|HF_|IMGCLF_', name)}
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    env |= dict(PYTHONPATH=path, IMGCLF_WATCH=str(report), IMGCLF_RUNS=str(tmp_path/'runs'),
        IMGCLF_RECORDS=str(tmp_path/'records'), IMGCLF_CACHE=str(tmp_path/'cache'))
    return env, report


def run(env, *words, timeout=300):
    "Exit code and output of Python in this environment"
    done = subprocess.run([sys.executable, *map(str, words)], env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize('code, says', [
    ("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", ''),
    ("import socket; socket.socket().connect_ex(('192.0.2.1', 9))", 'socket.connect 192.0.2.1'),
    ("import socket\ntry: socket.getaddrinfo('example.invalid', 80)\nexcept OSError: pass", 'socket.getaddrinfo example.invalid'),
    ('import albumentations', 'socket.getaddrinfo')], ids=['local', 'address', 'name', 'albumentations'])
def test_the_watch_sees_what_it_is_for(watched, code, says):
    "Also that albumentations itself asks a server, if nothing of ours came first"
    env, report = watched
    code = f'import socket\nsocket.setdefaulttimeout(.2)\n{code}'
    assert run(env, '-c', code)[0] == 0
    assert says in report.read_text() and bool(says) == bool(report.read_text())


IMPORTS = '''
import importlib, json, os, sys
modules, libraries, users, after = map(json.loads, sys.argv[1:])
for name in libraries: importlib.import_module(name)
for module in modules:
    if os.fork():
        assert os.wait()[1] == 0, module
        continue
    importlib.import_module(f'imgclf_nb.{module}')
    for name in after if module in users else []: importlib.import_module(name)
    os._exit(0)
'''
# those that load albumentations, also in a function, and the first that a command loads
USERS = [m for m in MODULES if 'import albumentations' in get_source(m)] + ['core', 'base.kernels', 'commands']


@pytest.mark.xdist_group('heavy')
@pytest.mark.skipif(not can_fork(), reason='forks are for Linux without a GPU')
def test_no_import_opens_a_socket(watched):
    "Each module is the first of ours that a process loads; then the libraries that it loads later"
    env, report = watched
    libraries = [name for name in PRELOADED if name != 'albumentations']
    after = ['albumentations', 'kagglehub', 'huggingface_hub', 'papermill']
    code, said = run(env, '-c', IMPORTS, *map(json.dumps, (MODULES, libraries, USERS, after)))
    assert len(USERS) > 5 and code == 0 and not report.read_text(), said + report.read_text()


def test_a_kernel_server_opens_no_socket(watched):
    "It loads albumentations before any of our modules"
    env, report = watched
    code, said = run(env, '-c', 'from imgclf_nb.base.kernels import preload; preload()')
    assert code == 0 and not report.read_text(), said + report.read_text()


OURS = ('imgclf_nb', 'common')  # common.py of the benchmarks imports imgclf_nb

def find_imports(code):
    "The packages that this code imports, in the order of its lines"
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in sorted(nodes, key=lambda node: node.lineno):
        if isinstance(node, ast.Import): yield from (alias.name.split('.')[0] for alias in node.names)
        else: yield (node.module or 'imgclf_nb').split('.')[0]


def get_code(path):
    "The Python of a file or of the cells of a notebook"
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.py': return [text]
    return [''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'code' and '%' not in ''.join(c['source'])[:1]]


FILES = [*NOTEBOOKS, *sorted((ROOT/'benchmarks').rglob('*.py')), *sorted((ROOT/'tests').glob('*.py'))]

def test_ours_comes_first_wherever_albumentations_is_imported():
    "core switches its question off, so a notebook or a benchmark imports something of ours before it"
    wrong = []
    for path in FILES:
        imported = [name for code in get_code(path) for name in find_imports(code)]
        if 'albumentations' not in imported: continue
        before = imported[:imported.index('albumentations')]
        if not set(before) & set(OURS): wrong.append(path.name)
    assert wrong == [] and 'imgclf_nb' in find_imports(get_code(ROOT/'benchmarks'/'common.py')[0])


SCRIPTS = Path(sys.executable).parent
COMMANDS = [('audit', 'pc_parts_mini', '--no-labels'), ('run', 'pc_parts_mini', '--quick'), ('leaderboard',), ('cache',)]

@pytest.mark.xdist_group('evaluation')
def test_no_command_that_needs_no_network_opens_a_socket(watched):
    "With the hub switched off, as `make run` does; kernels and their workers are watched too"
    env, report = watched
    for name,*words in COMMANDS:
        code, said = run({**env, 'HF_HUB_OFFLINE': '1'}, SCRIPTS/f'imgclf_{name}', *words)
        assert code == 0 or name == 'leaderboard', said
        assert not report.read_text(), report.read_text()
