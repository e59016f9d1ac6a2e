"Names of files, classes, sets and runs, and entries of a run.json of somebody else, are texts everywhere: in the model\
 card, in pages, figures, tables and messages, in what spreadsheets open and in commands that users copy"
import csv, re, shutil, subprocess, tempfile
from pathlib import Path
from types import SimpleNamespace

import mistune, numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from imgclf_nb.auditing.findings import make_findings
from imgclf_nb.auditing.report import write_page
from imgclf_nb.base.arguments import check_given
from imgclf_nb.base.parameters import check_parameters
from imgclf_nb.base.quoting import clean_output, quote_word
from imgclf_nb.base.running import run_notebook
from imgclf_nb.core import ParameterError, UserError, mark_formulas, read_csv, unmark_formulas, write_csv
from imgclf_nb.datasets.labels import find_several
from imgclf_nb.datasets.records import decide, log_opening, read_decisions, read_ledger
from imgclf_nb.images.preprocessing import Preprocessing
from imgclf_nb.reporting.facts import get_example
from imgclf_nb.reporting.model_card import make_card
from imgclf_nb.results.artifacts import read_predictions, tabulate
from imgclf_nb.results.manifest import get_hint, get_run_manifest, read_run_manifest
from imgclf_nb.robustness import check_evaluated

HOSTILE = [
    '<script>alert(1)</script>', '](javascript:alert(1))', '![x](http://e/x.png)', 'a|b', '`x`', '```\n<b>', '````', '$x$',
    '\x1b[2J', '\x9b2J', '\u202egnp', '\n\n# Head', '&lt;', '**b**', '--- \n---', '{{x}}', '<img src=x onerror=alert(1)>',
    "'; touch x; '", '$(touch x)', 'zz = open("x", "w"); size', '=1+1', 'a\rb', '<!--', '[a]: http://e', 'http://e', '1. a']
TAGS = set('h1 h2 p ul li a code pre table thead tbody tr th td strong em'.split())
MARKDOWN = mistune.create_markdown(escape=False, plugins=['table', 'strikethrough', 'url'])


def poison(o, bad):
    "Every text and one more key of a record replaced"
    if isinstance(o, dict): return {**{key: poison(value, bad) for key,value in o.items()}, bad: bad}
    if isinstance(o, list): return [*[poison(value, bad) for value in o], bad]
    return bad if isinstance(o, str) else o


def get_cards(bad):
    "Cards of records that hold this text in all places, in run.json, in model.json, and as the name of the set"
    record, model = get_example()
    for r,m in ((poison(record, bad), model), (record, poison(model, bad)), (poison(record, bad), poison(model, bad))):
        for dataset in ('chest_xray', bad): yield make_card({**r, 'dataset': dataset}, m)


def get_plain_headings():
    return [o for o in re.findall(r'^## .*', make_card(*get_example()), flags=re.M)]


@pytest.mark.parametrize('bad', HOSTILE, ids=repr)
def test_the_model_card_shows_and_never_obeys(bad):
    "Rendered with raw HTML allowed: only our tags, our links and our headings, and no control character"
    for card in get_cards(bad):
        assert not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]', card)
        page = MARKDOWN(card.split('\n---\n', 1)[1])
        assert set(re.findall(r'<(\w+)', page)) <= TAGS and '<!' not in page
        assert all(link.startswith('https://') for link in re.findall(r'href="([^"]*)', page))
        assert set(re.findall(r'<h2>(.*?)</h2>', page)) <= {o[3:] for o in get_plain_headings()}
        assert page.count('<h1>') == 1


BASH = shutil.which('bash')


@pytest.mark.skipif(not BASH, reason='bash is not installed')
@pytest.mark.parametrize('bad', HOSTILE, ids=repr)
def test_the_command_of_the_card_runs_nothing_of_a_value(bad, tmp_path):
    "The commands, in a shell in which papermill, git and mkdir only show their words"
    for card in get_cards(bad):
        block = re.search(r'^(`{3,})bash\n(.*?)\n\1$', card, flags=re.M | re.S)[2]
        show = 'show() { printf "%s\\0" "$@"; }; papermill() { show "$@"; }; git() { :; }; mkdir() { :; }\n'
        done = subprocess.run([BASH, '-c', show + block], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr and not list(tmp_path.iterdir())
        words = done.stdout.split('\0')
        names = [words[i+1] for i,word in enumerate(words) if word in ('-p', '-r')]
        assert all(name.isidentifier() for name in names), names


@pytest.mark.skipif(not BASH, reason='bash is not installed')
def test_a_quoted_word_comes_back():
    words = [*HOSTILE, "it's", '', 'a\tb', '\\', '\udcff', 'Äpfel 苹果', '\xa0']
    line = ' '.join(map(quote_word, words))
    done = subprocess.run([BASH, '-c', f'printf "%s\\0" {line}'], capture_output=True)
    assert done.stdout.split(b'\0')[:-1] == [word.encode('utf-8', 'surrogateescape') for word in words]
    assert line.isprintable() and '\n' not in line


CELLS = st.text(st.sampled_from('=+-@\t\r\n;,"\'a1 \xa0＝|'), max_size=8)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(text=CELLS)
def test_no_spreadsheet_finds_a_formula_and_every_text_comes_back(text):
    "Wherever some country's spreadsheet begins a cell"
    marked = mark_formulas(text)
    assert unmark_formulas(marked) == text
    assert not [cell for cell in re.split('[;\t\r\n]', marked) if re.match('[ \xa0]*[=+\\-@＝]', cell)]
    assert marked[:1] not in ('\t', '\r', '\n')


@settings(max_examples=30, derandomize=True, deadline=None)
@given(texts=st.lists(CELLS, min_size=1, max_size=5))
def test_a_table_comes_back(texts):
    "Also a \\r, which ended a row before; the numbers stay numbers"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder)/'a.csv'
        write_csv(file, pd.DataFrame(dict(text=texts, number=-1.5)))
        back = read_csv(file, dtype=dict(text=str), keep_default_na=False)
    assert list(back.text) == texts and set(back.number) == {-1.5}


def test_tables_of_a_run_and_of_a_set_show_no_formula(tmp_path, monkeypatch):
    "Predictions, the manifest, decisions and the ledger, with names as formulas; each is read back as it was"
    classes = ['=1+1', '-1', '@x']
    items = pd.DataFrame(dict(path=[f'/d/{c}/+a.png' for c in classes], file=[f'{c}/+a.png' for c in classes], label=classes,
        split='valid', sha256=['0'*64]*3, group=['', '=g', '=g'], sequence='', frame=0))
    run = SimpleNamespace(path=tmp_path)
    predictions = tabulate(np.eye(3), items, Preprocessing(classes=classes))
    write_csv(tmp_path/'predictions.csv', predictions)
    pd.testing.assert_frame_equal(read_predictions(run), predictions, check_dtype=False)
    write_csv(tmp_path/'manifest.csv', get_run_manifest(items))
    assert list(read_run_manifest(run).path) == list(items.file)
    monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path/'records'))
    (tmp_path/'set'/'=1+1').mkdir(parents=True)
    decide(str(tmp_path/'set'), list(items.file), 'relabel', classes, reason='+reason')
    decisions = read_decisions(str(tmp_path/'set'))
    assert list(decisions.path) == list(items.file) and list(decisions.value) == classes
    log_opening(str(tmp_path/'set'), '=run', items)
    assert list(read_ledger(str(tmp_path/'set')).run) == ['=run']
    tables = list(tmp_path.rglob('*.csv'))
    assert len(tables) == 4
    for table in tables:
        for row in csv.reader(table.open(newline='')): assert not [o for o in row if o[:1] in tuple('=+-@\t\r')], table


def test_tables_of_earlier_versions_are_read_as_before(tmp_path):
    (tmp_path/'a.csv').write_text('path,share\n=a.png,-0.5\n"a\nb",1\n')
    assert list(read_csv(tmp_path/'a.csv').path) == ['=a.png', 'a\nb']


@pytest.mark.parametrize('name', ['zz = open("x", "w"); size', 'import os; size', 'size\nx', 'size ', '', 'x', '__import__("os")'], ids=repr)
def test_papermill_gets_no_name_that_is_code(name, tmp_path, monkeypatch):
    "Of run_notebook, which every command uses, and of the commands themselves, before a kernel starts"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='Unknown parameter'): run_notebook('01_data', str(tmp_path/'run'), **{name: 32})
    for command in ('imgclf_run pc_parts_mini', 'imgclf_run pc_parts_mini --quick', 'imgclf_evaluate a'):
        with pytest.raises(UserError): check_given('05_evaluation' if 'evaluate' in command else '04_train', {name: 32})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('cell', ['import os; size = 64', 'zz = print("x"); size = 64', 'size.x = 3', 'size, lr = 1, 2', 'size += 1'])
def test_a_chapter_refuses_what_else_papermill_wrote_into_its_cell(cell):
    ns = dict(__annotations__=dict(size=int), size=64, In=[f'# Parameters\n{cell}\n'])
    with pytest.raises(ParameterError, match='is no parameter|Unknown parameter'): check_parameters(ns)


@pytest.mark.parametrize('bad', HOSTILE, ids=repr)
def test_the_audit_page_shows_and_never_obeys(bad, tmp_path):
    findings = make_findings([(bad, 'blurred', bad, bad)])
    write_page(tmp_path/'a.html', bad, [bad], findings, [(bad, bad, pd.DataFrame({bad: [bad]}))])
    page = (tmp_path/'a.html').read_text()
    assert not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]', page)
    ours = set('html meta title style h1 p h2 table tr th td details summary'.split())
    assert set(re.findall(r'<(\w+)', page)) <= ours and page.count('<!') == 1


@pytest.mark.parametrize('text', ['\x1b[2Jcat', '\x9b2J', '\x1b]0;title\x07', '\u202egnp.exe', 'a\rb', '\x7f', '\udcff', '\u2028', '\x00'], ids=repr)
def test_no_control_code_reaches_a_message_or_an_output(text):
    for shown in (str(UserError(f'There is no class {text}.')), clean_output(f'There is no class {text}.\n').rstrip('\n')):
        assert shown.isprintable() and shown.startswith('There is no class ') and shown.encode('utf-8')


@pytest.mark.parametrize('label', ['{[1]}', '{{}: 1}', '[' + '-'*5000 + '1]', '['*300 + ']'*300, '[\x00]', "['a'"], ids=lambda o: o[:8])
def test_a_label_in_the_syntax_of_python_is_only_read(label): assert find_several([label, 'b']) is None


def test_messages_quote_the_name_of_a_run(tmp_path):
    "A command in a message is copied, too"
    run = SimpleNamespace(path=tmp_path/'a; touch x', record={})
    assert "imgclf_evaluate 'a; touch x' --dataset" in get_hint(run)
    with pytest.raises(UserError, match="-r run 'a; touch x'"): check_evaluated(run)
