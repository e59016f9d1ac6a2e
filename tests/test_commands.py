"Commands as a terminal, a pipe or a scheduler meets them: signals, closed outputs, encodings, values"
import json
import os
import signal
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import nbformat
import pytest

from conftest import ROOT, listen, start_script
from imgclf_nb import commands
from imgclf_nb.base.parameters import check_parameters
from imgclf_nb.base.stops import ANSWER
from imgclf_nb.core import ParameterError, UserError, write_json

EXE = Path(sys.executable).parent
POSIX = pytest.mark.skipif(os.name != 'posix', reason='signals and pipes as POSIX has them')

COMMAND = '''
from imgclf_nb.base.console import console_command
from imgclf_nb.base.running import run_notebook

@console_command('The same command resumes this run.', works=True)
def main():
    print('begins', flush=True)
    run_notebook('99_stub', 'x')
    print('ends – with a dash')
main()'''
FIRST = "print('at work', flush=True)"  # its first cell


def make_project(folder, *cells):
    "A project whose one notebook has these cells, the command that runs it, and its environment"
    (folder/'nbs').mkdir()
    made = [nbformat.v4.new_code_cell(cell) for cell in (FIRST, *cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=made), folder/'nbs'/'99_stub.ipynb')
    script = folder/'command.py'
    script.write_text(COMMAND, encoding='utf-8')
    return script, {**os.environ, 'IMGCLF_HOME': str(folder), 'IMGCLF_RUNS': str(folder/'runs')}


def start(folder, *cells):
    "The command at work"
    script, env = make_project(folder, *cells)
    return start_script([script], env, folder)


def wait_for(process, text):
    for line in process.stdout:
        if text in line: return


def end(process, number, seconds=120):
    "Send a signal; the exit code and what was printed since"
    process.send_signal(number)
    out, _ = process.communicate(timeout=seconds)
    assert 'Traceback' not in out and 'memory' not in out, out
    return process.returncode, out


def get_files(folder): return sorted(path.name for path in (folder/'runs'/'x').iterdir())


@POSIX
@pytest.mark.parametrize('name, code', [('SIGINT', 130), ('SIGTERM', 143), ('SIGHUP', 129)])
def test_a_signal_in_a_cell(name, code, tmp_path):
    "The exit code of the signal, how to resume, and the notebook under its own name"
    process = start(tmp_path, 'import time; time.sleep(600)')
    wait_for(process, 'at work')
    rc, out = end(process, getattr(signal, name))
    assert rc == code and 'The same command resumes this run.' in out, out
    assert get_files(tmp_path) == ['99_stub.ipynb']


@POSIX
@pytest.mark.parametrize('later', [0., .5])
def test_a_signal_while_the_kernel_starts(later, tmp_path):
    "Neither lack of memory nor silence: the command ends, and its kernel with it"
    process = start(tmp_path, 'import time; time.sleep(600)')
    wait_for(process, 'begins')
    time.sleep(later)
    rc, out = end(process, signal.SIGINT)
    assert rc == 130 and 'The same command resumes' in out, out


SWALLOWS = '''
import time
try:
    print('asleep', flush=True)
    time.sleep(600)
except KeyboardInterrupt: pass'''

@POSIX
def test_a_signal_that_a_cell_swallows(tmp_path):
    "No further cell begins"
    process = start(tmp_path, SWALLOWS, "print('a further cell', flush=True)")
    wait_for(process, 'asleep')
    rc, out = end(process, signal.SIGINT)
    assert rc == 130 and 'a further cell' not in out, out


LOSES = f'''
import signal, time
heard = []
def hear(*_):
    heard.append(1)
    if len(heard) == 2: raise KeyboardInterrupt
signal.signal(signal.SIGINT, hear)
print('hears', flush=True)
time.sleep(600)'''

@POSIX
def test_an_interrupt_that_a_library_loses_is_sent_again(tmp_path):
    process = start(tmp_path, LOSES)
    wait_for(process, 'hears')
    rc, _ = end(process, signal.SIGINT)
    assert rc == 130


LOST = '''
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print('lost', flush=True)
time.sleep(600)'''

@POSIX
def test_a_kernel_that_lost_its_cell_is_ended(tmp_path):
    "An interrupt that meets a kernel as it takes up a cell: it waits for ever, and so did we"
    process = start(tmp_path, LOST)
    wait_for(process, 'lost')
    rc, out = end(process, signal.SIGTERM)
    assert rc == 143 and 'The same command resumes this run.' in out, out
    assert get_files(tmp_path) == ['99_stub.ipynb']


DEAF = '''
import os, pathlib, signal, time
def note(*_):
    with open('heard', 'a') as file: file.write('x')
signal.signal(signal.SIGINT, note)
pathlib.Path('kernel').write_text(str(os.getpid()))
print('deaf', flush=True)
time.sleep(600)'''

def wait_until(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until: time.sleep(.05)
    return condition()


@POSIX
def test_a_second_signal_ends_at_once(tmp_path):
    "A cell that does not answer the first one: the kernel ends, and no hidden notebook stays"
    process = start(tmp_path, DEAF)
    wait_for(process, 'deaf')
    for _ in range(3): process.send_signal(signal.SIGINT)  # a shell and a terminal send it twice
    assert wait_until((tmp_path/'heard').exists)
    time.sleep(1.2)
    assert process.poll() is None
    rc, out = end(process, signal.SIGINT)
    assert rc == 130 and 'The same command resumes' in out
    assert len((tmp_path/'heard').read_text()) < 3  # otherwise it hears three before it is ended
    assert wait_until(lambda: not Path('/proc', (tmp_path/'kernel').read_text()).exists())
    assert not [name for name in get_files(tmp_path) if name.startswith('.')]


@POSIX
def test_a_killed_kernel_is_told_as_one(tmp_path):
    process = start(tmp_path, 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)')
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and 'ended from outside' in out and 'Traceback' not in out, out


def test_a_training_answers_an_interrupt():
    "What the commands wait for is what the checkpoint prints"
    source = (ROOT/'imgclf_nb'/'training'/'checkpoints.py').read_text(encoding='utf-8')
    assert f"print('{ANSWER}" in source


def run_in_shell(folder, line, *cells, **env):
    "A line of bash in which $C is the command; the exit code of the command, stdout and stderr"
    script, known = make_project(folder, *cells)
    known.update(env, C=f'{sys.executable} {script}')
    done = subprocess.run(['bash', '-c', f'{line}; exit ${{PIPESTATUS[0]}}'], cwd=folder, env=known,
        capture_output=True, timeout=120)
    return done.returncode, done.stdout, done.stderr.decode('utf-8', 'replace')


LONG = "for i in range(300): print('a line of output', i, flush=True)"

@POSIX
def test_head_closes_the_pipe(tmp_path):
    "The work continues, says so once, and its results are there"
    rc, out, err = run_in_shell(tmp_path, '$C | head -n 1', LONG)
    assert rc == 0 and out == b'begins\n' and err.count('The work continues') == 1, err
    assert 'Traceback' not in err and 'BrokenPipe' not in err
    assert get_files(tmp_path) == ['99_stub.ipynb']


@POSIX
@pytest.mark.parametrize('line', ['$C >&- 2>&- <&-', '$C 2>&1 | head -n 0'])
def test_closed_outputs(line, tmp_path):
    rc, _, err = run_in_shell(tmp_path, line, LONG)
    assert rc == 0 and 'Traceback' not in err and get_files(tmp_path) == ['99_stub.ipynb'], err


@POSIX
@pytest.mark.skipif(not Path('/dev/full').exists(), reason='Linux has a device that is full')
def test_a_full_disk_behind_the_output(tmp_path):
    rc, _, err = run_in_shell(tmp_path, '$C > /dev/full')
    assert rc == 1 and 'could not be written' in err and 'Traceback' not in err, err
    assert get_files(tmp_path) == ['99_stub.ipynb']


ENCODINGS = [dict(PYTHONIOENCODING=name) for name in ('ascii', 'latin-1', 'cp1252', 'cp437', 'cp932')]
LOCALES = [dict(LC_ALL='C'), dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0'), dict(TERM='')]

@pytest.mark.parametrize('env', [*ENCODINGS, *LOCALES], ids=str)
def test_any_encoding_shows_any_sentence(env, tmp_path):
    "Names with accents, dashes and bytes that are no UTF-8"
    known = {**os.environ, 'IMGCLF_RUNS': str(tmp_path), 'COLUMNS': '20', **env}
    broken = os.fsencode('été – 犬 \udce9') if os.name == 'posix' else 'été – \x1b'
    for name in ('été – 犬'.encode(), broken):  # which of them is no text depends on the locale
        done = subprocess.run([EXE/'imgclf_evaluate', name], env=known, capture_output=True)
        says = (b'There is no run', b'give a name such as chest')
        assert done.returncode == 1 and any(o in done.stderr for o in says), done.stderr
        assert b'Traceback' not in done.stderr and b'UnicodeEncodeError' not in done.stderr


def test_every_console_script_runs_in_the_wrapper():
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT/'settings.ini', encoding='utf-8')
    scripts = [o.split('=')[0] for o in config['DEFAULT']['console_scripts'].split()]
    ours = [o for o in scripts if o.startswith('imgclf_')]
    assert sorted(ours) == sorted(f'imgclf_{name}' for name in commands.COMMANDS)
    own = {name: o for name,o in commands.COMMANDS.items() if name not in ('export', 'predict', 'serve')}  # those load 08 and 09
    for command in own.values(): assert command.__wrapped__.__module__ == 'imgclf_nb.commands'


@POSIX
def test_ctrl_c_while_a_command_loads_its_libraries(tmp_path):
    script = tmp_path/'imgclf_early'
    script.write_text('import signal\nfrom imgclf_nb.base.early import catch_early_stops\n'
        'catch_early_stops()\nsignal.raise_signal(signal.SIGINT)\nprint("goes on")')
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True,
        preexec_fn=listen, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert (done.returncode, done.stdout) == (130, '') and done.stderr.strip() == 'Stopped before anything began.'


def test_the_commands_catch_ctrl_c_before_they_load_anything_else():
    source = (ROOT/'imgclf_nb'/'commands.py').read_text(encoding='utf-8')
    imports = [line for line in source.splitlines() if line.startswith(('import', 'from', 'catch'))]
    assert imports[0].startswith('from .base.early') and imports[1].startswith('catch_early_stops()')


def test_python_m(tmp_path):
    "The commands without their scripts"
    def run(*words):
        env = {**os.environ, 'IMGCLF_RUNS': str(tmp_path)}
        return subprocess.run([sys.executable, '-m', 'imgclf_nb.commands', *words], cwd=ROOT,
            env=env, capture_output=True, text=True)
    done = run('leaderboard', '--help')
    assert done.returncode == 0 and 'usage: imgclf_leaderboard' in done.stdout
    done = run('evaluate', 'nothing')
    assert done.returncode == 1 and 'There is no run' in done.stderr and 'Traceback' not in done.stderr
    done = run('evalute', 'nothing')
    assert done.returncode == 1 and 'Did you mean evaluate?' in done.stderr


TEXTS = ['2026_01_09', '0123', '1e5', 'true', 'True', 'null', 'None', '[a]', '0x10', '12:30', '7',
    '1_0', 'inf', '1.0', '.5', 'yes', '2026-01-09', '0b1', '0o7']

@pytest.mark.parametrize('text', TEXTS)
def test_a_name_that_looks_like_a_number_stays_as_typed(text):
    for words in (['-p', 'run', text], ['-r', 'run', text], ['-y', f'run: "{text}"']):
        given = commands._read_run_arguments(['pc_parts_mini', *words])
        assert given[0] == text


@pytest.mark.parametrize('text', ['-7', '~', ' 7'])
def test_a_name_that_cannot_be_one_is_refused_as_typed(text):
    for words in (['-p', 'run', text], ['-r', 'run', text], ['-y', f'run: "{text}"']):
        with pytest.raises(UserError, match=f'^run = {text!r} begins'):
            commands._read_run_arguments(['pc_parts_mini', *words])


@pytest.mark.parametrize('text', ['2026_01_09', '0123', '1e5', 'true', '0x10', '12:30', '2026-01-09'])
def test_a_plain_name_in_yaml_stays_as_typed(text, tmp_path):
    file = tmp_path/'given.yaml'
    file.write_text(f'run: {text}\nlr: 1e-3\n')
    for words in (['-y', f'run: {text}\nlr: 1e-3'], ['-f', str(file)]):
        name, parameters, _ = commands._read_run_arguments(['pc_parts_mini', *words])
        assert (name, parameters['lr']) == (text, .001)


@pytest.mark.parametrize('words, says', [
    (['-p', 'epochs', '1_0'], 'a whole number'), (['-p', 'epochs', '0x10'], 'a whole number'),
    (['-p', 'lr', 'nan'], 'a number'), (['-p', 'cache', 'true'], 'True or False'),
    (['-y', 'epochs: [1'], 'not valid YAML'), (['-f', 'nowhere.yaml'], 'cannot be read'),
    (['-y', 'epoch: 3'], 'Did you mean epochs?'), (['-r', 'epochs', '3'], 'a whole number')])
def test_other_values_are_refused(words, says):
    with pytest.raises(UserError, match=says):
        commands._read_run_arguments(['pc_parts_mini', *words])


def test_the_first_answer_takes_the_parameters_of_a_training():
    name, parameters, quick = commands._read_run_arguments(
        ['pc_parts_mini', '--quick', '-p', 'epochs', '1', '-y', 'lr: 1e-3'])
    assert quick and (parameters['epochs'], parameters['lr']) == (1, .001)


@pytest.mark.parametrize('words, says', [
    (['-y', 'run: [a]'], 'must be a string'), (['-y', 'run: {a: 1}'], 'must be a string'),
    (['--run', 'a', '-p', 'run', 'b'], 'run is given twice, as a and as b'),
    (['--arch', 'resnet18', '-p', 'arch', 'resnet34'], 'arch is given twice'),
    (['-p', 'dataset', 'cats_vs_dogs_mini'], 'dataset is given twice')])
def test_what_is_given_twice_is_not_chosen_in_silence(words, says):
    with pytest.raises(UserError, match=says):
        commands._read_run_arguments(['pc_parts_mini', *words])


def test_a_run_given_twice_to_evaluate_is_a_sentence():
    done = subprocess.run([sys.executable, '-m', 'imgclf_nb.commands', 'evaluate', 'one', '-p', 'run',
        'other'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and 'run is given twice, as one and as other' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('value', [20260109, 1.5, True, None, ['a']])
def test_plain_papermill_says_how_to_keep_a_text(value):
    "papermill has made something else of it, and what was typed is lost"
    ns = dict(__annotations__=dict(run=str), run=value)
    with pytest.raises(ParameterError, match='papermill -r run TEXT, or in YAML quotes'):
        check_parameters(ns)


def test_plain_papermill_gives_numbers_of_yaml_as_texts():
    ns = dict(__annotations__=dict(lr=float, valid=float), lr='1e-3', valid='2E-1')
    assert check_parameters(ns, lr=(0, 1)) == dict(lr=.001, valid=.2)
    assert ns['valid'] == .2  # cells use it by its name


LATE = [
    ('arch', dict(arch='resnet81')), ('size', dict(arch='tutorial_cnn', weights='none', size=64)),
    ('size', dict(arch='vit_tiny_patch16_224', weights='none', size=100)),
    ('weights', dict(weights='nowhere.pth')), ('policy', dict(policy='hard')),
    ('policy', dict(policy='medium:no')), ('progressive', dict(policy='none', progressive=True)),
    ('valid', dict(valid=.6, test=.6)), ('folds', dict(folds=1)), ('fold', dict(fold=1)),
    ('fold', dict(folds=3, fold=3))]

@pytest.mark.xdist_group('settings')
@pytest.mark.parametrize('parameter, given', LATE, ids=str)
def test_errors_of_the_training_come_before_the_first_answer(parameter, given, tmp_path, monkeypatch):
    monkeypatch.setenv('IMGCLF_RUNS', str(tmp_path/'runs'))
    with pytest.raises(UserError) as caught:
        commands._check_training('x', dict(dataset='pc_parts_mini', **given))
    assert caught.value.parameter == parameter and not (tmp_path/'runs').exists()


@pytest.mark.xdist_group('settings')
def test_a_run_with_other_parameters_is_refused_before_the_first_answer(tmp_path, monkeypatch):
    monkeypatch.setenv('IMGCLF_RUNS', str(tmp_path))
    known = commands.get_defaults('04_train')
    record = dict(status='failed', began='2026', error=None, parameters={**known, 'epochs': 7})
    (tmp_path/'x').mkdir()
    write_json(tmp_path/'x'/'run.json', record)
    with pytest.raises(UserError, match='exists with other parameters'):
        commands._check_training('x', dict(dataset='pc_parts_mini', epochs=3))


@pytest.mark.xdist_group('settings')
@pytest.mark.parametrize('status', ['failed', 'running'])
def test_an_unfinished_run_is_refused_before_its_evaluation_starts(status, tmp_path, monkeypatch):
    monkeypatch.setenv('IMGCLF_RUNS', str(tmp_path))
    (tmp_path/'x').mkdir()
    error = dict(message='Too few images.', parameter='dataset') if status == 'failed' else None
    write_json(tmp_path/'x'/'run.json', dict(status=status, error=error, dataset='pc_parts_mini'))
    started = []
    monkeypatch.setattr(commands, 'run_notebook', lambda *args, **kwargs: started.append(args))
    with pytest.raises(UserError, match=f'{status}, not done'): commands.evaluate_run('x')
    assert not started


def test_a_complete_notebook_of_a_killed_command_gets_its_name(tmp_path, monkeypatch):
    "The run was done when its command was killed: the next command finds the hidden notebook"
    monkeypatch.setenv('IMGCLF_RUNS', str(tmp_path))
    with subprocess.Popen([sys.executable, '-c', '']) as ended: ended.wait()
    (tmp_path/'x').mkdir()
    write_json(tmp_path/'x'/'run.json', dict(status='done', parameters={}, started='', git_commit=''))
    done = dict(cells=[], metadata=dict(papermill=dict(end_time='2026-01-09', exception=None)))
    (tmp_path/'x'/f'.04_train.{ended.pid}.ipynb').write_text(json.dumps(done))
    monkeypatch.setattr(commands, '_is_same', lambda *args: True)
    commands.train('x', dataset='pc_parts_mini')
    assert sorted(path.name for path in (tmp_path/'x').iterdir()) == ['04_train.ipynb', 'run.json']


def test_a_folder_with_other_files_is_refused_before_the_first_answer(tmp_path):
    photos = tmp_path/'photos'
    photos.mkdir()
    (photos/'holiday.jpg').write_bytes(b'1')
    with pytest.raises(UserError, match='holds other files than a run'):
        commands._read_run_arguments(['pc_parts_mini', '--run', str(photos)])
    assert os.listdir(tmp_path) == ['photos'] and os.listdir(photos) == ['holiday.jpg']
