"No command that needs no network looks up a server or connects to one; test_imports.py: no import does"
import ast, json, os, subprocess, sys
from pathlib import Path

import pytest

from conftest import NOTEBOOKS, ROOT, make_watch


@pytest.fixture
def watched(tmp_path):
    "An environment whose processes report each server that they look for, and the report"
    return make_watch(tmp_path)


def run(env, *words, timeout=300):
    "Exit code and output of Python in this environment"
    done = subprocess.run([sys.executable, *map(str, words)], env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize('code, says', [
    ("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", ''),
    ("import socket; socket.socket().connect_ex(('192.0.2.1', 9))", 'socket.connect 192.0.2.1'),
    ("import socket\ntry: socket.getaddrinfo('example.invalid', 80)\nexcept OSError: pass", 'socket.getaddrinfo example.invalid')], ids=['local', 'address', 'name'])
def test_the_watch_sees_what_it_is_for(watched, code, says):
    "And of imports: see test_imports.py"
    env, report = watched
    code = f'import socket\nsocket.setdefaulttimeout(.2)\n{code}'
    assert run(env, '-c', code)[0] == 0
    assert says in report.read_text() and bool(says) == bool(report.read_text())


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


REPORTING = dict(  # libraries that report their use to their makers, and the file that they keep for it
    onnxruntime=('onnxruntime.InferenceSession(path)', '.cache/Microsoft/*/.onnxruntime/deviceid'),
    openvino=("openvino.Core().compile_model(path, 'CPU')", 'intel/openvino_ga_cid'))


@pytest.mark.parametrize('library', REPORTING)
@pytest.mark.parametrize('first, quiet', [('imgclf_nb.core', True), ('json', False)], ids=['with core', 'without'])
def test_no_library_reports_its_use(tmp_path, library, first, quiet):
    """ONNX Runtime does from 1.32 on, by sockets of its own, which no watch of Python sees; OpenVINO does in a process of
    its own. Each gives the machine a number first, and that is a file"""
    from onnx import TensorProto, helper
    work, kept = REPORTING[library]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in 'xy']
    graph = helper.make_graph([helper.make_node('Identity', ['x'], ['y'])], 'same', *[[end] for end in ends])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    (tmp_path/'same.onnx').write_bytes(model.SerializeToString())
    (tmp_path/'home').mkdir()
    env = {name: value for name,value in os.environ.items() if name not in ('CI', 'ORT_DISABLE_TELEMETRY', 'XDG_CACHE_HOME')}
    env |= dict(HOME=str(tmp_path/'home'), PYTHONPATH=str(ROOT))
    code = f'import {first}, {library}\npath = {str(tmp_path/"same.onnx")!r}\n{work}'
    assert run(env, '-c', code)[0] == 0
    found = list((tmp_path/'home').glob(kept))
    if not quiet and not found: pytest.skip(f'this build of {library} reports nothing')
    assert bool(found) != quiet
