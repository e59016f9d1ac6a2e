"Light imports: a command that only helps or refuses, and a module that is only imported, load nothing that takes seconds"
import ast, os, subprocess, sys

import pytest

from conftest import ROOT

HEAVY = {'torch', 'torchvision', 'timm', 'fastai', 'sklearn', 'scipy', 'cv2', 'imagehash', 'matplotlib', 'seaborn', 'albumentations', 'cleanlab',
    'papermill', 'nbclient', 'nbformat', 'jupyter_client', 'jupyter_core', 'IPython'}


def loaded(code, tmp_path, *args):
    "The packages that a fresh process has loaded after these lines"
    code = f'import sys, atexit\natexit.register(lambda: print("\\nloaded", *{{o.split(".")[0] for o in sys.modules}}))\n{code}'
    env = {**os.environ, 'IMGCLF_RUNS': str(tmp_path/'runs'), 'IMGCLF_RECORDS': str(tmp_path/'records')}
    r = subprocess.run([sys.executable, '-c', code, *args], cwd=ROOT, env=env, capture_output=True, text=True)
    return r, set(r.stdout.rpartition('\nloaded ')[2].split())


@pytest.mark.parametrize('arg, rc', [('--help', 0), ('nonsense', 1)])
@pytest.mark.parametrize('module', ['running', 'fetching', 'audit'])
def test_help_and_refusals_load_nothing_heavy(module, arg, rc, tmp_path):
    r, got = loaded(f'from imgclf_nb.{module} import main; main()', tmp_path, arg)
    assert r.returncode == rc and ('usage: imgclf_' in r.stdout if arg == '--help' else "'nonsense'" in r.stderr), r.stdout + r.stderr
    assert not got & (HEAVY | {'pandas', 'pyarrow'}) and 'imgclf_nb' in got
    assert not (tmp_path/'runs').exists() and not (tmp_path/'records').exists()  # a refused name leaves nothing behind


@pytest.mark.parametrize('module', ['core', 'unpacking', 'fetching', 'pictures', 'miniatures', 'running', 'cards', 'listing', 'records', 'facts', 'copies',
    'logistic', 'backbones', 'features', 'data', 'suspicion', 'grouping', 'reviewer', 'findings', 'report', 'audit', 'splitting', 'paired', 'pairing', 'subsets', 'studies', 'comparison'])
def test_modules_load_nothing_heavy(module, tmp_path):
    r, got = loaded(f'import imgclf_nb.{module}', tmp_path)
    assert r.returncode == 0 and 'imgclf_nb' in got, r.stderr
    assert not got & HEAVY


def imports(module):
    "What the module and its functions import, in the package also by way of others"
    seen, todo = set(), [module]
    while todo:
        if (m := todo.pop()) in seen: continue
        seen.add(m)
        path = ROOT/'imgclf_nb'/f"{m.removeprefix('imgclf_nb.')}.py"
        for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if m.startswith('imgclf_nb.') else ():
            if isinstance(n, ast.Import): todo += [a.name for a in n.names]
            elif isinstance(n, ast.ImportFrom):
                base = '.'.join(filter(None, ['imgclf_nb' if n.level else '', n.module]))
                todo += [f'{base}.{a.name}' for a in n.names] if base == 'imgclf_nb' else [base]
    return {o.split('.')[0] for o in seen}


@pytest.mark.parametrize('module', ['fetching', 'audit', 'data', 'features', 'backbones', 'reviewer', 'splitting', 'leakage'])
def test_not_even_a_function_reaches_fastai(module):
    "fastai is for training: what reads, judges and answers does without it"
    assert 'fastai' not in imports(f'imgclf_nb.{module}') and 'fastai' in imports('imgclf_nb.train')
