"""What all attacks share: a case, what counts as a failure, and one sentence as the right answer"""
import json, os, random, re, signal, sys, tempfile, traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import imgclf_nb
from imgclf_nb.core import UserError

ROOT = Path(imgclf_nb.__file__).resolve().parent.parent  # the project under attack


class Lost(Exception):
    "An image, decision, ledger line or checkpoint that existed before is gone or is not counted"


class Silent(Exception):
    "Another result without a word"


class Shown(Exception):
    "A traceback, or a library's inner words, that a user would see; a process that hung or died"


@dataclass
class Case:
    "One attack: its number, its random numbers, an empty folder, and what the group prepared"
    number:int
    rng:random.Random
    folder:Path
    shared:dict
    report:object = print  # called with each name
    name:str = ''
    tried:int = 1          # images or files in it
    notes:list = field(default_factory=list)

    def title(self, name):
        "Say what is attacked, before anything can hang"
        self.name = str(name)
        self.report(dict(number=self.number, name=self.name))

    def pick(self, options):
        "The option of this number: each comes up before one comes up again"
        options = list(options)
        return options[self.number % len(options)]


def make_case(group, seed, number, folder, shared, report):
    "The case with this number: the same for the same seed"
    rng = random.Random(f'{seed} {group} {number}')
    return Case(number, rng, folder, shared, report)


def ask(function, *args, **kwargs):
    "`(result, None)`, or `(None, sentence)` where the function raises a `UserError`"
    try: return function(*args, **kwargs), None
    except UserError as error:
        check_sentence(error)
        return None, str(error)


BAD_WORDS = ('weights_only=False', 'Traceback (most recent call last)', 'object has no attribute',
    'object is not subscriptable', 'indices must be integers')

def check_sentence(error):
    "`Shown` for a message without words, or with a library's inner ones"
    text = str(error)
    if len(text) < 20: raise Shown(f'no sentence: {text!r}')
    for words in BAD_WORDS:
        if words in text: raise Shown(f'inner words {words!r} in: {text}')


def expect_sentence(function, *args, **kwargs):
    "The sentence of a function that must refuse; `Silent` if it does not"
    result, sentence = ask(function, *args, **kwargs)
    if sentence is None: raise Silent(f'accepted: {str(result)[:120]}')
    return sentence


def read_tree(folder):
    "The content of all files below a folder, by relative path"
    files = sorted(path for path in Path(folder).rglob('*') if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def find_difference(before, after):
    "The first file that is gone, changed or new, in words; '' if none is"
    for name in sorted({*before, *after}):
        if name not in after: return f'{name} is gone'
        if name not in before: return f'{name} is new'
        if before[name] != after[name]: return f'{name} has another content'
    return ''


def shorten(text, most=300):
    "One line of text"
    return re.sub(r'\s+', ' ', str(text))[:most]


def classify(error):
    "`(outcome, reason)` of what a case raised"
    if isinstance(error, Lost): return 'lost', shorten(error)
    if isinstance(error, Silent): return 'silent', shorten(error)
    if isinstance(error, Shown): return 'traceback', shorten(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f'{Path(frames[-1].filename).name}:{frames[-1].lineno}' if frames else ''
    return 'traceback', shorten(f'{type(error).__name__}: {error} ({place})')


@contextmanager
def captured():
    "Everything that this process and its children print goes to a file, which is handed out"
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try: yield file
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for fd,old in zip((1, 2), kept):
                os.dup2(old, fd)
                os.close(old)


def read_output(file):
    "What was captured so far"
    sys.stdout.flush()
    sys.stderr.flush()
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode('utf-8', 'replace')


@contextmanager
def limited(seconds):
    "`Shown` after so many seconds, where Python can be interrupted"
    def stop(*_): raise Shown(f'it hung for more than {seconds} s')
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try: yield
    finally: signal.alarm(0)


def judge(attack, case, seconds):
    "Run one attack: its outcome as a row"
    with captured() as file:
        case.output = lambda: read_output(file)
        try:
            with limited(seconds): attack(case)
            found = 'survived', ''
        except (Exception, KeyboardInterrupt) as error: found = classify(error)
        said = read_output(file)
    if found[0] == 'survived' and 'Traceback (most recent call last)' in said:
        found = 'traceback', shorten(said[said.index('Traceback'):])
    outcome, reason = found
    return dict(number=case.number, name=case.name, tried=case.tried, outcome=outcome,
        reason=reason)


def write_line(file, row):
    "A row as a line of JSON"
    file.write(json.dumps(row) + '\n')
    file.flush()
