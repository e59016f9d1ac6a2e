"""Commands that are interrupted, whose reader goes away, with odd values and narrow encodings"""
import json, os, signal, subprocess, sys, time
from pathlib import Path

from attacks.cases import Lost, Shown, Silent
from attacks.samples import draw

PLANTED = 12
BIN = Path(sys.executable).parent
QUICK = '''-p arch mobilenetv3_small_050 -p weights none -p size 32 -p epochs 3 -p batch_size 16
    -p precision fp32'''.split()
LONGEST = 100  # seconds that a command may take


def write_set(folder, names=('cat', 'dog')):
    "A small set"
    for i in range(40):
        path = folder/names[i % 2]/f'{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw(i, 48))
    return folder


def get_env(folder, **more):
    "Places of its own for a command"
    own = {f'IMGCLF_{name}': str(folder/name.lower()) for name in ('RUNS', 'RECORDS', 'CACHE')}
    return {**os.environ, **own, 'PYTHONUNBUFFERED': '1', **more}


def start(words, folder, **more):
    "A command in a session of its own, as a terminal starts it"
    name, *rest = map(os.fsencode, map(str, words))
    script = PLANTED_COMMAND or [os.fsencode(sys.executable), os.fsencode(BIN)+b'/'+name]
    return subprocess.Popen([*script, *rest], cwd=folder, env=get_env(folder, **more),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, preexec_fn=hear_signals)


PLANTED_COMMAND = []


def hear_signals():
    "Signals as in a terminal: a background process may have been told to ignore them"
    for number in SIGNALS.values(): signal.signal(number, signal.SIG_DFL)


def list_session(session):
    "Living processes of a session"
    found = []
    for name in filter(str.isdigit, os.listdir('/proc')):
        try: fields = Path(f'/proc/{name}/stat').read_text().rsplit(')', 1)[1].split()
        except OSError: continue  # it has ended meanwhile
        if int(fields[3]) == session and fields[0] != 'Z': found.append(int(name))
    return found


def finish(process, seconds=LONGEST):
    "`(exit code, output)`; `Shown` for one that does not end"
    try: out = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        end_session(process)
        raise Shown(f'it did not end within {seconds} s') from None
    return process.returncode, out.decode('utf-8', 'replace')


def end_session(process):
    "Kill what is left of a command"
    for pid in list_session(process.pid): os.kill(pid, signal.SIGKILL)
    process.wait()


BAD = ('Traceback (most recent call last)', 'Exception ignored', 'BrokenPipeError',
    'UnicodeEncodeError', 'Error in atexit')

def check_output(out):
    "`Shown` for a traceback or what Python says on its way out"
    for words in BAD:
        if words in out: raise Shown(f'{words}: {out[max(0, out.index(words)-100):][:600]}')


# ---- signals

SIGNALS = {'Ctrl-C': signal.SIGINT, 'SIGTERM': signal.SIGTERM, 'SIGHUP': signal.SIGHUP}

def send(process, number, whole):
    "A signal to a command, or to all of its group as a terminal sends it"
    try: (os.killpg if whole else os.kill)(process.pid, number)
    except ProcessLookupError: pass  # it has ended


def wait_gone(process, seconds=25):
    "`Shown` if a process of the command stays"
    until = time.time() + seconds
    while list_session(process.pid):
        if time.time() > until:
            end_session(process)
            raise Shown('a process of it stays')
        time.sleep(.1)


def check_run(folder):
    "run.json is whole; where the run is done its notebook is in its place"
    for path in (folder/'runs').glob('*/run.json'):
        record = json.loads(path.read_text())
        hidden = [o.name for o in path.parent.glob('.*.ipynb')]
        if record['status'] == 'done' and hidden: raise Lost(f'{hidden[0]} of a finished run stays hidden')


def attack_signal(case):
    "A training or an audit is interrupted at any moment; half of the time the same command follows"
    name = case.rng.choice(list(SIGNALS))
    wait = case.rng.choice([case.rng.uniform(0, 3), case.rng.uniform(0, 16)])
    whole = case.rng.random() < .6
    audit = case.rng.random() < .3
    write_set(case.folder/'pets')
    words = ['imgclf_audit', 'pets'] if audit else ['imgclf_run', 'pets', '--run', 'x', *QUICK]
    case.title(f"{words[0]}, {name} after {wait:.1f} s to {'all' if whole else 'one'}")
    process = start(words, case.folder)
    time.sleep(wait)
    ended = process.poll() is not None
    send(process, SIGNALS[name], whole)
    code, out = finish(process)
    wait_gone(process)
    check_output(out)
    if not ended and code == 0 and not is_complete(out): raise Silent(f'exit code 0: {out[-200:]}')
    if not ended and code > 0 and not out.strip(): raise Silent('it ended without a word')
    check_run(case.folder)
    if case.rng.random() < .5: run_again(case, words)


def is_complete(out):
    "Whether a command said its result"
    return any(words in out for words in ('The page:', 'README', 'accuracy', 'model card'))


def run_again(case, words):
    "The same command ends well, and its notebooks are in their places"
    code, out = finish(start(words, case.folder))
    check_output(out)
    if code: raise Lost(f'the same command ended with {code}: {out[-300:]}')
    check_run(case.folder)
    if words[0] == 'imgclf_run' and not (case.folder/'runs'/'x'/'04_train.ipynb').exists():
        raise Lost('the executed notebook is missing')


# ---- readers that go away

CHEAP = (['imgclf_cache'], ['imgclf_leaderboard'], ['imgclf_audit', 'pets', '--no-labels'],
    ['imgclf_run', '--help'], ['imgclf_audit', '--help'], ['imgclf_fetch', 'nothing'],
    ['imgclf_run', 'nothing'], ['imgclf_compare', 'a', 'b'], ['imgclf_evaluate', 'nothing'])

def attack_pipe(case):
    "`| head`: the reader goes away at once, or after the first bytes"
    words, at_once = case.rng.choice(CHEAP), case.rng.random() < .5
    both = case.rng.random() < .3
    case.title(f"{' '.join(words)} | {'true' if at_once else 'head -c 1'}{', errors too'*both}")
    write_set(case.folder/'pets')
    script = [sys.executable, str(BIN/words[0])]
    reader = 'true' if at_once else 'head -c 1 > /dev/null'
    line = f'{{ "$@"; echo "code $?" > code; }} {"2>&1" if both else "2> errors"} | {reader}'
    words = ['bash', '-c', line, 'x', *(PLANTED_COMMAND or script), *words[1:]]
    (case.folder/'errors').touch()
    done = subprocess.run(words, cwd=case.folder, env=get_env(case.folder), timeout=LONGEST,
        stdin=subprocess.DEVNULL, capture_output=True)
    said = (case.folder/'errors').read_bytes() + done.stderr
    check_output(said.decode(errors='replace'))


# ---- narrow encodings

PLAIN = {'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
NARROW = ({'PYTHONIOENCODING': 'ascii'}, {'PYTHONIOENCODING': 'latin-1'}, {'PYTHONIOENCODING': 'cp1252'},
    {'LC_ALL': 'C', **PLAIN}, {'LC_ALL': 'POSIX', **PLAIN})

def attack_encoding(case):
    "A terminal that knows no umlauts and no dashes"
    env = case.rng.choice(NARROW)
    words = case.rng.choice([*CHEAP, ['imgclf_audit', 'käse–set', '--no-labels'], ['imgclf_run', 'kä☃'],
        ['imgclf_run', 'pets', '-p', 'lr', '–1'], ['imgclf_run', 'pets', '--run', 'x', *QUICK]])
    case.title(f"{' '.join(words[:3])}, {env}")
    write_set(case.folder/'pets')
    write_set(case.folder/'käse–set', ('Käse', '犬☃'))
    code, out = finish(start(words, case.folder, **env))
    check_output(out)
    if not out.strip(): raise Silent('it said nothing')
    good = '--run' in words or '--no-labels' in words
    if good and code: raise Lost(f'it ended with {code}: {out[-300:]}')


# ---- odd values

ODD = {
    'lr': ('1e-3', '1E-3', '.5', 'inf', 'nan', '-1', '0', '1e400', '0x10', '1,5', '1_0', 'True', '', ' '),
    'size': ('32.0', '1e2', '-32', '0', '9'*11, 'x', '32px', '[32]', 'None', 'True', '３２', '1_0'),
    'epochs': ('0', '-1', '1.5', '1e1', '9'*400, 'nan', 'one'),
    'seed': ('-1', '1_000', '1e3', '9'*30, '007', 'None'), 'policy': ('[', 'None', '5', ''),
    'arch': ('resnet', '', 'None', '5', '../x', 'hf_hub:x', 'a b'), 'precision': ('fp8', '', '16'),
    'weights': ('nothing.pth', '.', '/', '/dev/null', ''), 'batch_size': ('0', '-1', '1e9', 'x'),
    'cache': ('false', 'no', '0', 'False', 'maybe'), 'positive': ('nobody', '1', ''),
    'strict': ('false', '1', 'yes'), 'nothing': ('1',), 'valid': ('0', '1', '2', '-.1', 'nan'), 'test': ('.99', '1.0', '50%')}
RUN_NAMES = ('2026_01_09', '1e5', '007', '1.0', 'True', 'None', '0x10', '12', '-5', '1_000', 'nan')


def attack_value(case):
    "A value that is not allowed, or looks like a number: refused before anything is computed"
    name = case.rng.choice(list(ODD))
    value = case.rng.choice(ODD[name])
    case.title(f'imgclf_run pets -p {name} {value[:20]!r}')
    write_set(case.folder/'pets')
    words = ['imgclf_run', 'pets', '--run', 'x', *QUICK]
    code, out = finish(start([*words, '-p', name, value], case.folder))
    check_output(out)
    if code and not out.strip(): raise Silent('it said nothing')
    late = code and 'Reading the images and computing' in out and name != 'weights'
    if late: raise Shown(f'refused only after the probe: {out[-200:]}')


def attack_name(case):
    "A run's name that looks like a number stays as it was written"
    name, how = case.rng.choice(RUN_NAMES), case.rng.choice(['--run', '-p run'])
    case.title(f'imgclf_run pets {how} {name}')
    write_set(case.folder/'pets')
    given = [f'--run={name}'] if how == '--run' else ['-p', 'run', name]
    code, out = finish(start(['imgclf_run', 'pets', *given, *QUICK], case.folder))
    check_output(out)
    made = [path.parent.name for path in (case.folder/'runs').glob('*/run.json')]
    if code == 0 and made != [name]: raise Silent(f'the run is called {made}')
    may_refuse = how == '-p run' and name in ('None', '-5')
    if code and not may_refuse: raise Lost(f'refused: {out[-200:]}')


def attack(case):
    "One command"
    kinds = (attack_signal, attack_value, attack_pipe, attack_signal, attack_encoding, attack_value,
        attack_name, attack_pipe)
    case.pick(kinds)(case)


# ---- wrong commands, which must be reported

def plant(code):
    "A command that is this Python code"
    return lambda shared: PLANTED_COMMAND.extend([sys.executable, '-c', code])


PLANTS = {
    'traceback': plant('import time; time.sleep(1); print("x"*99999); 1/0'),
    'silent': plant('import time; time.sleep(3)'),
    'lost': plant('import sys, time; print("accuracy"); time.sleep(1); sys.exit(3)')}


def prepare(folder):
    "Nothing is needed"
    return {}
