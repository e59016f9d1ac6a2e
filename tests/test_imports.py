"Light imports: a command that only helps or refuses, and a module that is only imported, load nothing that takes seconds"
import ast, json, os, subprocess, sys
from functools import cache
from pathlib import Path

import pytest

from conftest import MODULES, get_imports, get_source, make_watch
from imgclf_nb.base.kernels import PRELOADED, can_fork

HEAVY = {'torch', 'torchvision', 'timm', 'fastai', 'sklearn', 'scipy', 'cv2', 'imagehash', 'matplotlib', 'seaborn', 'albumentations', 'cleanlab',
    'papermill', 'nbclient', 'nbformat', 'jupyter_client', 'jupyter_core', 'IPython'}
SLOWEST = {'torch', 'torchvision', 'timm', 'fastai', 'matplotlib'}
# these load nothing of HEAVY
EMPTY = '''
    base.waiting audit auditing.evidence auditing.findings auditing.grouping auditing.label_errors
    auditing.outliers auditing.ranked_images auditing.searches datasets.foreign_images
    auditing.report auditing.reviewer backbones base.machine base.parameters base.running
    base.runs commands comparison core data datasets.archives datasets.cards datasets.choices
    datasets.compression datasets.downloads datasets.members datasets.parquet datasets.folders datasets.kinds datasets.layouts datasets.levels datasets.listing
    datasets.masks datasets.miniatures datasets.records datasets.retries datasets.sources
    datasets.arcs datasets.assignments datasets.balanced_splits datasets.hash_splits
    datasets.tables datasets.trees datasets.units datasets.words fetching images.contents
    images.duplicates images.formats images.preprocessing images.properties models.attention
    models.embedding models.export_files models.features models.freezing models.frozen models.image_rows
    models.logistic models.parity models.runtimes reporting.checklist
    reporting.facts reporting.result_sections results.class_metrics results.consistency
    results.leaderboard results.manifest results.operating results.paired_predictions results.projects
    results.studies splitting stats.contributions stats.coverage stats.paired_tests
    stats.standard_errors training.split_memory training.subsets
'''.split()
LIGHT = ('stats', 'images', 'datasets', 'reporting')  # packages that load nothing of SLOWEST
NO_FASTAI = 'pixels leakage training.augmentation_check baseline'.split()  # these may load torch


def loaded(code, tmp_path, *args):
    "A fresh process after these lines, and the packages that it has loaded"
    code = f'import sys, atexit\natexit.register(lambda: print("\\nloaded", *{{o.split(".")[0] for o in sys.modules}}))\n{code}'
    env = {**os.environ, 'IMGCLF_RUNS': str(tmp_path/'runs'), 'IMGCLF_RECORDS': str(tmp_path/'records')}
    r = subprocess.run([sys.executable, '-c', code, *args], cwd=tmp_path, env=env, capture_output=True, text=True)
    return r, set(r.stdout.rpartition('\nloaded ')[2].split())


def may_be_heavy(module): return module not in (*EMPTY, *NO_FASTAI) and module.split('.')[0] not in LIGHT


def is_light(module): return module not in (*EMPTY, *NO_FASTAI) and module.split('.')[0] in LIGHT


# each module in a fork of a process that holds libraries and nothing of ours; the libraries grow, so
# that no fork holds one that it is tested for, and each is loaded once
FORKS = """
import gc, importlib, json, os, sys, traceback
gc.disable()

def say(name, error):
    packages = sorted({o.split('.')[0] for o in sys.modules})
    print(json.dumps([name, error, packages]), flush=True)

def fork(name, code):
    "Run these lines in a fork whose name the watch reports"
    if os.fork(): return os.wait()
    sys.argv[:] = ['-c', name]
    error = ''
    try: exec(code, {})
    except BaseException: error = traceback.format_exc()
    say(name, error)
    os._exit(0)

for libraries, codes in json.loads(sys.argv[1]):
    for name in libraries: importlib.import_module(name)
    assert not any(name.startswith('imgclf_nb') for name in sys.modules)
    gc.freeze()
    for name,code in codes.items(): fork(name, code)
"""
LIGHT_LIBRARIES = 'numpy pandas PIL.Image fastcore.basics'.split()  # nothing of HEAVY
# albumentations asks a server when it is loaded before core: no fork begins with it
LIBRARIES = [name for name in PRELOADED if name != 'albumentations']
# those that load albumentations, also in a function, and the first that a command loads
USERS = [m for m in MODULES if 'import albumentations' in get_source(m)] + ['core', 'base.kernels', 'commands']
LATER = '\nimport albumentations, kagglehub, huggingface_hub, papermill'  # what they load later
PRELOAD = 'from imgclf_nb.base.kernels import preload\npreload()'


def get_codes(modules, after=''): return {m: f'import imgclf_nb.{m}{after}' for m in modules}


def get_stages():
    "Libraries to load, and what is then imported in forks: lines of code by name"
    heavy = [m for m in MODULES if may_be_heavy(m)]
    last = dict(get_codes(heavy), preload=PRELOAD, albumentations='import albumentations')
    return [
        (LIGHT_LIBRARIES, get_codes(EMPTY)),
        (['cv2'], get_codes(filter(is_light, MODULES))),
        ([name for name in LIBRARIES if 'fastai' not in name], get_codes(NO_FASTAI)),
        (LIBRARIES, last | {f'{m} and later': get_codes([m], LATER)[m] for m in USERS})]


@pytest.fixture(scope='module')
def forked(tmp_path_factory):
    """By name: what went wrong, and the packages that were loaded; and all servers that were looked
    for, each with the name of the fork"""
    tmp = tmp_path_factory.mktemp('forked')
    env, report = make_watch(tmp)
    args = [sys.executable, '-c', 'import socket\nsocket.setdefaulttimeout(.2)' + FORKS, json.dumps(get_stages())]
    r = subprocess.run(args, cwd=tmp, env=env, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert not (tmp/'runs').exists() and not (tmp/'records').exists()
    said = [json.loads(line) for line in r.stdout.splitlines() if line.startswith('["')]
    return {name: (error, set(packages)) for name,error,packages in said}, report.read_text().splitlines()


FORKED = pytest.mark.skipif(not can_fork(),
    reason='forks are for Linux without a GPU; elsewhere the notebooks import these modules')
ONE_WORKER = pytest.mark.xdist_group('forked')


@FORKED
@ONE_WORKER
@pytest.mark.parametrize('module', [m for m in MODULES if may_be_heavy(m)])
def test_module_that_may_load_torch_imports_alone(module, forked): assert forked[0][module][0] == ''


@FORKED
@ONE_WORKER
@pytest.mark.parametrize('module', [m for m in MODULES if not may_be_heavy(m)])
def test_module_imports_without_what_it_does_not_need(module, forked):
    error, got = forked[0][module]
    assert error == '' and 'imgclf_nb' in got
    if module in EMPTY: assert not got & HEAVY
    if module.split('.')[0] in LIGHT: assert not got & SLOWEST
    if module in (*EMPTY, *NO_FASTAI): assert 'fastai' not in got


@FORKED
@ONE_WORKER
def test_no_import_opens_a_socket(forked):
    "Each module is the first of ours that a process loads; then the libraries that it loads later"
    found, asked = forked
    later = [name for name in found if name.endswith(' and later')]
    assert len(later) > 5 and all(found[name][0] == '' for name in later), found
    assert [line for line in asked if line.split()[-1] not in ('preload', 'albumentations')] == []


@FORKED
@ONE_WORKER
def test_a_kernel_server_opens_no_socket(forked):
    "It loads albumentations before any of our modules"
    found, asked = forked
    assert found['preload'][0] == '' and 'albumentations' in found['preload'][1]
    assert [line for line in asked if line.endswith(' preload')] == []


@FORKED
@ONE_WORKER
def test_the_watch_sees_that_albumentations_asks_a_server(forked):
    "If nothing of ours came first"
    assert [line for line in forked[1] if line.startswith('socket.getaddrinfo') and line.endswith(' albumentations')]


def test_the_lists_name_modules_that_exist():
    assert not {*EMPTY, *NO_FASTAI} - set(MODULES) and not set(LIGHT) - {m.split('.')[0] for m in MODULES}


@pytest.mark.parametrize('arg, rc', [('--help', 0), ('nonsense', 1)])
@pytest.mark.parametrize('name', ['imgclf_run', 'imgclf_fetch', 'imgclf_audit'])
def test_help_and_refusals_load_nothing_heavy(name, arg, rc, tmp_path):
    script = str(Path(sys.executable).parent/name)
    r, got = loaded(f'import runpy; sys.argv[0] = {script!r}; runpy.run_path({script!r}, run_name="__main__")', tmp_path, arg)
    assert r.returncode == rc and ('usage: imgclf_' in r.stdout if arg == '--help' else "'nonsense'" in r.stderr), r.stdout + r.stderr
    assert not got & (HEAVY | {'pandas', 'pyarrow'}) and 'imgclf_nb' in got
    assert not (tmp_path/'runs').exists() and not (tmp_path/'records').exists()  # a refused name leaves nothing behind


@pytest.mark.parametrize('name', ['evaluate', 'compare', 'leaderboard', 'cache'])
def test_help_of_the_other_commands(name, tmp_path):
    script = str(Path(sys.executable).parent/f'imgclf_{name}')
    r, got = loaded(f'import runpy; sys.argv[0] = {script!r}; runpy.run_path({script!r}, run_name="__main__")', tmp_path, '--help')
    assert r.returncode == 0 and f'usage: imgclf_{name}' in r.stdout and not got & (HEAVY | {'pandas', 'pyarrow'})


@cache
def get_packages(module):
    "Packages that a module and its functions import by their names"
    packages = set()
    for n in ast.walk(ast.parse(get_source(module))):
        if isinstance(n, ast.Import): packages |= {a.name.split('.')[0] for a in n.names}
        elif isinstance(n, ast.ImportFrom) and not n.level: packages.add(n.module.split('.')[0])
    return packages


@cache
def get_reach(module):
    "Packages that a module and its functions import, also by way of our other modules"
    seen, todo, packages = set(), [module], set()
    while todo:
        if (m := todo.pop()) in seen: continue
        seen.add(m)
        todo += get_imports(get_source(m), m)
        packages |= get_packages(m)
    return packages


@pytest.mark.parametrize('module', ['fetching', 'audit', 'data', 'models.features', 'backbones', 'auditing.reviewer', 'splitting', 'leakage'])
def test_not_even_a_function_reaches_fastai(module):
    "fastai is for training: what reads, judges and answers does without it"
    assert 'fastai' not in get_reach(module) and 'fastai' in get_reach('train')
