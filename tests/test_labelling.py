"The labeller: keys become labels that are on disk at once, also of two people, and the page sends the right keys"
import json, os, subprocess, sys

import pandas as pd, pytest
from PIL import Image

from imgclf_nb.auditing.labelling import label_images, open_labeller, read_label_file
from imgclf_nb.auditing.review_page import _script, render_page
from imgclf_nb.core import UserError, write_csv
from website import find_browser

CLASSES = ['cat', 'dog', 'a "quoted" <b>']


@pytest.fixture
def asked(tmp_path):
    "next.csv with four images"
    names = [str(tmp_path/f'{i}.png') for i in range(4)]
    for i,name in enumerate(names): Image.new('RGB', (30, 20), (60*i, 0, 0)).save(name)
    write_csv(tmp_path/'next.csv', pd.DataFrame(dict(path=names, score=.9, reason='unsure <i>', predicted='dog')))
    return tmp_path/'next.csv'


def labels(asked): return read_label_file(asked.with_name('labels.csv')).label.tolist()
def press(w, key, label='', turn=None): w._handle_custom_msg(dict(key=key, label=label, turn=turn or w.page['turn']), [])


def test_keys_label(asked):
    pytest.importorskip('anywidget')
    w = label_images(asked, CLASSES, live=True)
    press(w, 'r', 'dog'); press(w, '3'); press(w, 'new', 'owl'); press(w, '3', turn=1)  # the last one came too early
    assert labels(asked) == ['dog', CLASSES[2], 'owl']
    press(w, 'u'); press(w, 'new', 'Cat')
    assert "written like the class" in w.page['html'] and labels(asked) == ['dog', CLASSES[2]]
    press(w, 'skip'); press(w, '4')
    assert 'only 3 classes' in w.page['html'] and '<i>' not in w.page['html'] and '<b>"' not in w.page['html']


def test_a_killed_process_loses_nothing(asked):
    code = f"from imgclf_nb.auditing.labelling import open_labeller; import os; open_labeller({str(asked)!r}, {CLASSES}).press('1', ''); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == -9
    assert labels(asked) == ['cat'] and open_labeller(asked, CLASSES).at == 1


def test_two_people_label_one_list(asked):
    a, b = open_labeller(asked, CLASSES), open_labeller(asked, CLASSES)
    b.skip().skip()
    for one in (a, b, a): one.press('1', '')
    assert len(labels(asked)) == 3 and a.progress == '3 of 4 labelled' and a.at == 3  # not 2, which b has labelled
    b.undo()
    assert len(labels(asked)) == 2


def test_what_is_wrong_with_the_files_is_said(asked, tmp_path):
    with pytest.raises(UserError, match='--next 100'): open_labeller(tmp_path/'gone.csv', CLASSES)
    with pytest.raises(UserError, match='no classes'): open_labeller(asked, [])
    with pytest.raises(UserError, match='no run'): open_labeller(asked, 'nothing')
    (tmp_path/'labels.csv').write_text('my,notes\n1,2\n')
    with pytest.raises(UserError, match='labels.csv'): open_labeller(asked, CLASSES)
    assert (tmp_path/'labels.csv').read_text() == 'my,notes\n1,2\n'
    (tmp_path/'labels.csv').unlink()
    os.remove(tmp_path/'0.png')
    r = open_labeller(asked, CLASSES)
    assert 'the file is gone' in render_page(r, {})
    with pytest.raises(UserError, match='press s'): r.press('1', '')
    assert r.skip().current['path'].endswith('1.png') and not (tmp_path/'labels.csv').exists()


PAGE = """<div id=a></div><script type=module>
const page = PAGE
window.sent = []
const model = {get: () => page, send: o => window.sent.push(o), on: () => 0, off: () => 0}
SCRIPT
render({model, el: document.getElementById('a')})
window.ready = true
</script>"""


def test_the_page_sends_the_keys(asked):
    playwright = pytest.importorskip('playwright.sync_api')
    if not find_browser(): pytest.skip('no Chromium: make test-tools')
    r = open_labeller(asked, CLASSES)
    page = json.dumps(dict(turn=1, keys=r.keys, html=render_page(r, {}))).replace('</', '<\\/')
    html = PAGE.replace('PAGE', page).replace('SCRIPT', _script.replace('export default {render}', ''))
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=find_browser(), args=['--no-sandbox'])
        tab = browser.new_page()
        tab.set_content(html)
        tab.wait_for_function('window.ready')
        tab.focus('#a')
        for key in ('Enter', '2', 's', 'ArrowLeft', 'u', 'd', 'x', 'n'): tab.keyboard.press(key)
        tab.keyboard.type('Snow owl 1')  # letters that are keys elsewhere
        tab.keyboard.press('Enter')
        sent = tab.evaluate('window.sent.map(o => [o.key, o.label])')
        browser.close()
    assert sent == [['r', 'dog'], ['2', 'dog'], ['skip', 'dog'], ['back', 'dog'], ['u', 'dog'], ['new', 'Snow owl 1']]
