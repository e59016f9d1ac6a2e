"What a user gives to make is a text: it reaches the command as it is, and nothing in it is run"
import json, os, re, shutil, subprocess, sys

import pytest

from conftest import ROOT

pytestmark = pytest.mark.skipif(not shutil.which('make'), reason='make is not installed')

SHOW = f'''#!{sys.executable}
import json, sys
print(json.dumps(sys.argv[1:]))
'''
COMMANDS = 'run fetch audit evaluate compare leaderboard'.split()
HOSTILE = [
    '$(touch x)', '`touch x`', '$(shell touch x)', "'; touch x; '", '"; touch x; "', '$(eval $(shell touch x))',
    'a b', "a'b", 'a"b', 'a$b', 'a$$b', 'a#b', 'a\nb', 'a\\', 'a;b', 'a|b', 'a&b', '~', '*', '${HOME}', '%', 'ü 苹果',
    '--help', '-x', '$', '$(', '$(info x)', '$(error x)', '@echo', ' a ', 'a=b', 'a,b', '{a,b}', '\x1b[2J', '$@ $< $^']


@pytest.fixture(scope='module')
def venv(tmp_path_factory):
    "An environment that counts as set up, whose commands show their arguments"
    folder = tmp_path_factory.mktemp('made')/'venv'
    (folder/'bin').mkdir(parents=True)
    for name in COMMANDS:
        (folder/'bin'/f'imgclf_{name}').write_text(SHOW)
        (folder/'bin'/f'imgclf_{name}').chmod(0o755)
    (folder/'bin'/'python').symlink_to(sys.executable)
    (folder/'.ready').touch()
    return folder


def make(venv, target, given=(), **env):
    "Exit code and output of make, in a folder in which nothing may appear"
    before = set(os.listdir(ROOT))
    env = {**os.environ, **env}
    done = subprocess.run(['make', '--no-print-directory', '-C', str(ROOT), target, f'VENV={venv}', *given], cwd=venv,
        env=env, capture_output=True, text=True, timeout=120)
    assert set(os.listdir(ROOT)) == before and not (venv/'x').exists(), 'make ran what was in a value'
    return done.returncode, done.stdout, done.stderr


def get_words(venv, target, given=(), **env):
    "The arguments with which make called the command"
    code, out, err = make(venv, target, given, **env)
    assert code == 0, (out, err)
    return json.loads(out)


def in_groups(n): return [HOSTILE[i:i+n] for i in range(0, len(HOSTILE), n)]


@pytest.mark.parametrize('texts', in_groups(3), ids=repr)
def test_a_value_in_the_environment_is_never_run(venv, texts):
    data, arch, run = (*texts, 'c', 'd')[:3]
    assert get_words(venv, 'train', DATASET=data, ARCH=arch, RUN=run) == [f'--arch={arch}', f'--run={run}', '--', data]


@pytest.mark.parametrize('texts', in_groups(4), ids=repr)
def test_a_value_in_a_word_of_make_is_never_run(venv, texts):
    "make drops blanks at its beginning, as it always does"
    for a,b in zip(texts[::2], [*texts, 'c'][1::2]):
        assert get_words(venv, 'compare', [f'A={a}', f'B={b}']) == ['--', a.lstrip(' '), b.lstrip(' ')]


@pytest.mark.parametrize('target, given, words', [
    ('fetch', dict(DATASET='x'), ['--', 'x']), ('audit', dict(DATASET='x y'), ['--', 'x y']),
    ('evaluate', dict(RUN='x'), ['--', 'x']), ('train', {}, ['--', 'pc_parts_mini']), ('leaderboard', {}, [])])
def test_every_target_hands_its_values_on(venv, target, given, words): assert get_words(venv, target, **given) == words


@pytest.mark.parametrize('args, words', [
    ('-p epochs 5', ['-p', 'epochs', '5']), ("--decide 'a b' keep ''", ['--decide', 'a b', 'keep', '']),
    ('-p x $(touch x) `touch x`', ['-p', 'x', '$(touch', 'x)', '`touch', 'x`']), ('* ~ $HOME', ['*', '~', '$HOME']),
    ('$(shell touch x);touch x', ['$(shell', 'touch', 'x);touch', 'x'])])
def test_args_are_split_into_words_and_not_run(venv, args, words):
    "They come before the -- that ends the options"
    assert get_words(venv, 'audit', DATASET='d', ARGS=args) == [*words, '--', 'd']


def test_args_with_an_open_quote_are_refused_in_a_sentence(venv):
    code, _, said = make(venv, 'audit', ARGS="--out 'a")
    assert code and 'close each quote' in said and 'Traceback' not in said


@pytest.mark.parametrize('given, fine', [
    (dict(DATASET='pc_parts', ARCH='resnet18', RUN='pc_parts-resnet18-s0-77', ARGS='-p seed 0'), True),
    (dict(DATASET='$(touch x)'), False), (dict(DATASET='../etc'), False), (dict(ARCH='a b'), False), (dict(RUN='a/b'), False),
    (dict(RUN='..'), False), (dict(DATASET='-x'), False), (dict(DATASET='a\nb'), False), (dict(ARGS='-p seed 0 --run x'), False),
    (dict(ARGS='-p seed $(x)'), False), (dict(ARGS='0'), False), (dict(ARCH='hf-hub:a/b'), False)])
def test_a_workflow_can_refuse_what_is_no_plain_word(venv, given, fine):
    code, said, _ = make(venv, 'check-names', **{**dict(DATASET='a', ARCH='', RUN='', ARGS=''), **given})
    assert (code == 0) == fine and bool(said) != fine


def test_no_recipe_holds_a_value():
    "A value stands in a recipe only as \"$$NAME\": make writes no user's text into a shell line"
    recipes = [line for line in (ROOT/'Makefile').read_text().splitlines() if line.startswith('\t')]
    assert not [line for line in recipes if re.search(r'(?<!\$)\$[({](DATASET|ARCH|RUN|A|B|NB|ARGS)\b', line)]
