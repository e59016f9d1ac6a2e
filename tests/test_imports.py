"Light imports: a command that only helps or refuses, and a module that is only imported, load nothing that takes seconds"
import ast, json, os, subprocess, sys
from pathlib import Path

import pytest

from conftest import MODULES, get_imports, get_source
from imgclf_nb.base.kernels import PRELOADED, can_fork

HEAVY = {'torch', 'torchvision', 'timm', 'fastai', 'sklearn', 'scipy', 'cv2', 'imagehash', 'matplotlib', 'seaborn', 'albumentations', 'cleanlab',
    'papermill', 'nbclient', 'nbformat', 'jupyter_client', 'jupyter_core', 'IPython'}
SLOWEST = {'torch', 'torchvision', 'timm', 'fastai', 'matplotlib'}
# these load nothing of HEAVY
EMPTY = '''
    audit auditing.evidence auditing.findings auditing.grouping auditing.label_errors
    auditing.report auditing.reviewer backbones base.machine base.parameters base.running
    base.runs commands comparison core data datasets.archives datasets.cards datasets.choices
    datasets.compression datasets.downloads datasets.members datasets.parquet datasets.folders datasets.kinds datasets.layouts datasets.levels datasets.listing
    datasets.masks datasets.miniatures datasets.records datasets.retries datasets.sources
    datasets.tables datasets.trees datasets.units datasets.words fetching images.contents
    images.duplicates images.formats images.preprocessing images.properties models.attention
    models.embedding models.features models.image_rows models.logistic reporting.checklist
    reporting.facts reporting.result_sections results.class_metrics results.consistency
    results.leaderboard results.manifest results.operating results.paired_predictions results.projects
    results.studies splitting stats.contributions stats.coverage stats.paired_tests
    stats.standard_errors training.subsets
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


FORKS = """
import importlib, json, os, sys, traceback
modules, libraries = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for name in libraries: importlib.import_module(name)
assert not any(name.startswith('imgclf_nb') for name in sys.modules)
for module in modules:
    if os.fork():
        os.wait()
        continue
    error = ''
    try: importlib.import_module(f'imgclf_nb.{module}')
    except BaseException: error = traceback.format_exc()
    packages = sorted({name.split('.')[0] for name in sys.modules})
    print(json.dumps([module, error, packages]), flush=True)
    os._exit(0)
"""


def import_in_forks(modules, libraries, tmp):
    """By module: what went wrong while it was imported, and the packages that are loaded then, in a
    fork of a process that holds these libraries and nothing of ours"""
    env = {**os.environ, 'IMGCLF_RUNS': str(tmp/'runs'), 'IMGCLF_RECORDS': str(tmp/'records')}
    args = [sys.executable, '-c', FORKS, json.dumps(modules), json.dumps(libraries)]
    r = subprocess.run(args, cwd=tmp, env=env, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert not (tmp/'runs').exists() and not (tmp/'records').exists()
    return {module: (error, set(packages)) for module,error,packages in map(json.loads, r.stdout.splitlines())}


@pytest.fixture(scope='module')
def heavy(tmp_path_factory):
    "The modules that may load torch, where it is loaded already"
    return import_in_forks([m for m in MODULES if may_be_heavy(m)], PRELOADED, tmp_path_factory.mktemp('heavy'))


@pytest.fixture(scope='module')
def light(tmp_path_factory):
    "The others, where nothing of HEAVY is loaded"
    modules = [m for m in MODULES if not may_be_heavy(m)]
    return import_in_forks(modules, ['numpy', 'pandas', 'PIL.Image'], tmp_path_factory.mktemp('light'))


FORKED = pytest.mark.skipif(not can_fork(),
    reason='forks are for Linux without a GPU; elsewhere the notebooks import these modules')


@FORKED
@pytest.mark.xdist_group('heavy')
@pytest.mark.parametrize('module', [m for m in MODULES if may_be_heavy(m)])
def test_module_that_may_load_torch_imports_alone(module, heavy): assert heavy[module][0] == ''


@FORKED
@pytest.mark.xdist_group('light')
@pytest.mark.parametrize('module', [m for m in MODULES if not may_be_heavy(m)])
def test_module_imports_without_what_it_does_not_need(module, light):
    error, got = light[module]
    assert error == '' and 'imgclf_nb' in got
    if module in EMPTY: assert not got & HEAVY
    if module.split('.')[0] in LIGHT: assert not got & SLOWEST
    if module in (*EMPTY, *NO_FASTAI): assert 'fastai' not in got


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


def get_reach(module):
    "Packages that a module and its functions import, also by way of our other modules"
    seen, todo, packages = set(), [module], set()
    while todo:
        if (m := todo.pop()) in seen: continue
        seen.add(m)
        todo += get_imports(get_source(m), m)
        for n in ast.walk(ast.parse(get_source(m))):
            if isinstance(n, ast.Import): packages |= {a.name.split('.')[0] for a in n.names}
            elif isinstance(n, ast.ImportFrom) and not n.level: packages.add(n.module.split('.')[0])
    return packages


@pytest.mark.parametrize('module', ['fetching', 'audit', 'data', 'models.features', 'backbones', 'auditing.reviewer', 'splitting', 'leakage'])
def test_not_even_a_function_reaches_fastai(module):
    "fastai is for training: what reads, judges and answers does without it"
    assert 'fastai' not in get_reach(module) and 'fastai' in get_reach('train')
