"Names of files, classes, sets and runs, and entries of a run.json of somebody else, are texts everywhere: in the model\
 card, in pages, figures, tables and messages, in what spreadsheets open and in commands that users copy"
import json, re, shlex, shutil, subprocess

import mistune, pytest

from imgclf_nb.base.quoting import quote_word
from imgclf_nb.reporting.facts import get_example
from imgclf_nb.reporting.model_card import make_card

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
