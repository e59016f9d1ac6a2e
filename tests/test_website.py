"The site: three of its pages, rendered with its real settings, are opened in headless Chromium"
import shutil

import pytest, yaml

from conftest import NOTEBOOKS, ROOT
from website import (MOST_BYTES, find_browser, find_outside, find_problems, slim,
    slim_stylesheet)

pytestmark = pytest.mark.xdist_group('website')  # the site is built once
needs_browser = pytest.mark.skipif(find_browser() is None, reason='no Chromium or Chrome here')
PAGES = ('01a_audit', '04_train')
BAD = '''<!doctype html><html><head><style>@import url(https://fonts.invalid/a.css);</style></head>
<body style="background: white"><main>
<pre><code>{}</code></pre><p style="width: 900px">wide</p><div style="overflow-x: auto"><p
style="width: 900px">scrolls</p></div><img src="https://images.invalid/a.png"><img src="none.png">
</main><nav id="quarto-sidebar" style="height: 2000px"></nav><script>
console.error('it is broken'); missing()</script></body></html>'''.format('x' * 400)


def process(path, to):
    "A notebook as the docs build hands it to smalldocs, but for the cells that need its module"
    from execnb.nbio import read_nb, write_nb
    from nbdev.processors import FilterDefaults, NBProcessor
    notebook = read_nb(path)
    running = ('add_show_docs', 'exec_show_docs', 'clean_show_doc')
    steps = [step for step in FilterDefaults().procs() if step.__name__ not in running]
    NBProcessor(nb=notebook, procs=steps).process()
    write_nb(notebook, to)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The home page and two chapters, as `make docs` renders them"
    build = pytest.importorskip('smalldocs.site', reason='smalldocs needs Python 3.11').build
    project = tmp_path_factory.mktemp('site')/'_proc'
    shutil.copytree(ROOT/'nbs'/'figures', project/'figures')
    for name in ('styles.css', '_quarto.yml'): shutil.copy(ROOT/'nbs'/name, project)
    home = (ROOT/'README.md').read_text(encoding='utf-8').replace('(nbs/', '(')
    (project/'index.md').write_text(home, encoding='utf-8')
    for page in PAGES: process(ROOT/'nbs'/f'{page}.ipynb', project/f'{page}.ipynb')
    build(project, quiet=True)
    slim(project.parent/'_docs')
    return project.parent/'_docs'


def get_listed(entry):
    "The pages that an entry of the sidebar names, its own first"
    if isinstance(entry, str): return [entry]
    own = [entry['href']] if 'href' in entry else []
    return own + [name for part in entry.get('contents', []) for name in get_listed(part)]


def test_each_notebook_is_once_in_the_sidebar():
    sidebar = yaml.safe_load((ROOT/'nbs'/'_quarto.yml').read_text())['website']['sidebar']
    paths = [path for name in get_listed(sidebar) for path in (ROOT/'nbs').glob(name)]
    assert sorted(paths) == NOTEBOOKS


def test_nothing_comes_from_elsewhere(site): assert not find_outside(site)


def test_the_themes_are_small_and_whole(site):
    for mode in ('cosmo', 'darkly'):
        text = (site/'site_libs'/'themes'/f'{mode}.min.css').read_text()
        assert len(text) < MOST_BYTES/10
        assert '.navbar{' in text and '.collapsing{' in text and '.dropdown-menu{' in text
        assert '.btn-outline-warning' not in text and text.count('{') == text.count('}')


@pytest.mark.parametrize('css, kept', [
    ('.a{b:c}.x{b:c}', '.a{b:c}'), ('p,.x{b:c}', 'p,.x{b:c}'), ('.a .x{b:c}', ''),
    ('.a:not(.x){b:c}', '.a:not(.x){b:c}'), ('@media (max-width:1px){.x{b:c}}.a{b:c}', '.a{b:c}'),
    ('@media print{.a{b:c}.x{b:c}}', '@media print{.a{b:c}}'),
    ('@keyframes k{0%{b:c}to{b:d}}', '@keyframes k{0%{b:c}to{b:d}}'),
    ('@import url(https://a.invalid/b?c;d);:root{--b:1}', ':root{--b:1}')])
def test_a_rule_stays_if_it_can_match(css, kept): assert slim_stylesheet(css, {'a'}) == kept


@needs_browser
def test_pages_fit_a_laptop_and_a_phone(site): assert not find_problems(site)


@needs_browser
def test_what_is_wrong_with_a_page_is_seen(tmp_path):
    (tmp_path/'bad.html').write_text(BAD)
    assert len(find_outside(tmp_path)) == 1
    found = '\n'.join(find_problems(tmp_path)['bad.html'])
    assert f'cut off at 1400: {"x" * 400}' in found and 'is light in a dark window' in found
    assert 'asks elsewhere: https://images.invalid/a.png' in found
    assert 'asks elsewhere: https://fonts.invalid/a.css' in found
    assert 'it is broken' in found and 'console: Uncaught' in found
    assert 'an image does not load' in found and 'beyond the window at 400: <p> wide' in found
    assert 'the end of the sidebar is out of reach at 400' in found
    assert '<p> scrolls' not in found
