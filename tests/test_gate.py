"The gate: cleaning changes nothing, exporting changes nothing, every module imports, one order of imports, tags, outputs, sizes"
import ast, json, os, re, shutil
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from pyflakes import checker, messages

from conftest import MODULES, NOTEBOOKS, ROOT, command, get_imports, get_source
from readability import KEPT, find_notebook_words, find_words, is_worse, measure

@cache
def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']


source = lambda c: ''.join(c['source'])
name = lambda p: p.relative_to(ROOT/'nbs').with_suffix('').as_posix()

# From the ground up: a line may import from the lines above it; within a line, and within a package, any direction, but never a circle
ORDER = '''
    core
    base
    stats
    images
    datasets
    backbones fetching data splitting pixels
    results
    models
    auditing
    audit leakage
    augmentation
    training
    baseline train probe ladder combination
    reporting
    evaluation robustness explanation
    comparison augmentation_study model_study learning_curve search
    inference
    novelty
    server
    serving monitoring scaling
    commands
    START 13_results 13a_coverage
    20_pc_parts 21_cats_vs_dogs 22_fruits360 23_instruments 24_chest_xray
'''
RANK = {o: i for i,line in enumerate(ORDER.strip().splitlines()) for o in line.split()}

# Imports that are there for what they do, not for their name
EFFECTS = {
    'imgclf_nb.base.kernels': 'papermill finds its PrivateKernel by name',
    'imgclf_nb.baseline': 'registers our networks with timm, so that whoever builds a model by its name finds them',
    'imgclf_nb.core': 'keeps a warning of fastai quiet, and albumentations from asking a server, if it comes first',
    'fastai.vision.data': "teaches fastai's show_batch about images",
    'fastai.callback.schedule.fit_one_cycle': 'patches Learner, which get_learner hands out',
    'imagehash': 'loaded once before worker processes are forked',
    'scipy.fftpack': 'loaded once before worker processes are forked'}


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


def test_every_module_comes_from_a_notebook():
    "nbdev leaves the module of a notebook that has gone; an __init__.py holds the version or nothing"
    assert sorted(filter(None, map(get_export, NOTEBOOKS))) == MODULES
    for p in (ROOT/'imgclf_nb').rglob('__init__.py'): assert re.fullmatch(r'(__version__ = "[\d.]+"\n)?', p.read_text()), p


def test_all_notebooks_are_seen(monkeypatch):
    "The gate's own list, nbdev's and what lies there are the same"
    from nbdev.doclinks import nbglob
    there = sorted(Path(d)/f for d,_,files in os.walk(ROOT/'nbs') for f in files if f.endswith('.ipynb') and '.ipynb_checkpoints' not in d)
    monkeypatch.chdir(ROOT)
    tested = sorted(Path(o).absolute() for o in nbglob(as_path=True))
    assert there == NOTEBOOKS == tested and len(there) > 60
    assert not list((ROOT/'nbs').rglob('.notest')), 'nbdev_test passes over a folder with .notest'
    assert not [name(p) for p in NOTEBOOKS if re.search('skip_exec', source(cells(p)[0]))], 'nbdev_test passes over these'


@pytest.mark.parametrize('folder', sorted({p.parent for p in NOTEBOOKS}), ids=lambda p: p.name)
def test_numbers_are_unique(folder):
    numbers = [p.name.split('_')[0] for p in NOTEBOOKS if p.parent == folder]
    assert len(set(numbers)) == len(numbers)


def get_export(path):
    "The module that a notebook becomes, dotted; None for a page"
    m = re.search(r'^#\| default_exp ([\w.]+)', '\n'.join(source(c) for c in cells(path) if c['cell_type'] == 'code'), flags=re.M)
    return m and m[1]


def get_notebook_imports(path):
    "Modules of ours that any cell of a notebook imports, also in its functions"
    code = '\n'.join(source(c) for c in cells(path) if c['cell_type'] == 'code')
    return get_imports(code, get_export(path) or '') - {get_export(path)}


def get_rank(module): return RANK[module.split('.')[0]]


@pytest.mark.parametrize('module', MODULES)
def test_a_module_imports_nothing_from_above(module):
    wrong = [o for o in get_imports(get_source(module), module) if get_rank(o) > get_rank(module)]
    assert not wrong, f'{module} imports {wrong}, which stand above it'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_a_notebook_imports_nothing_from_above(path):
    "Not even for its examples: whoever reads in order has met everything"
    here = get_export(path) or path.stem
    wrong = [o for o in get_notebook_imports(path) if get_rank(o) > get_rank(here)]
    assert not wrong, f'{name(path)} imports {wrong}, which stand above it'


def find_circle(graph):
    "A circle among the keys, or nothing"
    try: return TopologicalSorter(graph).prepare()
    except CycleError as e: return e.args[1]


def test_no_circle_of_imports():
    modules = {m: get_imports(get_source(m), m) for m in MODULES}
    packages = {}
    for m,below in modules.items(): packages.setdefault(m.split('.')[0], set()).update(o.split('.')[0] for o in below)
    for p,below in packages.items(): below.discard(p)
    assert not find_circle(modules) and not find_circle(packages)
    assert not find_circle({get_export(p) or name(p): get_notebook_imports(p) for p in NOTEBOOKS})


def test_the_order_is_checked():
    "The checks find what they are for"
    assert get_imports('def f():\n    from imgclf_nb.commands import evaluate_run', 'core') == {'commands'}
    assert get_imports('from ..train import x\nfrom .intervals import y', 'stats.slices') == {'train', 'stats.intervals'}
    assert get_imports('from imgclf_nb.stats import intervals as i', 'core') == {'stats.intervals'}
    assert find_circle(dict(a={'b'}, b={'c'}, c={'a'})) and not find_circle(dict(a={'b'}, b={'c'}))
    assert get_rank('stats.intervals') < get_rank('data') < get_rank('commands')


@pytest.mark.parametrize('module', MODULES)
def test_no_import_for_nothing_and_no_unknown_name(module):
    said = checker.Checker(ast.parse(get_source(module)), module).messages
    wrong = [o for o in said if not (isinstance(o, messages.UnusedImport) and o.message_args[0] in EFFECTS)]
    assert not wrong, '\n'.join(map(str, wrong))


@pytest.mark.parametrize('module', MODULES)
def test_no_private_name_crosses_a_module(module):
    tree = ast.parse(get_source(module))
    ours = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.level or (n.module or '').startswith('imgclf_nb'))]
    names = {a.asname or a.name for n in ours for a in n.names}
    seen = [n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in names and n.value.id.islower()]
    assert not [o for o in [a.name for n in ours for a in n.names] + seen if o.startswith('_')]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_parameters_cell_is_tagged_and_readable(path):
    "A Parameters heading is followed by the tagged cell, and each line is `name:type = default  # help`"
    src = [source(c) for c in cells(path)]
    tagged = [i for i,c in enumerate(cells(path)) if 'parameters' in c['metadata'].get('tags', [])]
    headed = [i for i,s in enumerate(src) if s.strip().split('\n')[0] == '## Parameters' and cells(path)[i]['cell_type'] == 'markdown']
    assert tagged == [i + 1 for i in headed]
    if not tagged: return  # a chapter without parameters
    for line in src[tagged[0]].splitlines(): assert re.match(r'\w+:(int|float|str|bool|list) = .+  # .+', line), line
    assert '#|' not in src[tagged[0]] and re.search(r'(check|get_page)_parameters\(', src[tagged[0]+1])


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_sizes_and_outputs(path):
    assert len(cells(path)) <= 62 and path.stat().st_size <= 300_000, f'{len(cells(path))} cells, {path.stat().st_size} bytes'
    for c in cells(path):
        for o in c.get('outputs', []): assert o['output_type'] != 'error', source(c)


def ends_in_a_value(code):
    "Whether the last line of a cell is a value that a reader wants to see: not a call that only does or checks something"
    last = (ast.parse(code).body or [None])[-1]
    if not isinstance(last, ast.Expr) or code.rstrip().endswith(';'): return False
    if not isinstance(last.value, ast.Call): return not isinstance(last.value, ast.Constant)
    f = last.value.func
    called = f.attr if isinstance(f, ast.Attribute) else getattr(f, 'id', '')
    return not re.match('test_|check_|assert_|print$|display$|rmtree$|start$|stop$|close$|write_|keep$|unlink$|mkdir$|patch_|set_|step$', called)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_a_value_is_seen(path):
    "A cell that ends in a value has an output: the notebook was executed after it was written"
    for c in cells(path):
        if c['cell_type'] != 'code' or source(c).startswith('#|') or not ends_in_a_value(source(c)): continue
        assert c['outputs'], f'{name(path)}: `make refresh`: nothing is shown below\n{source(c)}'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_no_output_holds_a_path_of_this_machine(path):
    for c in cells(path):
        for o in c.get('outputs', []):
            texts = [o.get('text', ''), *(v for k,v in o.get('data', {}).items() if k.startswith('text/'))]
            found = re.search(r'(?<![\w./…~-])/(tmp|home|root|work|var|mnt|opt|srv|usr|Users|private)/\w', '\n'.join(''.join(t) for t in texts))
            assert not found, f'{name(path)} shows {found.string[found.start()-40:found.end()+60]!r}'


def find_dicts(text):
    "Printed Python dictionaries, by how they begin"
    return re.findall(r"""\{(?:'[^']*'|"[^"]*"|\d+): """, text)


@pytest.mark.parametrize('path', [p for p in NOTEBOOKS if p.parent == ROOT/'nbs'], ids=name)
def test_no_chapter_prints_a_dictionary(path):
    "Chapters are reports: a reader sees a table or a sentence, as from `get_value_table`"
    for c in cells(path):
        for o in c.get('outputs', []):
            text = ''.join(o.get('text', '')) + ''.join(o.get('data', {}).get('text/plain', ''))
            assert not find_dicts(text), f'{name(path)} prints a dictionary below\n{source(c)}'


@pytest.mark.parametrize('text, n', [
    ("{'valid': 38}", 1), ("({'a': {'b': 1}}, ['x'])", 2), ('{1: 2}', 1), ("{'a', 'b'}", 0), ('a set {x: y}', 0), ('accuracy 0.9', 0)])
def test_a_printed_dictionary_is_seen(text, n): assert len(find_dicts(text)) == n


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_an_import_cell_holds_imports_only(path):
    "The docs build runs every cell that holds an import"
    for c in cells(path):
        if c['cell_type'] != 'code': continue
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source(c)).body}
        quiet = 'warnings.filterwarnings' in source(c)
        assert len(kinds) < 2 or quiet, source(c)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_links_lead_somewhere(path):
    for c in cells(path):
        if c['cell_type'] != 'markdown': continue
        for target in re.findall(r'\]\(([^):]+\.ipynb)[^)]*\)', source(c)): assert (path.parent/target).exists(), f'{name(path)} links to {target}'


@pytest.mark.parametrize('module', MODULES)
def test_public_functions_say_what_they_do(module):
    for n in ast.parse(get_source(module)).body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_'): assert ast.get_docstring(n), f'{module}.{n.name}'


@pytest.fixture
def results(tmp_path, monkeypatch):
    "README, chapters, figures and results in a folder of their own, and benchmarks/tables.py"
    for o in ('benchmarks/results', 'nbs/figures'): shutil.copytree(ROOT/o, tmp_path/o)
    for path in [ROOT/'settings.ini', ROOT/'README.md', *(ROOT/'nbs').glob('*.ipynb')]: shutil.copy(path, tmp_path/path.relative_to(ROOT))
    monkeypatch.setenv('IMGCLF_HOME', str(tmp_path))
    monkeypatch.syspath_prepend(ROOT/'benchmarks')
    import tables
    return tables


def test_tables_and_figures_are_those_of_the_files(results, tmp_path):
    "README, chapters and figures say what benchmarks/results/ says; a row that lacks a key fails here too"
    stale = [path.name for path in results.find_stale(tmp_path)]
    assert not stale, f'{stale}: run `make tables` and commit'
    chapter, coverage = ((ROOT/'nbs'/f'{o}.ipynb').read_text(encoding='utf-8') for o in ('13_results', '13a_coverage'))
    assert [o for o in results.list_measured() if f"show_measured('{o}')" not in chapter] == ['coverage']
    assert 'show_coverage()' in coverage


@pytest.mark.parametrize('file', ['README.md', 'nbs/13_results.ipynb', 'benchmarks/results/sets.json'])
def test_an_edited_number_is_noticed(results, tmp_path, file):
    path = tmp_path/file
    n = results.read_measured('sets').rows[0]['train']
    number, edited = (f'"train": {o}' if file.endswith('.json') else f'{o:,} / ' for o in (n, n + 1))
    text = path.read_text(encoding='utf-8')
    assert number in text
    path.write_text(text.replace(number, edited, 1), encoding='utf-8')
    assert results.find_stale(tmp_path)


@pytest.mark.parametrize('page', ['20_pc_parts', '21_cats_vs_dogs', '22_fruits360', '23_instruments', '24_chest_xray'])
def test_a_changed_row_changes_the_sentences_and_figures_of_its_page(results, tmp_path, page):
    from imgclf_nb.results.measured import find_row, keep_measured, read_measured
    row = find_row(read_measured('sets'), set=page[3:])
    keep_measured('sets', [dict(row, fine_tuned_test=dict(value=.123, low=.12, high=.13))], tmp_path/'benchmarks'/'results')
    pages = dict(results.get_texts(tmp_path))
    assert pages[tmp_path/'nbs'/f'{page}.ipynb'].count('12.3 %') >= 1
    here = [path.stem for path in results.find_stale(tmp_path) if re.match(r'2\d_', path.stem)]
    assert here == [page]  # and no other page
    before, after = (json.loads(o) for o in ((ROOT/'nbs'/f'{page}.ipynb').read_text(), pages[tmp_path/'nbs'/f'{page}.ipynb']))
    drawn = [i for i,c in enumerate(before['cells']) if source(c).startswith('plot_measured(') and c['outputs'] != after['cells'][i]['outputs']]
    assert len(drawn) == 1  # the figure of the accuracies


def test_no_page_repeats_a_measured_number_by_hand():
    "Results in the prose of the project pages come from rows"
    for path in sorted((ROOT/'nbs').glob('2?_*.ipynb')):
        after = [source(c) for c in cells(path)]
        prose = after[after.index(next(s for s in after if s.startswith('## Measured'))):]
        typed = [s for s,c in zip(prose, cells(path)[-len(prose):]) if c['cell_type'] == 'markdown' and re.search(r'\d+(\.\d+)? %|0\.\d|percentage points', s)]
        assert not typed, f'{name(path)}: {typed}'


@pytest.mark.parametrize('key', ['command', 'commit', 'machine', 'date', 'images'])
def test_a_row_without_its_origin_is_refused(results, tmp_path, key):
    path = tmp_path/'benchmarks'/'results'/'sets.json'
    table = json.loads(path.read_text(encoding='utf-8'))
    del table['rows'][1][key]
    path.write_text(json.dumps(table), encoding='utf-8')
    with pytest.raises(results.UserError, match=f"sets.json: row 2: '{key}' is missing"): results.find_stale(tmp_path)


def test_cells_read_no_worse_than_before():
    "The figures of readability.json may only get better; `make export` keeps what did"
    figures, kept = measure(NOTEBOOKS), json.loads(KEPT.read_text())
    worse = {name: (kept[name], figures[name]) for name in is_worse(figures, kept)}
    assert not worse, f'kept and now: {worse}; `python tests/readability.py NOTEBOOK` shows the places'


def test_a_worse_figure_is_seen():
    figures = dict(median_lines=9, single_definition_percent=90., lines_over_100_percent=2., exported_lines_over_110=0, longest_cell=30)
    assert not is_worse(figures, figures) and not is_worse(dict(figures, median_lines=8, single_definition_percent=91.), figures)
    assert is_worse(dict(figures, median_lines=10), figures) == ['median_lines']
    assert is_worse(dict(figures, single_definition_percent=89.), figures) == ['single_definition_percent']


def test_the_words_of_the_field():
    "Prose, comments and messages say what the field says"
    assert not (found := [line for path in NOTEBOOKS for line in find_notebook_words(path)]), '\n'.join(found)


@pytest.mark.parametrize('text, words', [
    ('how many pictures are alike', ['pictures']), ('a film of frames', ['film']), ('89 % named rightly', ['rightly']),
    ("a column `pictures` and r['pictures']", []), ('-p pictures 300', []), ('filmed on a plate', []), ('dict(pictures=3)', [])])
def test_a_word_is_seen(text, words): assert find_words(text) == words
