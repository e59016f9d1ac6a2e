"The prediction log under faults: a real PostgreSQL server, locked and full disks, killed processes"
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import event, text

from conftest import ROOT
from imgclf_nb.core import UserError
from imgclf_nb.server import log_urls, prediction_log
from imgclf_nb.server.log_tables import prepare_log, read_log
from imgclf_nb.server.log_urls import open_log
from imgclf_nb.server.prediction_log import PredictionLog, forget

PASSWORD = 'pass%word'
PROGRAMS = sorted(Path('/usr/lib/postgresql').glob('*/bin/initdb'))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "Short pauses, so that a test of an outage takes little time"
    monkeypatch.setattr(prediction_log, 'PAUSES', [.05, .2])
    monkeypatch.setattr(prediction_log, 'INTERVAL', .02)


def make_row(number, **more):
    "The row of an answer"
    return dict(time=1e9 + number, request_id=f'r{number:06}', index=0, role='active', model='m', weights_sha256='w',
        group='', predicted='cat', decision='cat', probabilities={'cat': .75, 'dog': .25}, prediction_set=['cat'],
        error='', seconds=.01, sha256='0'*64, width=8, height=8, mode='RGB', file_size=100, aspect=1., brightness=1.,
        contrast=1., sharpness=1., colourfulness=1., embedding=np.arange(4, dtype='<f2').tobytes(), **more)


def wait_for(condition, seconds=120):
    "Wait until something holds"
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, 'it did not happen'
        time.sleep(.01)


def get_ids(url): return read_log(url).request_id.tolist()


def get_expected(n): return [f'r{number:06}' for number in range(n)]


# --- a real PostgreSQL server ---------------------------------------------------------------------------------------

class Postgres:
    "A cluster in a temporary folder, with a socket there and a port on loopback"
    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix='imgclf-pg-'))
        self.port = find_port()
        (self.folder/'password').write_text(PASSWORD)
        if os.geteuid() == 0: self.give_away()
        self.call('initdb', '-U', 'me', '-A', 'scram-sha-256', '--pwfile', self.folder/'password', '-E', 'UTF8', '--no-sync')
        self.start()

    def give_away(self):
        "The server does not run as root: another user owns the folder"
        for path in (self.folder, self.folder/'password'): shutil.chown(path, 'postgres', 'postgres')

    def call(self, program, *args):
        "One of the server's programs, as the user that may run it"
        other = ['setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups'] if os.geteuid() == 0 else []
        command = [*other, PROGRAMS[-1].with_name(program), '-D', self.folder/'data', *args]
        done = subprocess.run(list(map(str, command)), cwd='/', capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self):
        options = f'-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=20'
        self.call('pg_ctl', 'start', '-w', '-l', self.folder/'server.log', '-o', options)

    def stop(self, mode='immediate'): self.call('pg_ctl', 'stop', '-w', '-m', mode)

    def get_url(self, name, password='pass%25word', port=None):
        return f'postgresql://me:{password}@127.0.0.1:{port or self.port}/{name}'

    def make(self, name):
        "An empty database; its URL"
        engine = open_log(self.get_url('postgres'))
        with engine.connect().execution_options(isolation_level='AUTOCOMMIT') as connection:
            connection.execute(text(f'CREATE DATABASE {name}'))
        engine.dispose()
        return self.get_url(name)


def find_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


@pytest.fixture(scope='module')
def server():
    "A running server, once for all tests"
    if not PROGRAMS: pytest.skip('no PostgreSQL server: apt-get install postgresql')
    pytest.importorskip('pg8000', reason='no driver for PostgreSQL: pip install pg8000')
    if os.geteuid() == 0 and not shutil.which('setpriv'): pytest.skip('no setpriv to run PostgreSQL as another user')
    made = Postgres()
    yield made
    made.stop()
    shutil.rmtree(made.folder)


@pytest.fixture
def url(server, request):
    "An empty database of its own"
    return server.make(request.node.name.replace('[', '_').strip(']')[-40:])


def test_postgresql_keeps_every_kind_of_value(url):
    odd = make_row(1) | dict(group='Zoë\0\ud800 "quoted" %s :x', brightness=float('nan'), width=None, seconds=np.float32(.5))
    log = PredictionLog(url, 'm')
    assert log.put([make_row(0), odd, dict(index=0)]) == 3
    assert log.correct('r000001', 0, 'a dog; DROP TABLE predictions')
    log.close(120)
    state = log.describe()
    assert (state['written'], state['lost'], state['waiting']) == (3, 1, 0)
    assert 'no request_id' in str(state['lost_why'])
    table = read_log(url).set_index('request_id')
    plain, stored = table.loc['r000000'], table.loc['r000001']
    assert plain.probabilities == {'cat': .75, 'dog': .25} and plain.prediction_set == ['cat']
    assert plain.embedding.tolist() == [0, 1, 2, 3] and plain.time == 1e9 and plain.seconds == .01
    assert stored.group == 'Zoë?? "quoted" %s :x' and np.isnan(stored.brightness) and stored.seconds == .5
    assert read_log(url, 'corrections').label.tolist() == ['a dog; DROP TABLE predictions']


def test_a_server_that_stops_and_starts_twice(server, url, caplog):
    "Rows arrive once, in order; no put waits for the server, or talks to it"
    log = PredictionLog(url, 'm', waiting=100_000)
    done, stop, callers = [], threading.Event(), set()
    def put_rows():
        for number in range(100_000):
            log.put([make_row(number)])
            done.append(number)
            if stop.wait(.002): return
    def note_caller(*_): callers.add(threading.get_ident())
    for name in ('do_connect', 'before_cursor_execute'): event.listen(log.engine, name, note_caller)
    putting = threading.Thread(target=put_rows)
    putting.start()
    for mode in ('immediate', 'fast'):
        written = log.written
        wait_for(lambda: log.written > written + 50)
        server.stop(mode)
        wait_for(lambda: not log.available)
        before = len(done)
        wait_for(lambda: len(done) > before + 100)  # while the server is away
        assert log.describe()['waiting'] and log.error
        server.start()
    written = log.written
    wait_for(lambda: log.written > written + 100)
    stop.set()
    putting.join()
    log.close(120)
    state = log.describe()
    assert (state['lost'], state['waiting'], state['written']) == (0, 0, len(done))
    assert get_ids(url) == get_expected(len(done))
    assert log.thread.ident in callers and putting.ident not in callers, 'a put talked to the server'
    assert len(caplog.records) == 4 and not any(record.exc_info for record in caplog.records)
    engine = open_log(url)
    with engine.connect() as connection: order = connection.scalars(text('SELECT request_id FROM predictions ORDER BY ctid')).all()
    engine.dispose()
    assert order == sorted(order)


def test_rows_wait_for_a_server_that_is_away_at_the_start(server, url):
    server.stop('fast')
    log = PredictionLog(url, 'm', waiting=50)
    for number in range(60): log.put([make_row(number)])
    wait_for(lambda: log.error)
    state = log.describe()
    assert not state['available'] and state['error'] == 'Connection refused'
    assert (state['waiting'], state['lost'], state['lost_between']) == (50, 10, [1e9 + 50, 1e9 + 59])
    assert state['lost_why'] == {'50 rows wait already': 10}
    server.start()
    wait_for(lambda: log.available)
    log.put([make_row(60)])
    log.close(120)
    assert get_ids(url) == [*get_expected(50), 'r000060']


class Relay:
    "Passes bytes on to a server; cuts the connection after a commit, before its client hears of it"
    def __init__(self, port):
        self.port, self.cuts, self.left = port, 0, 3
        self.listening = socket.create_server(('127.0.0.1', 0))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try: client, _ = self.listening.accept()
            except OSError: return
            server = socket.create_connection(('127.0.0.1', self.port))
            self.cutting = False
            threading.Thread(target=self.pass_on, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(server, client, False), daemon=True).start()

    def pass_on(self, source, target, is_client):
        "Bytes of one direction, until one side ends or the commit is confirmed"
        try:
            while data := source.recv(65536):
                if is_client and self.inserted(data): self.cutting = True
                if not is_client and self.cutting and b'COMMIT' in data:
                    self.cuts, self.left = self.cuts + 1, self.left - 1
                    break
                target.sendall(data)
        except OSError: pass
        for end in (source, target):
            try: end.shutdown(socket.SHUT_RDWR)
            except OSError: pass

    def inserted(self, data):
        "Whether rows have been sent on this connection"
        return self.left > 0 and b'INSERT INTO predictions' in data


def test_a_commit_whose_confirmation_is_lost_doubles_no_row(server, url):
    relay = Relay(server.port)
    log = PredictionLog(server.get_url(url.rsplit('/', 1)[1], port=relay.listening.getsockname()[1]), 'm')
    wait_for(lambda: log.available)
    n, until = 0, time.monotonic() + 120
    while n < 300 or relay.cuts < 3:
        log.put([make_row(n)])
        n += 1
        time.sleep(.002)
        assert time.monotonic() < until, relay.cuts
    log.close(120)
    relay.listening.close()
    assert relay.cuts == 3
    assert (log.describe()['lost'], log.written) == (0, n)
    assert get_ids(url) == get_expected(n)


def test_a_wrong_password_is_told_and_not_shown(server, url, caplog):
    log = PredictionLog(server.get_url('postgres', 'wrong%25secret'), 'm')
    log.put([make_row(0)])
    wait_for(lambda: log.error)
    with pytest.raises(UserError, match='password authentication failed') as raised: log.forget('r000001')
    log.close(.2)
    state = log.describe()
    assert 'password authentication failed' in state['error'] and state['url_without_password'].count('***') == 1
    assert state['lost'] == 1
    said = f'{state} {caplog.text} {raised.value} {log.engine} {log.engine.url}'
    assert 'secret' not in said and PASSWORD not in said


def test_a_server_without_encryption_is_refused_where_it_is_asked_for(url):
    log = PredictionLog(f'{url}?sslmode=require', 'm')
    wait_for(lambda: log.error)
    log.close(.2)
    assert 'refuses SSL' in log.error


def test_a_server_that_accepts_and_never_answers_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(log_urls, 'SECONDS', .5)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        log = PredictionLog(f'postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/log', 'm')
        began = time.monotonic()
        for number in range(1000): log.put([make_row(number)])  # 500 s, if each waited for an answer
        assert time.monotonic() - began < 60
        wait_for(lambda: log.error)
        assert 'timed out' in log.error
        began = time.monotonic()
        log.close(.5)
        assert time.monotonic() - began < 60 and log.describe()['lost'] == 1000


def test_a_value_that_the_table_refuses_is_lost_alone(url):
    engine = open_log(url)
    prepare_log(engine)
    with engine.begin() as connection: connection.execute(text('ALTER TABLE predictions ALTER COLUMN width TYPE smallint'))
    engine.dispose()
    log = PredictionLog(url, 'm')
    log.put([make_row(0), make_row(1) | dict(width=100_000), make_row(2)])
    log.close(120)
    assert (log.written, log.describe()['lost']) == (2, 1)
    assert 'refused by the database' in str(log.lost) and 'out of range' in str(log.lost)
    assert get_ids(url) == ['r000000', 'r000002']


def test_tables_of_other_versions_in_postgresql(url):
    engine = open_log(url)
    prepare_log(engine)
    with engine.begin() as connection:
        for change in ('DROP COLUMN embedding', 'DROP COLUMN "group"', 'ADD COLUMN later text'):
            connection.execute(text(f'ALTER TABLE predictions {change}'))
    log = PredictionLog(url, 'm')
    log.put([make_row(0)])
    log.close(120)
    assert read_log(url).embedding[0].tolist() == [0, 1, 2, 3]
    with engine.begin() as connection:
        connection.execute(text('DROP TABLE predictions'))
        connection.execute(text('CREATE TABLE predictions (id int PRIMARY KEY)'))
    log = PredictionLog(url, 'm')
    log.put([make_row(0)])
    wait_for(lambda: log.error)
    log.close(.3)
    assert 'another program made it' in log.error and log.describe()['lost'] == 1
    with engine.connect() as connection: assert connection.scalar(text('SELECT count(*) FROM predictions')) == 0
    engine.dispose()


def test_forgetting_in_postgresql_also_what_waits_elsewhere(server, url, tmp_path, monkeypatch):
    monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path))
    log = PredictionLog(url, 'chest', keep_images='originals')
    log.put([make_row(0), make_row(1)], [b'\xff\xd8\xff a', b'\xff\xd8\xff b'])
    wait_for(lambda: log.written == 2 and log.images.kept == 2)
    with log.hold_database():
        log.put([make_row(0) | dict(index=1)], [b'\xff\xd8\xff c'])  # waits
        assert forget(url, 'r000000') == 1  # as the command does
        wait_for(lambda: log.images.kept + log.images.lost == 3)  # its folder may go while it is written
    log.close(120)
    assert get_ids(url) == ['r000001']
    assert [path.parent.name for path in (tmp_path/'chest'/'images').rglob('*.jpg')] == ['r000001']


# --- SQLite ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def file(tmp_path): return tmp_path/'records'/'predictions.sqlite'


def test_a_locked_file_delays_no_put(file, caplog, monkeypatch):
    monkeypatch.setattr(log_urls, 'SECONDS', 2)
    log = PredictionLog(f'sqlite:///{file}', 'm')
    wait_for(lambda: log.available)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute('BEGIN IMMEDIATE')
    began = time.monotonic()
    for number in range(500): log.put([make_row(number)])  # 500 s, if each waited for the lock
    assert time.monotonic() - began < 60
    wait_for(lambda: log.error)
    assert 'locked' in log.error
    other.execute('ROLLBACK')
    other.close()
    log.close(120)
    assert get_ids(f'sqlite:///{file}') == get_expected(500) and log.describe()['lost'] == 0
    said = [record.message.split(' (')[0].split(' after')[0] for record in caplog.records]
    assert said == ['The prediction log cannot be written', 'The prediction log is written again']


def test_a_file_that_is_deleted_or_damaged_in_the_middle(file):
    log = PredictionLog(f'sqlite:///{file}', 'm')
    log.put([make_row(0)])
    wait_for(lambda: log.written == 1)
    shutil.rmtree(file.parent)
    log.put([make_row(1)])
    wait_for(lambda: log.written == 2)
    assert get_ids(f'sqlite:///{file}') == ['r000001']
    for path in file.parent.iterdir(): path.unlink()
    file.write_bytes(b'no database, but a text of some length' * 100)
    log.put([make_row(2)])
    wait_for(lambda: log.error)
    assert 'not a database' in log.error
    file.unlink()
    log.close(120)
    assert get_ids(f'sqlite:///{file}') == ['r000002'] and log.describe()['lost'] == 0


FULL = '''
import resource, sys, time
from imgclf_nb.server import prediction_log
from imgclf_nb.server.log_tables import read_log
prediction_log.PAUSES[:] = [.05, .2]
sys.path.insert(0, 'tests')
from test_prediction_log import make_row, wait_for
url = sys.argv[1]
log = prediction_log.PredictionLog(url, 'm')
wait_for(lambda: log.available)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))  # as a disk that is full
n = 0
while not log.error:
    log.put([make_row(n)])
    n += 1
    time.sleep(.0005)
print(log.error)
assert not log.describe()['lost']
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.close(120)
assert (log.written, log.describe()['lost']) == (n, 0), log.describe()
assert read_log(url).request_id.tolist() == [f'r{k:06}' for k in range(n)]
'''


def run_script(script, *args):
    "Python code in a process of its own: what it printed"
    done = subprocess.run([sys.executable, '-c', script, *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk(file): assert 'disk' in run_script(FULL, f'sqlite:///{file}')


SERVING = '''
import signal, sys, threading
from imgclf_nb.server.prediction_log import PredictionLog
sys.path.insert(0, 'tests')
from test_prediction_log import make_row
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
log = PredictionLog(sys.argv[1], 'm')
n = 0
while not stop.wait(.0005):
    n += log.put([make_row(n)])
    if n == 300: print('ready', flush=True)
if sys.argv[2] == 'slowly': log.add('predictions', [make_row(n + k) for k in range(3000)])
log.close(120)
print(n + 3000*(sys.argv[2] == 'slowly'), log.written, log.describe()['lost'])
'''


def start_serving(url, how='at once'):
    "A process that puts rows until SIGTERM"
    process = subprocess.Popen([sys.executable, '-c', SERVING, url, how], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'ready\n'
    return process


def count_rows(file):
    "How many rows an SQLite file has; 0 where there is no table yet"
    try:
        with contextlib.closing(sqlite3.connect(f'file:{file}?mode=ro', uri=True)) as database:
            return database.execute('SELECT count(*) FROM predictions').fetchone()[0]
    except sqlite3.OperationalError: return 0


@pytest.mark.parametrize('how', ['at once', 'slowly'])
def test_sigterm_loses_no_accepted_row(file, how):
    process = start_serving(f'sqlite:///{file}', how)
    process.send_signal(signal.SIGTERM)
    put, written, lost = map(int, process.communicate(timeout=150)[0].split())
    assert lost == 0 and put == written and get_ids(f'sqlite:///{file}') == get_expected(put)


def test_kill_leaves_a_file_that_the_next_process_writes_to(file):
    process = start_serving(f'sqlite:///{file}')
    wait_for(lambda: count_rows(file))
    time.sleep(.5)  # somewhere between other writes
    process.kill()
    process.communicate()
    before = get_ids(f'sqlite:///{file}')
    assert before == get_expected(len(before)) and before
    log = PredictionLog(f'sqlite:///{file}', 'm')
    log.put([make_row(900_000)])
    log.close(120)
    assert get_ids(f'sqlite:///{file}') == [*before, 'r900000']


READING = '''
import sys, time
from imgclf_nb.server.log_tables import read_log
seen, began = [0], time.monotonic()
def is_enough(): return len(seen) > 3 and seen[-1] > 100
def get_spent(): return time.monotonic() - began
while get_spent() < 2 or not is_enough() and get_spent() < 120: seen.append(len(read_log(sys.argv[1])))
assert seen == sorted(seen)
print(len(seen), seen[-1])
'''


def test_others_read_while_one_writes(file):
    url = f'sqlite:///{file}'
    log = PredictionLog(url, 'm')
    log.put([make_row(0)])
    wait_for(lambda: log.written)
    reading = [subprocess.Popen([sys.executable, '-c', READING, url], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    n = 1
    while any(process.poll() is None for process in reading):
        log.put([make_row(n)])
        n += 1
        time.sleep(.005)
    log.close(120)
    for process in reading:
        times, seen = map(int, process.communicate()[0].split())
        assert times > 3 and seen > 100
    assert log.describe()['lost'] == 0 and len(get_ids(url)) == n


def test_two_processes_write_one_file(file):
    url = f'sqlite:///{file}'
    logs = [PredictionLog(url, 'm'), PredictionLog(url, 'm')]
    for number in range(1000): logs[number % 2].put([make_row(number)])
    for log in logs: log.close(120)
    assert get_ids(url) == get_expected(1000)


def test_rows_and_images_go_by_age(file):
    url, now = f'sqlite:///{file}', time.time()
    log = PredictionLog(url, 'm', keep_images='originals')
    ages = [3, 2, .5, .1]  # days
    rows = [make_row(number) | dict(time=now - 86_400*age) for number,age in enumerate(ages)]
    log.put(rows, [b'\xff\xd8\xff']*4)
    log.close(120)
    PredictionLog(url, 'm', keep_days=1).close(120)
    assert get_ids(url) == ['r000002', 'r000003']
    assert sorted(path.parent.name for path in file.parent.rglob('*.jpg')) == ['r000002', 'r000003']


def test_a_closed_log_accepts_nothing(file):
    log = PredictionLog(f'sqlite:///{file}', 'm')
    log.close()
    log.close()
    assert log.put([make_row(0)]) == 0 and not log.correct('r000000', 0, 'dog')
    assert log.describe()['lost_why'] == {'the log is closed': 2}


def test_a_server_loads_no_table_library():
    "Neither pandas nor OpenCV, PyTorch or matplotlib: the log lives in the process that answers requests"
    code = 'import sys, imgclf_nb.server.prediction_log; print([o for o in ("pandas", "cv2", "torch", "matplotlib", "scipy") if o in sys.modules])'
    assert run_script(code) == '[]\n'
