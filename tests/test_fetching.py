"Fetching: the real clients, unmodified, against a local server that speaks what they need"
import base64
import contextlib
import errno
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from PIL import Image

from conftest import command, run_code
from imgclf_nb.core import UserError
from imgclf_nb.datasets.archives import unpack, unpack_parquet
from imgclf_nb.datasets.retries import explain_failure
from imgclf_nb.datasets.sources import SOURCES, Source
from imgclf_nb.fetching import fetch

SHA = 'f'*40
NOBODY = 'http://127.0.0.1:9'  # no server listens there
PROXIES = ('http_proxy', 'https_proxy', 'all_proxy')
SLEEP = 'imgclf_nb.datasets.retries.sleep'


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def picture(i):
    "A small JPEG, another one for each number"
    out = io.BytesIO()
    Image.linear_gradient('L').rotate(7*i).resize((40, 30)).save(out, 'jpeg')
    return out.getvalue()


def make_zip(files):
    "The bytes of a zip with these files, by name"
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name,data in files.items(): archive.writestr(name, data)
    return out.getvalue()


PETS = {f'pets/{c}/{i}.jpg': picture(i + 10*(c == 'dog')) for c in ('cat', 'dog') for i in range(3)}
# kagglehub writes a megabyte at a time: of a larger file less is lost with the connection
BIG = make_zip({**PETS, 'pets/cat/big.jpg': os.urandom(5 << 20)})


# ---- the server

class Net:
    """Plain files, Kaggle's API and the hub's API on one port.

    `cuts` connections break in the middle, `busy` requests get a 429, `status` answers everything.
    """
    def __init__(self, port=0, zip=make_zip(PETS), repo=None):
        self.zip = zip
        self.repo = repo or {}
        self.tag = '"v1"'
        self.md5 = None
        self.cuts = 0
        self.cut_in = ''      # only paths that hold this are cut
        self.stall = False    # a cut connection stays open
        self.arrived = threading.Event()  # half of a stalled file was sent
        self.over = threading.Event()     # a stalled connection ends
        self.busy = 0
        self.retry = '1'      # seconds that a busy server asks for
        self.status = None
        self.asked = []       # (method, path, first byte, Authorization)
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', port), make_handler(self))
        self.server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, args=(.02,), daemon=True).start()

    def answer(self, h):
        "Answer one request; `h` is its handler"
        ours = 'me/pets' in h.path or 'Dataset' in h.path
        if h.path.startswith('/api/') and not ours:  # the hub's client asks about itself too
            return self.send(h, 404, b'', {})
        found = re.match(r'bytes=(\d+)-', h.headers.get('Range', ''))
        start = int(found[1]) if found else 0
        self.asked.append((h.command, h.path, start, h.headers.get('Authorization')))
        if self.busy:
            self.busy -= 1
            return self.send(h, 429, b'', {'Retry-After': self.retry})
        if self.status:
            return self.send(h, self.status, b'{}', {'Content-Type': 'application/json'})
        if h.path.endswith('/GetDataset'):
            return self.json(h, dict(ref='me/pets', currentVersionNumber=3))
        if h.path.startswith('/api/datasets/'): return self.hub(h)
        if '/resolve/' in h.path: return self.hub_file(h, start)
        self.archive(h, start)

    def archive(self, h, start):
        "The zip, from `start` if it is still the one that the client knows"
        same = h.headers.get('If-Range') in (None, self.tag)
        headers = {'ETag': self.tag}
        if self.md5: headers['x-goog-hash'] = f'md5={self.md5}'
        self.body(h, self.zip, start if same else 0, headers)

    def hub_file(self, h, start):
        "A file of the hub's repository"
        name = h.path.split('/resolve/')[1].split('/', 1)[1]
        data = self.repo[name]
        self.body(h, data, start, {'X-Repo-Commit': SHA, 'ETag': f'"{sha256(data)}"'})

    def hub(self, h):
        "The hub's list of files, in either of its forms"
        def lfs(data, key): return {key: sha256(data), 'size': len(data), 'pointerSize': 130}
        if '/tree/' in h.path:
            return self.json(h, [dict(type='file', path=name, oid='0'*40, size=len(data),
                lfs=lfs(data, 'oid')) for name,data in self.repo.items()])
        siblings = [dict(rfilename=name, size=len(data), blobId='0'*40, lfs=lfs(data, 'sha256'))
            for name,data in self.repo.items()]
        self.json(h, dict(id='me/pets', sha=SHA, siblings=siblings))

    def json(self, h, obj):
        self.send(h, 200, json.dumps(obj).encode(), {'Content-Type': 'application/json'})

    def body(self, h, data, start, headers):
        "The bytes from `start` on; half of them where the connection is cut"
        rest = data[start:]
        headers = {'Accept-Ranges': 'bytes', 'Content-Type': 'application/zip; charset=latin-1',
            **headers}
        if start: headers['Content-Range'] = f'bytes {start}-{len(data)-1}/{len(data)}'
        cut = h.command != 'HEAD' and self.cuts > 0 and self.cut_in in h.path
        self.cuts -= cut
        self.send(h, 206 if start else 200, rest, headers, len(rest)//2 if cut else None)

    def send(self, h, status, data, headers, cut=None):
        "A response; with `cut` only so many bytes of it"
        h.send_response(status)
        for name,value in {'Content-Length': str(len(data)), **headers}.items():
            h.send_header(name, value)
        h.end_headers()
        if h.command == 'HEAD': return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            h.wfile.write(data if cut is None else data[:cut])
            h.wfile.flush()
            if cut is not None and self.stall:
                self.arrived.set()
                self.over.wait(300)
        if cut is not None: h.close_connection = True

    def ranges(self):
        "The first bytes that were asked for, where it was not the whole file"
        return [start for method,_,start,_ in self.asked if method != 'HEAD' and start]


def make_handler(net):
    "The class that http.server wants, which hands every request to `net`"
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_): pass
        def do_GET(self): net.answer(self)
        def do_HEAD(self): net.answer(self)
        def do_POST(self):
            self.rfile.read(int(self.headers.get('Content-Length', 0)))
            net.answer(self)
    return Handler


@contextlib.contextmanager
def serving(port=0, **kw):
    "A `Net` that listens until the end of the `with`"
    try: net = Net(port, **kw)
    except OSError as e:
        pytest.fail(f'port {port} of this machine is taken ({e}); kagglehub asks there in its test '
            'environment, so free it')
    try: yield net
    finally:
        net.over.set()
        net.server.shutdown()
        net.server.server_close()


@pytest.fixture
def net(monkeypatch, tmp_path):
    monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path/'records'))
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving() as net: yield net


def lock_port():
    "kagglehub's test environment is http://localhost:7777, so one test run at a time may use it"
    return FileLock(Path(tempfile.gettempdir())/'imgclf-port-7777.lock', timeout=900)


@pytest.fixture
def kaggle():
    with lock_port(), serving(7777) as net: yield net


# ---- a process of its own

def env(tmp_path, net=None, **more):
    "A fresh process's environment: every hub is here, every client's folder temporary, no proxy"
    plain = {name: value for name,value in os.environ.items()
        if name.lower() not in PROXIES and not name.startswith(('KAGGLE', 'HF_'))}
    ours = dict(
        HOME=str(tmp_path),
        IMGCLF_HOME=str(tmp_path),
        IMGCLF_RECORDS=str(tmp_path/'records'),
        KAGGLE_API_ENVIRONMENT='TEST',
        HF_HOME=str(tmp_path/'hf'),
        HF_ENDPOINT=net.url if net else NOBODY,
        HF_HUB_OFFLINE='0',
        HF_HUB_DISABLE_XET='1',
        HF_HUB_DISABLE_PROGRESS_BARS='1')
    return {**plain, **ours, **more}


def run(tmp_path, source, net=None, folder='pets', **more):
    "`fetch` in a fresh process: its exit code, and the sentence or the path"
    code = f"""
from imgclf_nb.core import UserError
from imgclf_nb.fetching import Source, fetch
try: print(fetch({source!r}, {str(tmp_path/'data'/folder)!r}))
except UserError as e: print(e); raise SystemExit(3)"""
    rc, out, err = run_code(code, env(tmp_path, net, **more), timeout=300)
    # in its test environment kagglehub prints every answer, archives too
    lines = [line for line in out.split('\n') if line.isprintable() and len(line) < 1000]
    return rc, '\n'.join(lines) + (err[-2000:] if rc not in (0, 3) else '')


def bytes_below(folder):
    "The content of all files below a folder, by relative path"
    files = [path for path in Path(folder).rglob('*') if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def work(tmp_path, source):
    "Where a fetch of this source keeps what has arrived"
    return tmp_path/'data'/'.fetch-pets'/sha256(str(source).encode())[:8]


def seen(folder):
    "What a user sees in a folder"
    if not folder.exists(): return []
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))


def refuses(says, source, folder):
    "`fetch` stops with a sentence that holds this"
    with pytest.raises(UserError, match=says): fetch(source, folder)


def test_the_five_sets_have_a_source():
    from imgclf_nb.datasets.cards import CARDS
    assert set(SOURCES) == set(CARDS)
    assert all(source.address in CARDS[name].source for name,source in SOURCES.items())


# ---- https

def test_https_whole_and_only_once(net, tmp_path, capsys):
    source = Source('https', f'{net.url}/pets.zip', sha256=sha256(net.zip))
    folder = tmp_path/'data'/'pets'
    assert bytes_below(fetch(source, folder)) == PETS
    assert [p.name for p in folder.parent.iterdir()] == ['pets'], 'something is left behind'
    record = json.loads((tmp_path/'records'/'pets'/'source.json').read_text())
    assert record['sha256'] == sha256(net.zip)
    assert record['files'] == 6 and record['bytes'] == sum(map(len, PETS.values()))
    n = len(net.asked)
    fetch(source, folder)
    assert len(net.asked) == n and 'exists already' in capsys.readouterr().out


def test_https_resumes_after_many_cuts(net, tmp_path, monkeypatch):
    "As long as bytes arrive the number of tries has no limit, and the wait does not grow"
    waits = []
    monkeypatch.setattr(SLEEP, waits.append)
    net.zip, net.cuts = BIG, 6
    source = Source('https', f'{net.url}/pets.zip', sha256=sha256(BIG))
    got = fetch(source, tmp_path/'data'/'pets')
    starts = net.ranges()
    assert len(starts) == 6 and starts == sorted(set(starts)) and waits == [1]*6
    assert starts[0] > len(BIG)//2 - 20_000
    assert set(PETS) < set(bytes_below(got))


def test_https_begins_anew_where_the_file_has_changed(net, tmp_path, monkeypatch):
    net.zip, net.cuts = BIG, 1
    def changes(_): net.zip, net.tag = make_zip(PETS), '"v2"'  # while the client waits
    monkeypatch.setattr(SLEEP, changes)
    source = Source('https', f'{net.url}/pets.zip')
    assert bytes_below(fetch(source, tmp_path/'data'/'pets')) == PETS
    record = json.loads((tmp_path/'records'/'pets'/'source.json').read_text())
    assert len(net.asked) == 2 and record['sha256'] == sha256(net.zip)


def test_https_gives_up_where_nothing_arrives_and_resumes_later(net, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(SLEEP, waits.append)
    net.cuts = 10  # of a file so small that nothing of it is kept
    source, folder = Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets'
    refuses('kept breaking.*resumes', source, folder)
    assert waits == [1, 2, 4, 8] and seen(tmp_path/'data') == []
    net.cuts = 0
    fetch(source, folder)
    assert seen(tmp_path/'data') == ['pets']


def test_a_wrong_checksum_lets_nothing_be_seen(net, tmp_path):
    source = Source('https', f'{net.url}/p.zip', sha256='0'*64)
    with pytest.raises(UserError) as e: fetch(source, tmp_path/'data'/'pets')
    assert sha256(net.zip) in str(e.value) and '0'*64 in str(e.value)
    assert seen(tmp_path/'data') == []
    assert not list((tmp_path/'data').rglob('archive')), 'the wrong archive is kept'


def test_a_busy_server_is_waited_for(net, tmp_path, capsys, monkeypatch):
    waits = []
    monkeypatch.setattr(SLEEP, waits.append)
    source = Source('https', f'{net.url}/p.zip')
    net.busy, net.retry = 2, '7'
    fetch(source, tmp_path/'data'/'pets')
    assert waits == [7, 7] and 'busy (429), next try in 7 s' in capsys.readouterr().out
    net.busy, net.retry = 1, '7200'
    refuses('7200 s', source, tmp_path/'data'/'more')
    assert waits == [7, 7], 'nobody waits two hours'


CLOSED = [(403, 'browser'), (404, 'does not exist'), (500, 'unexpected|500')]

@pytest.mark.parametrize('status,says', CLOSED)
def test_https_closed_doors(net, tmp_path, status, says, monkeypatch):
    monkeypatch.setattr(SLEEP, lambda s: None)
    net.status = status
    refuses(says, Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')
    assert seen(tmp_path/'data') == []


def test_a_killed_fetch_is_not_seen_and_resumes(net, tmp_path):
    "The process is killed in the middle; while it runs a second one is kept away"
    net.zip, net.cuts, net.stall = BIG, 1, True
    source, folder = Source('https', f'{net.url}/pets.zip'), tmp_path/'data'/'pets'
    code = ('from imgclf_nb.fetching import *; from imgclf_nb.datasets.sources import Source; '
        f'fetch({source!r}, {str(folder)!r})')
    p = subprocess.Popen([sys.executable, '-c', code], env=env(tmp_path))
    assert net.arrived.wait(120)
    part = work(tmp_path, source)/'archive'
    until = time.monotonic() + 120
    while not (part.exists() and part.stat().st_size > 1 << 20) and time.monotonic() < until: time.sleep(.05)
    assert seen(tmp_path/'data') == []
    refuses('another process', source, folder)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert seen(tmp_path/'data') == [] and part.stat().st_size > 1 << 20
    fetch(source, folder)
    assert net.ranges() and net.ranges()[0] > 1 << 20 and seen(tmp_path/'data') == ['pets']


# ---- archives

def write_link(z):
    info = zipfile.ZipInfo('cat/passwd.jpg')
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    z.writestr(info, '/etc/passwd')


def write(*members):
    "A function that writes these `(name, bytes)` into a zip"
    def write_members(z):
        for name,data in members: z.writestr(name, data)
    return write_members


BAD_ZIPS = [
    ('leads out', write(('../../evil.jpg', b'x'))),
    ('leads out', write(('/evil.jpg', b'x'))),
    ('leads out', write(('a\\..\\evil.jpg', b'x'))),
    ('leads out', write(('C:evil.jpg', b'x'))),
    ('link or device', write_link),
    ('unpacks to more than', write(('zeros.jpg', bytes(70 << 20)))),
    ('twice', write(('a.jpg', b'1'), ('a.jpg', b'2'))),
    ('as a file and as a folder', write(('a', b'1'), ('a/b.jpg', b'2'))),
    ('as a file and as a folder', write(('a/b.jpg', b'2'), ('a', b'1'))),
    ('is a folder that holds 1 bytes', write(('a/', b'1')))]

@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('says,write_bad', BAD_ZIPS)
def test_a_bad_zip_leaves_nothing(tmp_path, says, write_bad):
    with zipfile.ZipFile(tmp_path/'bad.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('cat/good.jpg', b'x')
        write_bad(z)
    with pytest.raises(UserError, match=says): unpack(tmp_path/'bad.zip', tmp_path/'a'/'b')
    assert bytes_below(tmp_path).keys() == {'bad.zip'}


def member(name, kind=tarfile.REGTYPE, link='', size=0):
    m = tarfile.TarInfo(name)
    m.type = kind
    m.linkname = link
    m.size = size
    return m


BAD_MEMBERS = [
    (member('../evil.jpg'), 'leads out'),
    (member('/evil.jpg'), 'leads out'),
    (member('l', tarfile.SYMTYPE, '/etc'), 'link'),
    (member('h', tarfile.LNKTYPE, 'cat/1.jpg'), 'link'),
    (member('d', tarfile.CHRTYPE), 'device'),
    (member('f', tarfile.FIFOTYPE), 'device')]

@pytest.mark.parametrize('m,says', BAD_MEMBERS)
def test_a_bad_tar_leaves_nothing(tmp_path, m, says):
    with tarfile.open(tmp_path/'bad.tar.gz', 'w:gz') as t:
        t.addfile(member('cat/1.jpg', size=1), io.BytesIO(b'1'))
        t.addfile(m)
    with pytest.raises(UserError, match=says): unpack(tmp_path/'bad.tar.gz', tmp_path/'a')
    assert bytes_below(tmp_path).keys() == {'bad.tar.gz'}


FORMATS = [('zip', None), ('tar', 'w'), ('tgz', 'w:gz'), ('tar.bz2', 'w:bz2'), ('tar.xz', 'w:xz')]

@pytest.mark.parametrize('end,mode', FORMATS)
def test_archives_whole_and_broken(tmp_path, end, mode):
    path = tmp_path/f'a.{end}'
    if mode is None: path.write_bytes(make_zip(PETS))
    else:
        with tarfile.open(path, mode) as t:
            for name,data in PETS.items(): t.addfile(member(name, size=len(data)), io.BytesIO(data))
    assert bytes_below(unpack(path, tmp_path/'good')) == PETS
    path.write_bytes(path.read_bytes()[:len(path.read_bytes())//2])
    with pytest.raises(UserError, match=f'a.{end} cannot be unpacked'): unpack(path, tmp_path/'bad')
    assert not (tmp_path/'bad').exists()


def test_limits_and_encryption(tmp_path):
    path, folder = tmp_path/'a.zip', tmp_path/'a'
    path.write_bytes(make_zip(PETS))
    with pytest.raises(UserError, match='more than 5 files'): unpack(path, folder, max_files=5)
    with pytest.raises(UserError, match='more than 1,000 bytes'):
        unpack(path, folder, max_bytes=1000)
    data = bytearray(path.read_bytes())
    data[data.index(b'PK\1\2') + 8] |= 1  # the flag in the table of contents
    path.write_bytes(data)
    with pytest.raises(UserError, match='with its password'): unpack(path, folder)
    assert not folder.exists()


def test_a_refused_archive_is_not_kept(net, tmp_path):
    net.zip = make_zip({**PETS, '../../evil.jpg': b'x'})
    refuses('leads out', Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')
    assert not [name for name in bytes_below(tmp_path) if name.endswith(('.jpg', 'archive'))]


# ---- the disk

def test_a_disk_that_is_too_small(net, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr('imgclf_nb.datasets.archives.shutil.disk_usage',
        lambda p: usage._replace(free=100))
    says = f'{len(net.zip):,} bytes are needed.*100 are free'
    refuses(says, Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')
    assert seen(tmp_path/'data') == []
    (tmp_path/'a.zip').write_bytes(net.zip)
    says = f'{sum(map(len, PETS.values())):,} bytes are needed'
    with pytest.raises(UserError, match=says): unpack(tmp_path/'a.zip', tmp_path/'a')


FULL_DISK = '''
import builtins, errno
from imgclf_nb import fetching
class Full:
    def __init__(self, f): self.f, self.left = f, 1 << 20
    def write(self, b):
        self.left -= len(b)
        if self.left < 0: raise OSError(errno.ENOSPC, 'No space left on device')
        return self.f.write(b)
    def __getattr__(self, k): return getattr(self.f, k)
    def __enter__(self): return self
    def __exit__(self, *a): self.f.close()
def open_full(path, mode='r', *a, **k):
    file = open(path, mode, *a, **k)
    return Full(file) if mode in ('wb', 'ab', 'xb') else file
from imgclf_nb.datasets import downloads
downloads.open = open_full
'''

def test_a_disk_that_fills_up(net, tmp_path):
    "After a megabyte every write fails as on a full disk; what arrived stays, and is resumed later"
    net.zip = BIG
    source, folder = Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets'
    code = f"""{FULL_DISK}
try: fetching.fetch(fetching.{source!r}, {str(folder)!r})
except fetching.UserError as e: print(e)"""
    _, out, _ = run_code(code, env(tmp_path))
    assert 'The disk is full' in out and f'{len(BIG):,} bytes are needed' in out, out
    assert 'Free some space' in out, out
    assert seen(tmp_path/'data') == []
    fetch(source, folder)  # room was made
    assert net.ranges()[0] > 500_000, 'what had arrived was thrown away'


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    "The hub's client taken out: it knows of one file, and the test says what a download does"
    import huggingface_hub
    import huggingface_hub.constants
    siblings = [dict(rfilename='a.zip', size=1234)]
    info = huggingface_hub.DatasetInfo(id='me/pets', sha=SHA, siblings=siblings)
    monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path/'records'))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(huggingface_hub.HfApi, 'dataset_info', lambda *a, **k: info)
    monkeypatch.setattr('imgclf_nb.fetching.check_reachable', lambda e: None)
    monkeypatch.setattr(SLEEP, lambda s: None)
    return lambda f: monkeypatch.setattr(huggingface_hub, 'snapshot_download', f)


def test_a_disk_that_fills_up_under_the_hub(tmp_path, fake_hub):
    def full(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device')
    fake_hub(full)
    says = 'The disk is full: 1,234 bytes are needed.*Free some space'
    refuses(says, Source('hub', 'me/pets'), tmp_path/'data'/'pets')


def test_a_hub_that_returns_half(tmp_path, fake_hub):
    "Where the network goes away, the client returns what is there, with a warning"
    fake_hub(lambda *a, **k: None)
    refuses('1 of 1 files have not arrived', Source('hub', 'me/pets'), tmp_path/'data'/'pets')
    assert seen(tmp_path/'data') == []


def test_a_folder_that_cannot_be_written(net, tmp_path, monkeypatch):
    def no(self, *a, **k): raise PermissionError(errno.EACCES, 'Permission denied', str(self))
    monkeypatch.setattr('imgclf_nb.fetching.get_records', lambda k: tmp_path)
    monkeypatch.setattr(Path, 'mkdir', no)
    says = 'cannot be written: make .*data writable'
    refuses(says, Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')


# ---- Kaggle

KAGGLE = Source('kaggle', 'me/pets')


def test_kaggle_whole(kaggle, tmp_path):
    rc, out = run(tmp_path, KAGGLE, KAGGLE_API_TOKEN='secret')
    assert rc == 0 and bytes_below(tmp_path/'data'/'pets') == PETS, out
    record = json.loads((tmp_path/'records'/'pets'/'source.json').read_text())
    assert record['revision'] == '3'
    assert all(authorization == 'Bearer secret' for *_,authorization in kaggle.asked)
    assert not (tmp_path/'.cache'/'kagglehub').exists()


def test_kaggle_resumes_after_a_cut(kaggle, tmp_path):
    """In its test environment kagglehub reads the first answer whole, so the first cut is one that
    an earlier, killed process left behind."""
    kaggle.zip, kaggle.cuts = BIG, 0
    kaggle.md5 = base64.b64encode(hashlib.md5(BIG).digest()).decode()
    work(tmp_path, KAGGLE).mkdir(parents=True)
    (work(tmp_path, KAGGLE)/'3.archive').write_bytes(BIG[:1_500_000])
    note = dict(etag=kaggle.tag, modified='', encoding='')
    (work(tmp_path, KAGGLE)/'3.json').write_text(json.dumps(note))
    first = kaggle.body
    def cut_the_rest(h, data, start, headers):
        kaggle.cuts = int(start == 1_500_000)
        first(h, data, start, headers)
    kaggle.body = cut_the_rest
    rc, out = run(tmp_path, KAGGLE)
    assert rc == 0 and set(PETS) < set(bytes_below(tmp_path/'data'/'pets')), out
    one, two = kaggle.ranges()
    assert one == 1_500_000 and two > one + (1 << 20) - 1, kaggle.ranges()
    assert 'the connection broke, next try in 1 s' in out


def test_kaggle_wrong_sum_and_busy(kaggle, tmp_path):
    kaggle.busy, kaggle.md5 = 1, base64.b64encode(b'0'*16).decode()
    body = kaggle.body
    def correct_next_time(h, data, start, headers):
        body(h, data, start, headers)
        kaggle.md5 = None
    kaggle.body = correct_next_time
    rc, out = run(tmp_path, KAGGLE)
    assert rc == 0 and bytes_below(tmp_path/'data'/'pets') == PETS, out
    assert 'busy (429), next try in 1 s' in out
    assert sum('DownloadDataset' in path for _,path,_,_ in kaggle.asked) == 2


def test_kaggle_limits_are_ours(kaggle, tmp_path):
    kaggle.zip = make_zip({**PETS, 'zeros.jpg': bytes(70 << 20)})
    rc, out = run(tmp_path, KAGGLE)
    assert rc == 3 and 'unpacks to more than' in out and seen(tmp_path/'data') == [], out


KAGGLE_CLOSED = [
    (401, None, ['KAGGLE_API_TOKEN', 'kaggle.com/settings', '~/.kaggle/access_token']),
    (403, 'secret', ['accept its terms', 'kaggle.com/datasets/me/pets']),
    (404, 'secret', ['does not exist'])]

@pytest.mark.parametrize('status,token,says', KAGGLE_CLOSED)
def test_kaggle_closed_doors(kaggle, tmp_path, status, token, says):
    kaggle.status = status
    given = {'KAGGLE_API_TOKEN': token} if token else {}
    rc, out = run(tmp_path, KAGGLE, **given)
    last = out.strip().splitlines()[-1]
    assert rc == 3 and all(o in last for o in says) and seen(tmp_path/'data') == [], out


# ---- the hub

HUB = Source('hub', 'me/pets')


def make_rows(n, big):
    "Rows with an image and a label; some names twice, some missing; the first image `big`"
    rows = []
    for i in range(n):
        data = picture(i) + os.urandom(big if i == 0 else 0)
        path = None if i % 5 == 0 else f'{i//4}.jpg'
        rows.append(dict(image=dict(bytes=data, path=path), labels=i % 2))
    return rows


def tables(n=40, big=0):
    "`(rows, files)` of a data set with two parquet files of one split"
    label = dict(_type='ClassLabel', names=['cat', 'dog'])
    about = dict(info=dict(features=dict(image=dict(_type='Image'), labels=label)))
    rows = make_rows(n, big)
    files = {'README.md': b'# pets'}
    for j,part in enumerate((rows[:n//2], rows[n//2:])):
        table = pa.Table.from_pylist(part)
        table = table.replace_schema_metadata({'huggingface': json.dumps(about)})
        out = io.BytesIO()
        pq.write_table(table, out)
        files[f'data/train-{j:05}-of-00002.parquet'] = out.getvalue()
    return rows, files


def test_hub_parquet_keeps_the_bytes(tmp_path):
    """Every image arrives once, in its class, byte for byte; the client itself resumes after a cut
    connection, and writes ten megabytes at a time."""
    rows, files = tables(big=24 << 20)
    with serving(repo=files) as net:
        net.cuts, net.cut_in = 1, '00000-of'
        rc, out = run(tmp_path, HUB, net)
        assert rc == 0, out
        assert len(net.ranges()) == 1 and net.ranges()[0] >= 10 << 20, 'all of it was sent again'
    got = bytes_below(tmp_path/'data'/'pets')
    for i,c in enumerate(('cat', 'dog')):
        arrived = sorted(sha256(data) for name,data in got.items() if name.startswith(f'{c}/'))
        assert arrived == sorted(sha256(r['image']['bytes']) for r in rows if r['labels'] == i)
    assert len(got) == len(rows) and all(name.endswith('.jpg') for name in got)
    record = json.loads((tmp_path/'records'/'pets'/'source.json').read_text())
    assert record['revision'] == SHA


def test_hub_folders_and_zips(tmp_path):
    repo = {'README.md': b'# pets', 'train.zip': make_zip(PETS), 'test/cat/x.jpg': picture(7)}
    with serving(repo=repo) as net:
        rc, out = run(tmp_path, Source('hub', 'me/pets', revision='main'), net)
        assert rc == 0, out
        unpacked = {f'train/{name}': data for name,data in PETS.items()}
        kept = {name: data for name,data in repo.items() if name != 'train.zip'}
        assert bytes_below(tmp_path/'data'/'pets') == {**kept, **unpacked}
        rc, out = run(tmp_path, Source('hub', 'me/pets', revision='other'), net)
        assert rc == 3 and 'move it away' in out


def test_hub_resumes_in_a_second_process(tmp_path):
    "Complete files are not requested again; of an incomplete one the client keeps nothing"
    _, files = tables()
    second = 'train-00001-of-00002.parquet'
    with serving(repo=files) as net:
        body = net.body
        def refuse_second(h, data, start, headers):
            if second in h.path and h.command == 'GET': net.send(h, 403, b'', {})
            else: body(h, data, start, headers)
        net.body = refuse_second
        rc, out = run(tmp_path, HUB, net)
        assert rc == 3 and 'refuses access (403)' in out and seen(tmp_path/'data') == [], out
        net.body = body
        net.asked.clear()
        rc, out = run(tmp_path, HUB, net)
        assert rc == 0 and seen(tmp_path/'data') == ['pets'], out
        sent = [path for method,path,_,_ in net.asked if method == 'GET' and '/resolve/' in path]
        assert [path.rsplit('/')[-1] for path in sent] == [second]


def test_hub_wrong_sum(tmp_path):
    _, files = tables()
    with serving(repo=files) as net:
        body = net.body
        true = files['data/train-00001-of-00002.parquet']
        false = true[:-9] + b'x'*9
        def lie(h, data, start, headers): body(h, false if data == true else data, start, headers)
        net.body = lie
        rc, out = run(tmp_path, HUB, net)
        assert rc == 3 and sha256(true) in out and sha256(false) in out, out
        assert seen(tmp_path/'data') == [], out
        net.body = body
        assert run(tmp_path, HUB, net)[0] == 0


HUB_CLOSED = [(401, 'HF_TOKEN'), (403, 'accept its terms'), (404, 'does not exist')]

@pytest.mark.parametrize('status,says', HUB_CLOSED)
def test_hub_closed_doors(tmp_path, status, says):
    with serving() as net:
        net.status = status
        rc, out = run(tmp_path, HUB, net)
    assert rc == 3 and says in out and 'huggingface.co/datasets/me/pets' in out, out
    assert seen(tmp_path/'data') == [], out


def test_hub_busy_and_switched_off(tmp_path):
    with serving(repo={'train.zip': make_zip(PETS)}) as net:
        net.busy = 1
        rc, out = run(tmp_path, HUB, net)
        assert rc == 0 and 'busy (429), next try in 1 s' in out
    rc, out = run(tmp_path, HUB, folder='more', HF_HUB_OFFLINE='1')
    assert rc == 3 and 'HF_HUB_OFFLINE is set' in out


UNREACHABLE = [KAGGLE, HUB, Source('https', f'{NOBODY}/p.zip')]

@pytest.mark.parametrize('source', UNREACHABLE, ids=lambda s: s.kind)
def test_without_network(tmp_path, source):
    with lock_port():  # nobody listens there
        rc, out = run(tmp_path, source)
    assert rc == 3 and 'cannot be reached' in out and 'connect to the network' in out, out
    assert 'next try' not in out  # nobody waits for a network that is not there


# ---- parquet, layouts

def test_parquet_splits_odd_names_and_gaps(tmp_path, capsys):
    def write(name, rows):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path/name)
        return tmp_path/name
    def row(label, path, data=b'\x89PNG1'):
        return dict(image=dict(bytes=data, path=path), label=label)
    train = [
        row('a/b', '../../evil.png'),
        row('a_b', '.hidden.png'),
        row('__x', 'n'),
        row('a/b', 'EVIL.png'),
        row('a/b', None, b'??'),
        row('x', 'v.2')]
    valid = [row('a/b', 'v.png'), row(None, 'w.png'), dict(image=None, label='a/b')]
    files = [write('train-0.parquet', train), write('validation-0.parquet', valid)]
    assert sorted(bytes_below(unpack_parquet(files, tmp_path/'out'))) == [
        'train/a_b/000005.jpg',
        'train/a_b/EVIL_000004.png',
        'train/a_b/evil.png',
        'train/a_b_/hidden.png',
        'train/x/n.png',
        'train/x_/v.2.png',
        'valid/a_b/v.png']
    assert '2 of 9 rows' in capsys.readouterr().out


def test_the_folder_that_is_the_set(net, tmp_path):
    names = [f'{split}/Apple/r_{i}_100.jpg' for split in ('Training', 'Test') for i in range(2)]
    inner = {f'fruits-360_dataset/fruits-360/{name}': picture(i) for i,name in enumerate(names)}
    net.zip = make_zip({**inner, 'readme.md': b'x'})
    source = Source('https', f'{net.url}/p.zip', folder=SOURCES['fruits360'].folder)
    assert sorted(bytes_below(fetch(source, tmp_path/'data'/'fruits360'))) == sorted(names)
    sizes = ('100x100', 'original-size')
    net.zip = make_zip({f'fruits-360_{size}/Training/Apple/1.jpg': b'x' for size in sizes})
    source = Source('https', f'{net.url}/p.zip', folder='**/fruits-360*')
    refuses('2 folders.*100x100.*another layout', source, tmp_path/'data'/'more')


def test_two_sources_do_not_mix(net, tmp_path):
    "The first one breaks when all of it is here; the second is asked all the same"
    folder = tmp_path/'data'/'pets'
    one = Source('https', f'{net.url}/one.zip', folder='fruits-*')
    net.zip = make_zip({'fruits-1/a/1.jpg': b'x', 'fruits-2/a/1.jpg': b'x'})
    refuses('2 folders', one, folder)
    net.zip = make_zip(PETS)
    assert bytes_below(fetch(Source('https', f'{net.url}/two.zip'), folder)) == PETS
    refuses('move it away', Source('https', f'{net.url}/one.zip'), folder)
    refuses('move it away', Source('https', f'{net.url}/two.zip', sha256='0'*64), folder)


def test_a_source_that_has_changed_says_so(net, tmp_path, capsys):
    source, folder = Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets'
    shutil.rmtree(fetch(source, folder))
    old, net.zip = sha256(net.zip), make_zip(dict(list(PETS.items())[:4]))
    fetch(source, folder)
    assert f'it was {old}, now it is {sha256(net.zip)}' in capsys.readouterr().out


def test_something_unexpected_keeps_its_name():
    assert 'ZeroDivisionError: by zero' in explain_failure(ZeroDivisionError('by zero'), HUB)


# ---- the command

def test_command_end_to_end(kaggle, tmp_path):
    """A named set from Kaggle: counts are compared with the card, the manifest's hash is printed,
    a second call changes nothing."""
    e = {**env(tmp_path), 'KAGGLE_API_TOKEN': 'secret'}
    rc, out = command('imgclf_fetch', 'pc_parts', **e)
    assert rc == 0, out[-3000:]
    assert 'The card expects 3,279 images, but 6 arrived' in out, out[-3000:]
    assert 'expects 14 classes, but 2 arrived' in out, out[-3000:]
    manifest = (tmp_path/'records'/'pc_parts'/'manifest.csv').read_bytes()
    assert f'data_hash {sha256(manifest)}' in out and manifest.count(b'\n') == 7
    assert all(sha256(data).encode() in manifest for data in PETS.values())
    n = len(kaggle.asked)
    rc, out = command('imgclf_fetch', 'pc_parts', **e)
    assert rc == 0 and 'exists already' in out and len(kaggle.asked) == n, out


def test_command_any_zip_and_another_data_root(tmp_path):
    (tmp_path/'elsewhere').mkdir()
    e = {**env(tmp_path), 'IMGCLF_DATA': str(tmp_path/'elsewhere')}
    with serving() as net:
        given = '--source', f'{net.url}/p.zip', '--sha256', sha256(net.zip)
        rc, out = command('imgclf_fetch', 'mine', *given, **e)
    assert rc == 0 and 'is only read' in out and '6 images, 0 unreadable, 2 classes' in out, out
    assert (tmp_path/'data'/'mine'/'pets'/'cat').is_dir(), out


REFUSED = [
    (['chest_xrai'], 'chest_xray'),
    (['pc_parts_mini'], 'generated by the program'),
    (['../x', '--source', 'hf:a/b'], "cannot be a data set's folder"),
    (['records', '--source', 'hf:a/b'], "cannot be a data set's folder"),
    (['x', '--source', 'ftp://a/b.zip'], 'is not a source'),
    (['x', '--source', 'http://a.org/b.zip'], 'changed on its way'),
    (['pc_parts', '--revision', 'main'], 'numbers'),
    (['cats_vs_dogs', '--sha256', '0'*64], 'not an archive'),
    (['x', '--source', 'https://a.org/b.zip', '--revision', '1'], 'no revisions'),
    (['x', '--source', 'https://a.org/b.zip', '--sha256', 'abc'], '64')]

@pytest.mark.parametrize('args,says', REFUSED)
def test_command_refuses_with_a_sentence(tmp_path, args, says):
    e = dict(IMGCLF_HOME=str(tmp_path), IMGCLF_RECORDS=str(tmp_path/'records'))
    rc, out = command('imgclf_fetch', *args, **e)
    assert rc == 1 and says in out and 'Traceback' not in out


def test_command_stopped_by_hand(tmp_path):
    fetch_command = str(Path(sys.executable).parent/'imgclf_fetch')
    # a background job ignores Ctrl-C, and so would its child
    def listen(): signal.signal(signal.SIGINT, signal.SIG_DFL)
    with serving(zip=BIG) as net:
        net.cuts, net.stall = 1, True
        p = subprocess.Popen([fetch_command, 'mine', '--source', f'{net.url}/p.zip'],
            env=env(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=listen)
        assert net.arrived.wait(120)
        time.sleep(.5)
        p.send_signal(signal.SIGINT)
        out, _ = p.communicate(timeout=120)
    assert p.returncode == 130 and 'The same command resumes' in out, out
    assert 'Traceback' not in out and seen(tmp_path/'data') == [], out
