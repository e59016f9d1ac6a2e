"The gate: cleaning changes nothing, exporting changes nothing, every module imports, every parameters cell has its tag, sizes"
import ast, json, re, shutil, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import ROOT, command

NOTEBOOKS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
MODULES = sorted(p.stem for p in (ROOT/'imgclf_nb').glob('[a-z]*.py'))
cells = lambda p: json.loads(p.read_text(encoding='utf-8'))['cells']
source = lambda c: ''.join(c['source'])


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "The notebooks and modules in a folder of their own, cleaned and exported there"
    d = tmp_path_factory.mktemp('copy')/'imgclf_nb'
    d.mkdir()
    for o in ('nbs', 'imgclf_nb'): shutil.copytree(ROOT/o, d/o, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for o in ('settings.ini', 'README.md', 'pyproject.toml', 'setup.py'): shutil.copy(ROOT/o, d)
    for verb in ('nbdev_clean', 'nbdev_export'):
        rc, out = command(verb, cwd=d)
        assert rc == 0, out
    return d


def differing(copy, folder):
    "Files of a folder that cleaning or exporting changed"
    names = {p.relative_to(r/folder) for r in (ROOT, copy) for p in (r/folder).rglob('*') if p.suffix in ('.py', '.ipynb') and '.ipynb_checkpoints' not in p.parts}
    read = lambda p: p.read_bytes() if p.exists() else None
    return sorted(str(n) for n in names if read(ROOT/folder/n) != read(copy/folder/n))


def test_cleaning_changes_nothing(copy): assert not differing(copy, 'nbs'), 'run `make export` and commit'
def test_exporting_changes_nothing(copy): assert not differing(copy, 'imgclf_nb'), 'run `make export` and commit'
def test_numbers_are_unique(): assert len({p.name.split('_')[0] for p in NOTEBOOKS}) == len(NOTEBOOKS)


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
    "Each module imported by a fresh process of its own, two at a time: the exit code, what it said, whether fastai came with it"
    def one(module):
        r = subprocess.run([sys.executable, '-c', f'import imgclf_nb.{module}, sys; print("fastai" in sys.modules)'], cwd=tmp_path_factory.mktemp(module), capture_output=True, text=True)
        return r.returncode, r.stderr, r.stdout.endswith('True\n')
    with ThreadPoolExecutor(2) as ex: return dict(zip(MODULES, ex.map(one, MODULES)))


@pytest.mark.parametrize('module', MODULES)
def test_module_imports_in_a_fresh_process(module, imported): assert imported[module][0] == 0, imported[module][1]


LIGHT = 'core fetching pictures data splitting backbones running features leakage audit reviewer comparison studies truth'.split()

@pytest.mark.parametrize('module', LIGHT)
def test_commands_and_servers_stay_free_of_fastai(module, imported): assert not imported[module][2], f'imgclf_nb.{module} imports fastai'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_cell_is_tagged_and_readable(path):
    "A Parameters heading is followed by the tagged cell, and each line is `name:type = default  # help`"
    src = [source(c) for c in cells(path)]
    tagged = [i for i,c in enumerate(cells(path)) if 'parameters' in c['metadata'].get('tags', [])]
    headed = [i for i,s in enumerate(src) if s.startswith('## Parameters') and cells(path)[i]['cell_type'] == 'markdown']
    assert tagged == [i + 1 for i in headed]
    if not tagged: return  # a chapter without parameters
    for line in src[tagged[0]].splitlines(): assert re.match(r'\w+:(int|float|str|bool|list) = .+  # .+', line), line
    assert '#|' not in src[tagged[0]] and 'check_parameters(' in src[tagged[0]+1]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_sizes_and_outputs(path):
    assert len(cells(path)) <= 62 and path.stat().st_size <= 300_000, f'{len(cells(path))} cells, {path.stat().st_size} bytes'
    for c in cells(path):
        for o in c.get('outputs', []): assert o['output_type'] != 'error', source(c)
    counts = [c['execution_count'] for c in cells(path) if c['cell_type'] == 'code' and c.get('execution_count')]
    assert counts == sorted(counts)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_imports_only_from_lower_numbers(path):
    named = {p: re.search(r'#\| default_exp (\w+)', ''.join(map(source, cells(p)))) for p in NOTEBOOKS}
    exports = {m[1]: p.name for p,m in named.items() if m}  # pages export nothing
    for name in re.findall(r'^(?:from|import) imgclf_nb\.(\w+)', '\n'.join(map(source, cells(path))), flags=re.M): assert exports[name] < path.name, f'{path.name} imports {name}'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_an_import_cell_holds_imports_only(path):
    "The docs build runs every cell that holds an import"
    for c in cells(path):
        if c['cell_type'] != 'code': continue
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source(c)).body}
        quiet = 'warnings.filterwarnings' in source(c)
        assert len(kinds) < 2 or quiet, source(c)


@pytest.mark.parametrize('module', MODULES)
def test_public_functions_say_what_they_do(module):
    tree = ast.parse((ROOT/'imgclf_nb'/f'{module}.py').read_text(encoding='utf-8'))
    for n in tree.body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_'): assert ast.get_docstring(n), f'{module}.{n.name}'
