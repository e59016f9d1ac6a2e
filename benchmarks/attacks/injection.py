"""Names and values that are code elsewhere: in Python, make, shells, spreadsheets, terminals, browsers"""
import csv, io, json, os, re, subprocess
from pathlib import Path

import yaml

from imgclf_nb.base import arguments, running
from imgclf_nb.data import get_items
from imgclf_nb.datasets.choices import clean_name, get_decisions_path
from imgclf_nb.datasets.records import decide
from imgclf_nb.reporting import model_card
from attacks.cases import ROOT, Lost, Shown, Silent, ask
from attacks.commands import QUICK, check_output, finish, start
from attacks.finished import RECIPE, make_run
from attacks.samples import draw

PLANTED = 14


def prepare(folder):
    "A finished run"
    run = make_run(evaluated=False)
    fake = folder/'venv'
    (fake/'bin').mkdir(parents=True)
    for name in ('imgclf_run', 'imgclf_audit', 'imgclf_fetch', 'imgclf_evaluate', 'imgclf_compare',
            'imgclf_leaderboard', 'python', 'jupyter'):
        (fake/'bin'/name).write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$SEEN"\n')
        (fake/'bin'/name).chmod(0o755)
    (fake/'.ready').touch()
    (fake/'.lock.ready').touch()
    return dict(run=run, fake=fake)


def check_canary(case):
    "`Shown` if a name or a value was run as code"
    if (case.folder/'canary').exists(): raise Shown('a name or a value was run as code')


# ---- names and values of parameters

def make_code(case):
    "Python that writes the canary"
    path = str(case.folder/'canary')
    return case.rng.choice([f'open({path!r}, "w")', f'__import__("os").system("touch {path}")',
        f'__import__("pathlib").Path({path!r}).touch()'])


def make_pair(case):
    "A name and a value, one of them with code"
    code = make_code(case)
    size = case.rng.choice(['size', 'epochs', 'run', 'dataset', 'arch'])
    names = [f'zz = {code}; {size}', f'{size} = 1; {code} #', f'{size}\n{code}\n{size}', code,
        f'{size}: {code}', f'{size}[{code}]', f'x, {size}', f'{size} if {code} else {size}', '']
    values = [f'1; {code}', f'"; {code}; "', f"'; {code}; '", f'"""; {code}; """', f'\n{code}\n',
        f'\\" {code}', f'{{{code}}}', f'{code}', '\\', '%s' % code]
    if case.rng.random() < .5: return case.rng.choice(names), '32'
    named = ['run', 'arch', 'policy', 'weights', 'dataset', 'resize']
    return case.rng.choice(named), case.rng.choice(values)


def attack_parameters(case):
    "Code as the name or the value of a parameter, as `-p` takes it, and as a caller of the library"
    name, value = make_pair(case)
    case.title(f'-p {name!r} {value!r}')
    given, sentence = ask(arguments.read_given, '04_train', [(name, value)])
    if given is not None: sentence = ask(arguments.check_given, '04_train', given)[1]
    check_canary(case)
    if not name.isidentifier() and sentence is None: raise Silent('the name was accepted')
    if case.rng.random() < .4:
        wanted = {**RECIPE, name: value}
        wanted.pop('run', None)
        ask(running.run_notebook, '04_train', str(case.folder/'run'), quiet=True, **wanted)
    check_canary(case)


COMMANDS = {'train': 'DATASET RUN ARCH', 'audit': 'DATASET', 'fetch': 'DATASET', 'evaluate': 'RUN',
    'compare': 'A B'}

def attack_make(case):
    "A variable of make with code for make or a shell"
    path = case.folder/'canary'
    touch = f'touch {path}'
    codes = [f'$(shell {touch})', f'$$({touch})', f'`{touch}`', f'"; {touch}; "', f"'; {touch}; '",
        f'$({touch})', f'" $$({touch}) "', f'x && {touch}', f'x\n{touch}', f'" | {touch} #',
        f'$(eval X:=$(shell {touch}))', f'${{shell {touch}}}', f'\\"; {touch}; \\"']
    target = case.rng.choice(list(COMMANDS))
    variable = case.rng.choice(COMMANDS[target].split())
    code = case.rng.choice(codes)
    by_environment = case.rng.random() < .4
    case.title(f"make {target} {variable}={code!r}{' by environment' if by_environment else ''}")
    given = dict(SEEN=str(case.folder/'seen'))
    words = ['make', '--no-print-directory', target, f"VENV={case.shared['fake']}"]
    if by_environment: given[variable] = code
    else: words.append(f'{variable}={code}')
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **given}, capture_output=True, timeout=60)
    check_canary(case)
    seen = case.folder/'seen'
    if done.returncode or not seen.exists() or '\n' in code or '$' in code: return
    if code not in seen.read_text(): raise Silent(f'another value arrived: {seen.read_text()!r}')


# ---- hostile names of classes and files

NAMES = ('=cmd|x!A0', '=HYPERLINK("http:evil")', '@SUM(1)', '+1+1', '-1+1', '\t=1', '\r=1',
    '<script>alert(1)<', '<img src=x onerror=alert(1)>', '"><svg onload=alert(1)>', "'><b>x",
    '\x1b[31mred\x1b[0m', '\x1b]0;title\x07', '\x9b31m', 'a\nb', 'a,b', '"quoted"', '$(touch canary)',
    '`touch canary`', '{{7*7}}', '*', '--run', '~', '%s%n', '|x', '&amp;', 'a|b', '---', '# head',
    '[link](javascript:alert(1))',
    'ab\u202egpj.exe', '\u2028', 'null', 'nan')
HTML = ('<script', '<img src=x', '<svg onload', '<b>x')
CODES = re.compile('[\x1b\x9b\x07]')  # of terminals
FORMULA = re.compile(r'\s*[=+\-@\t\r]')


def write_hostile(case):
    "A set whose classes and files have hostile names; its folder"
    folder = case.folder/case.rng.choice(['set', '=set', '<script>set', '$(touch canary)'])
    classes = case.rng.sample([name for name in NAMES if '/' not in name], 3)
    for i in range(24):
        name = case.rng.choice(NAMES) if i % 3 == 0 else f'image{i}'
        path = folder/classes[i % 3]/f'{name}{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw(i, 48) if i % 8 else b'broken')
    return folder, classes


def is_formula(cell):
    "Whether a spreadsheet would compute this text"
    if not FORMULA.match(cell): return False
    try: float(cell)
    except ValueError: return len(cell.strip()) > 1
    return False


def check_csv(path):
    "`Silent` for a cell that a spreadsheet would compute"
    for row in csv.reader(io.StringIO(path.read_text(encoding='utf-8', errors='replace'))):
        for cell in row:
            if is_formula(cell): raise Silent(f'{path.name} holds the formula {cell!r}')


def check_text(name, text):
    "`Shown` for raw HTML or escape codes"
    for tag in HTML:
        start = max(0, text.find(tag) - 60)
        if tag in text: raise Shown(f'{name} holds {tag!r}: {text[start:start+140]!r}')
    if CODES.search(text): raise Shown(f'{name} holds an escape code')


def strip_code(text):
    "Markdown without code, in which tags are plain text"
    return re.sub(r'(?s)```.*?```|`[^`\n]*`', '', text)


def check_folder(folder):
    "All that was written: pages, tables, cards, executed notebooks"
    for path in sorted(folder.rglob('*')):
        if path.suffix == '.csv': check_csv(path)
        if path.suffix == '.html': check_text(path.name, path.read_text(encoding='utf-8'))
        if path.suffix == '.md': check_text(path.name, strip_code(path.read_text(encoding='utf-8')))
        if path.suffix == '.ipynb': check_notebook(path)


def check_notebook(path):
    "The outputs of an executed notebook that browsers and terminals show"
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        for output in cell.get('outputs', []):
            for kind,data in output.get('data', {}).items():
                if kind == 'text/html': check_text(f'{path.name}, HTML', ''.join(data))
            printed = ''.join(output.get('text', []))
            if CODES.search(printed): raise Shown(f'{path.name} prints an escape code')


def attack_audit(case):
    "An audit of a set with hostile names"
    folder, classes = write_hostile(case)
    case.title(f'audit of the classes {classes}')
    words = ['imgclf_audit', folder, '--out', case.folder/'out', '--no-labels']
    say(case, *finish(start(words, case.folder)))
    check_folder(case.folder/'out')


def say(case, code, out):
    "What a command printed shows no escape code and no traceback, and no name was run"
    check_canary(case)
    check_output(out)
    found = CODES.search(out)
    if not found: return
    begin = max(0, found.start() - 60)
    raise Shown(f'an escape code was printed: {out[begin:begin+80]!r}')


def attack_decision(case):
    "Hostile words in a decision, and read again unchanged"
    folder, classes = write_hostile(case)
    word = case.rng.choice(NAMES).strip() or 'x'
    case.title(f'relabel {word!r}')
    items, sentence = ask(get_items, str(folder))
    if sentence: return  # a question about the folder, in words
    file = items.file.iloc[0]
    n, sentence = ask(decide, str(folder), file, 'relabel', word, reason=word)
    if sentence: return
    check_csv(get_decisions_path(str(folder)))
    items, sentence = ask(get_items, str(folder))
    if sentence: return
    got = items.label[items.file == file].tolist()
    if got != [clean_name(word)]: raise Lost(f'{file!r} has the label {got}')


def attack_run(case):
    "A run of a set with hostile names: predictions, manifest, executed notebooks and card"
    folder, classes = write_hostile(case)
    case.title(f'imgclf_run of the classes {classes}')
    words = ['imgclf_run', folder, '--run', 'x', *QUICK]
    say(case, *finish(start(words, case.folder)))
    check_folder(case.folder/'runs')


def put(rng, tree, word):
    "A word in the place of a random text of a record, and as a new key of its parameters"
    places = []
    def visit(node):
        for key,value in (node.items() if isinstance(node, dict) else enumerate(node)):
            if isinstance(value, str): places.append((node, key))
            elif isinstance(value, (dict, list)): visit(value)
    visit(tree)
    node, key = rng.choice(places)
    node[key] = word
    return str(key)


def attack_card(case):
    "A record with hostile texts, made into a model card"
    word = case.rng.choice(NAMES)
    record = json.loads((case.shared['run']/'run.json').read_text())
    model = json.loads((case.shared['run']/'model.json').read_text())
    key = put(case.rng, case.rng.choice([record, record, model]), word)
    if case.rng.random() < .4:
        key = f'x; touch {case.folder}/canary; {word}'
        record['parameters'][key] = word
    case.title(f'card with {key!r} = {word!r}')
    text, sentence = ask(model_card.make_card, record, model)
    if sentence: return check_text('the sentence', sentence)
    check_text('the card', strip_code(text))
    if CODES.search(text): raise Shown('an escape code stands in the card')
    check_front(text)
    check_commands(case, text)


def check_front(text):
    "The card's metadata are one dictionary"
    front = text.split('\n---\n')[0].removeprefix('---\n')
    if not isinstance(yaml.safe_load(front), dict): raise Silent('the metadata are no dictionary')


def check_commands(case, text):
    "What is between three backticks runs without writing the canary"
    for block in re.findall(r'(?s)```(?:bash|sh|console)?\n(.*?)```', text):
        names = ('imgclf_run', 'imgclf_evaluate', 'papermill', 'make', 'git')
        nothing = '\n'.join(f'{name}() {{ :; }}' for name in names)  # the commands do nothing
        script = nothing + '\n' + block.replace('.venv/bin/', '')
        subprocess.run(['bash', '-c', script], cwd=case.folder, capture_output=True, timeout=20,
            env={'PATH': '/usr/bin:/bin'})
        check_canary(case)


def attack_workflows(case):
    "Inputs of a workflow inside a command; actions that are not pinned to a commit"
    path = case.rng.choice(sorted((ROOT/'.github'/'workflows').glob('*.yml')))
    case.title(path.name)
    for job in yaml.safe_load(path.read_text())['jobs'].values():
        for step in job['steps']:
            given = r'\$\{\{\s*(inputs|github\.(event|head_ref))[^}]*'
            found = re.search(given, step.get('run', ''))
            if found: raise Silent(f'{found[0]} stands in a command')
            used = step.get('uses', '')
            pinned = not used or used.startswith('./') or re.search('@[0-9a-f]{40}$', used)
            if not pinned: raise Silent(f'{used} is not pinned')


def attack(case):
    "One hostile name or value"
    seldom = attack_run if case.number % 3 == 1 else attack_parameters
    kinds = (attack_parameters, attack_make, attack_card, attack_audit, attack_make, attack_decision,
        attack_card, seldom, attack_workflows)
    case.pick(kinds)(case)


# ---- wrong readers, which must be reported

def run_names(shared):
    "A check that runs names"
    def bad(notebook, pairs): exec('\n'.join(f'{name} = 0' for name,_ in pairs), {})
    arguments.read_given = bad


def escape_nothing(shared):
    "A card with everything as it is"
    def bad(record, model): return f'---\na: 1\n---\n{record} {model}<script'
    model_card.make_card = bad


def write_formulas(shared):
    "A table with formulas"
    from imgclf_nb.datasets import records
    real = records.write_csv
    def bad(path, table):
        real(path, table)
        Path(path).write_text(table.assign(reason='=1+1').to_csv(index=False))
    records.write_csv = bad


PLANTS = {'traceback': run_names, 'traceback-html': escape_nothing, 'silent': write_formulas}
