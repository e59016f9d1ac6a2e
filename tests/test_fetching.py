"Fetching: the real clients, unmodified, against a server on this machine that speaks as much of their protocols as a small set needs"
import base64, contextlib, errno, hashlib, http.server, io, json, os, re, shutil, signal, stat, subprocess, sys, tarfile, tempfile, threading, time, zipfile
from pathlib import Path

import pyarrow as pa, pyarrow.parquet as pq, pytest
from filelock import FileLock
from PIL import Image

from conftest import command
from imgclf_nb.core import UserError
from imgclf_nb.datasets.sources import SOURCES, Source
from imgclf_nb.fetching import _explain, fetch
from imgclf_nb.datasets.archives import unpack, unpack_parquet

SHA = 'f'*40
sha256 = lambda b: hashlib.sha256(b).hexdigest()


def picture(i):
    Image.linear_gradient('L').rotate(7*i).resize((40, 30)).save(out := io.BytesIO(), 'jpeg')
    return out.getvalue()


def make_zip(files):
    with zipfile.ZipFile(out := io.BytesIO(), 'w', zipfile.ZIP_DEFLATED) as z:
        for name,data in files.items(): z.writestr(name, data)
    return out.getvalue()


PETS = {f'pets/{c}/{i}.jpg': picture(i + 10*(c == 'dog')) for c in ('cat', 'dog') for i in range(3)}
BIG = make_zip({**PETS, 'pets/cat/big.jpg': os.urandom(5 << 20)})  # kagglehub writes a megabyte at a time: less is lost with the connection


class Net:
    "Plain files, Kaggle's API and the hub's API on one port; `cuts` connections break in the middle, `busy` answers are 429, `status` is the answer to everything"
    def __init__(self, port=0, zip=make_zip(PETS), repo=None):
        self.zip, self.repo, self.cuts, self.cut_in, self.busy, self.status, self.retry, self.tag, self.asked = zip, repo or {}, 0, '', 0, None, '1', '"v1"', []
        self.md5, self.stall, self.arrived = None, False, threading.Event()
        net = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *a): pass
            def do_POST(self): self.rfile.read(int(self.headers.get('Content-Length', 0))); self.do_GET()
            def do_HEAD(self): self.do_GET()
            def do_GET(self): net.answer(self)

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler)
        self.server.daemon_threads, self.url = True, f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, args=(.02,), daemon=True).start()

    def answer(self, h):
        if h.path.startswith('/api/') and 'me/pets' not in h.path and 'Dataset' not in h.path: return self.send(h, 404, b'', {})  # the hub's client asks about itself too
        start = int(m[1]) if (m := re.match(r'bytes=(\d+)-', h.headers.get('Range', ''))) else 0
        self.asked.append((h.command, h.path, start, h.headers.get('Authorization')))
        if self.busy: self.busy -= 1; return self.send(h, 429, b'', {'Retry-After': self.retry})
        if self.status: return self.send(h, self.status, b'{}', {'Content-Type': 'application/json'})
        if h.path.endswith('/GetDataset'): return self.json(h, dict(ref='me/pets', currentVersionNumber=3))
        if h.path.startswith('/api/datasets/'): return self.hub(h)
        name = h.path.split('/resolve/')[1].split('/', 1)[1] if '/resolve/' in h.path else None
        if name: return self.body(h, self.repo[name], start, {'X-Repo-Commit': SHA, 'ETag': f'"{sha256(self.repo[name])}"'})
        self.body(h, self.zip, start if h.headers.get('If-Range') in (None, self.tag) else 0, {'ETag': self.tag, **({'x-goog-hash': f'md5={self.md5}'} if self.md5 else {})})

    def hub(self, h):
        lfs = lambda k, key: {key: sha256(self.repo[k]), 'size': len(self.repo[k]), 'pointerSize': 130}
        if '/tree/' in h.path: return self.json(h, [dict(type='file', path=k, oid='0'*40, size=len(v), lfs=lfs(k, 'oid')) for k,v in self.repo.items()])
        self.json(h, dict(id='me/pets', sha=SHA, siblings=[dict(rfilename=k, size=len(v), blobId='0'*40, lfs=lfs(k, 'sha256')) for k,v in self.repo.items()]))

    def json(self, h, obj): self.send(h, 200, json.dumps(obj).encode(), {'Content-Type': 'application/json'})

    def body(self, h, data, start, headers):
        rest = data[start:]
        more = {'Content-Range': f'bytes {start}-{len(data)-1}/{len(data)}'} if start else {}
        cut = h.command != 'HEAD' and self.cuts > 0 and self.cut_in in h.path
        self.cuts -= cut
        self.send(h, 206 if start else 200, rest, {'Accept-Ranges': 'bytes', 'Content-Type': 'application/zip; charset=latin-1', **headers, **more}, len(rest)//2 if cut else None)

    def send(self, h, status, data, headers, cut=None):
        h.send_response(status)
        for k,v in {'Content-Length': str(len(data)), **headers}.items(): h.send_header(k, v)
        h.end_headers()
        if h.command == 'HEAD': return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            h.wfile.write(data if cut is None else data[:cut]); h.wfile.flush()
            if cut is not None and self.stall: self.arrived.set(); time.sleep(30)
        if cut is not None: h.close_connection = True

    def ranges(self): return [start for method,_,start,_ in self.asked if method != 'HEAD' and start]


@contextlib.contextmanager
def serving(port=0, **kw):
    try: net = Net(port, **kw)
    except OSError as e: pytest.fail(f'port {port} of this machine is taken ({e}); kagglehub asks there in its test environment, so free it')
    try: yield net
    finally: net.server.shutdown(); net.server.server_close()


@pytest.fixture
def net(monkeypatch, tmp_path):
    monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path/'records'))
    for o in ('http_proxy', 'https_proxy', 'all_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY'): monkeypatch.delenv(o, raising=False)
    with serving() as net: yield net


@pytest.fixture
def kaggle():
    "kagglehub's test environment is http://localhost:7777, so one test run at a time may use it"
    with FileLock(Path(tempfile.gettempdir())/'imgclf-port-7777.lock', timeout=120), serving(7777) as net: yield net


def env(tmp_path, net=None, **more):
    "The environment of a fresh process: every hub is here, every folder of the clients is a temporary one, no proxy"
    plain = {k: v for k,v in os.environ.items() if k.lower() not in ('http_proxy', 'https_proxy', 'all_proxy') and not k.startswith(('KAGGLE', 'HF_'))}
    return {**plain, 'HOME': str(tmp_path), 'IMGCLF_HOME': str(tmp_path), 'IMGCLF_RECORDS': str(tmp_path/'records'), 'KAGGLE_API_ENVIRONMENT': 'TEST', 'HF_HOME': str(tmp_path/'hf'),
            'HF_ENDPOINT': net.url if net else 'http://127.0.0.1:9', 'HF_HUB_OFFLINE': '0', 'HF_HUB_DISABLE_XET': '1', 'HF_HUB_DISABLE_PROGRESS_BARS': '1', **more}


def run(tmp_path, source, net=None, folder='pets', **more):
    "`fetch` in a fresh process: its exit code, and the sentence or the path"
    code = f"""
from imgclf_nb.core import UserError
from imgclf_nb.fetching import Source, fetch
try: print(fetch({source!r}, {str(tmp_path/'data'/folder)!r}))
except UserError as e: print(e); raise SystemExit(3)"""
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, encoding='utf-8', errors='replace', timeout=120, env=env(tmp_path, net, **more))
    said = '\n'.join(o for o in r.stdout.split('\n') if o.isprintable() and len(o) < 1000)  # in its test environment kagglehub prints every answer, archives too
    return r.returncode, said + (r.stderr[-2000:] if r.returncode not in (0, 3) else '')


def bytes_below(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob('*') if p.is_file()}
def work(tmp_path, source): return tmp_path/'data'/'.fetch-pets'/sha256(str(source).encode())[:8]
def seen(folder): return sorted(p.name for p in folder.iterdir() if not p.name.startswith('.')) if folder.exists() else []


def test_the_five_sets_have_a_source():
    from imgclf_nb.datasets.cards import CARDS
    assert set(SOURCES) == set(CARDS)
    assert all(o.address in CARDS[k].source for k,o in SOURCES.items())


# ---- https

def test_https_whole_and_only_once(net, tmp_path, capsys):
    source, folder = Source('https', f'{net.url}/pets.zip', sha256=sha256(net.zip)), tmp_path/'data'/'pets'
    assert bytes_below(fetch(source, folder)) == PETS
    assert [p.name for p in folder.parent.iterdir()] == ['pets'], 'something is left behind'
    record = json.loads((tmp_path/'records'/'pets'/'source.json').read_text())
    assert record['sha256'] == sha256(net.zip) and record['files'] == 6 and record['bytes'] == sum(map(len, PETS.values()))
    n = len(net.asked)
    fetch(source, folder)
    assert len(net.asked) == n and 'there already' in capsys.readouterr().out


def test_https_goes_on_after_many_cuts(net, tmp_path, monkeypatch):
    "As long as bytes arrive there is no end of patience, and the wait does not grow"
    waits = []
    monkeypatch.setattr('imgclf_nb.fetching.time.sleep', waits.append)
    net.zip, net.cuts = BIG, 6
    got = fetch(Source('https', f'{net.url}/pets.zip', sha256=sha256(BIG)), tmp_path/'data'/'pets')
    starts = net.ranges()
    assert len(starts) == 6 and starts == sorted(set(starts)) and starts[0] > len(BIG)//2 - 20_000 and waits == [1]*6
    assert set(PETS) < set(bytes_below(got))


def test_https_begins_anew_where_the_file_has_changed(net, tmp_path, monkeypatch):
    net.zip, net.cuts = BIG, 1
    def changes(_): net.zip, net.tag = make_zip(PETS), '"v2"'  # while the client waits
    monkeypatch.setattr('imgclf_nb.fetching.time.sleep', changes)
    assert bytes_below(fetch(Source('https', f'{net.url}/pets.zip'), tmp_path/'data'/'pets')) == PETS
    assert len(net.asked) == 2 and json.loads((tmp_path/'records'/'pets'/'source.json').read_text())['sha256'] == sha256(net.zip)


def test_https_gives_up_where_nothing_arrives_and_goes_on_later(net, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr('imgclf_nb.fetching.time.sleep', waits.append)
    net.cuts = 10  # of a file so small that nothing of it is kept
    with pytest.raises(UserError, match='broke again and again.*goes on'): fetch(Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')
    assert waits == [1, 2, 4, 8] and seen(tmp_path/'data') == []
    net.cuts = 0
    fetch(Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')
    assert seen(tmp_path/'data') == ['pets']


def test_a_wrong_checksum_lets_nothing_be_seen(net, tmp_path):
    with pytest.raises(UserError) as e: fetch(Source('https', f'{net.url}/p.zip', sha256='0'*64), tmp_path/'data'/'pets')
    assert sha256(net.zip) in str(e.value) and '0'*64 in str(e.value)
    assert seen(tmp_path/'data') == [] and not list((tmp_path/'data').rglob('archive')), 'the wrong archive is kept'


def test_a_busy_server_is_waited_for(net, tmp_path, capsys, monkeypatch):
    waits = []
    monkeypatch.setattr('imgclf_nb.fetching.time.sleep', waits.append)
    net.busy, net.retry = 2, '7'
    fetch(Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')
    assert waits == [7, 7] and 'busy (429), again in 7 s' in capsys.readouterr().out
    net.busy, net.retry = 1, '7200'
    with pytest.raises(UserError, match='7200 s'): fetch(Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'more')
    assert waits == [7, 7], 'nobody waits two hours'


@pytest.mark.parametrize('status,says', [(403, 'browser'), (404, 'does not exist'), (500, 'unexpected|500')])
def test_https_closed_doors(net, tmp_path, status, says, monkeypatch):
    monkeypatch.setattr('imgclf_nb.fetching.time.sleep', lambda s: None)
    net.status = status
    with pytest.raises(UserError, match=says): fetch(Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')
    assert seen(tmp_path/'data') == []


def test_a_killed_fetch_is_not_seen_and_goes_on(net, tmp_path):
    "The process is killed in the middle; while it runs a second one is kept away"
    net.zip, net.cuts, net.stall = BIG, 1, True
    source = Source('https', f'{net.url}/pets.zip')
    code = f'from imgclf_nb.fetching import *; from imgclf_nb.datasets.sources import Source; fetch({source!r}, {str(tmp_path/"data"/"pets")!r})'
    p = subprocess.Popen([sys.executable, '-c', code], env=env(tmp_path))
    assert net.arrived.wait(60)
    part = work(tmp_path, source)/'archive'
    for _ in range(100):
        if part.exists() and part.stat().st_size > 1 << 20: break
        time.sleep(.05)
    assert seen(tmp_path/'data') == []
    with pytest.raises(UserError, match='another process'): fetch(source, tmp_path/'data'/'pets')
    p.send_signal(signal.SIGKILL); p.wait()
    assert seen(tmp_path/'data') == [] and part.stat().st_size > 1 << 20
    fetch(source, tmp_path/'data'/'pets')
    assert net.ranges() and net.ranges()[0] > 1 << 20 and seen(tmp_path/'data') == ['pets']


# ---- archives

def write_link(z):
    info = zipfile.ZipInfo('cat/passwd.jpg')
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    z.writestr(info, '/etc/passwd')


BAD_ZIPS = {
    'leads out': [lambda z: z.writestr('../../evil.jpg', b'x'), lambda z: z.writestr('/evil.jpg', b'x'), lambda z: z.writestr('a\\..\\evil.jpg', b'x'), lambda z: z.writestr('C:evil.jpg', b'x')],
    'link or device': [write_link],
    'unpacks to more than': [lambda z: z.writestr('zeros.jpg', bytes(70 << 20))],
    'FileExistsError': [lambda z: (z.writestr('a.jpg', b'1'), z.writestr('a.jpg', b'2'))],
    'NotADirectoryError|FileExistsError': [lambda z: (z.writestr('a', b'1'), z.writestr('a/b.jpg', b'2'))]}


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('says,write', [(k, f) for k,v in BAD_ZIPS.items() for f in v])
def test_a_bad_zip_leaves_nothing(tmp_path, says, write):
    with zipfile.ZipFile(tmp_path/'bad.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('cat/good.jpg', b'x'); write(z)
    with pytest.raises(UserError, match=says): unpack(tmp_path/'bad.zip', tmp_path/'a'/'b')
    assert bytes_below(tmp_path).keys() == {'bad.zip'}


def member(name, kind=tarfile.REGTYPE, link='', size=0):
    m = tarfile.TarInfo(name)
    m.type, m.linkname, m.size = kind, link, size
    return m


@pytest.mark.parametrize('m,says', [(member('../evil.jpg'), 'leads out'), (member('/evil.jpg'), 'leads out'), (member('l', tarfile.SYMTYPE, '/etc'), 'link'), (member('h', tarfile.LNKTYPE, 'cat/1.jpg'), 'link'),
    (member('d', tarfile.CHRTYPE), 'device'), (member('f', tarfile.FIFOTYPE), 'device')])
def test_a_bad_tar_leaves_nothing(tmp_path, m, says):
    with tarfile.open(tmp_path/'bad.tar.gz', 'w:gz') as t: t.addfile(member('cat/1.jpg', size=1), io.BytesIO(b'1')); t.addfile(m)
    with pytest.raises(UserError, match=says): unpack(tmp_path/'bad.tar.gz', tmp_path/'a')
    assert bytes_below(tmp_path).keys() == {'bad.tar.gz'}


@pytest.mark.parametrize('end,mode', [('zip', None), ('tar', 'w'), ('tgz', 'w:gz'), ('tar.bz2', 'w:bz2'), ('tar.xz', 'w:xz')])
def test_archives_whole_and_broken(tmp_path, end, mode):
    path = tmp_path/f'a.{end}'
    if mode is None: path.write_bytes(make_zip(PETS))
    else:
        with tarfile.open(path, mode) as t:
            for k,v in PETS.items(): t.addfile(member(k, size=len(v)), io.BytesIO(v))
    assert bytes_below(unpack(path, tmp_path/'good')) == PETS
    path.write_bytes(path.read_bytes()[:len(path.read_bytes())//2])
    with pytest.raises(UserError, match=f'a.{end} cannot be unpacked'): unpack(path, tmp_path/'bad')
    assert not (tmp_path/'bad').exists()


def test_limits_and_encryption(tmp_path):
    (tmp_path/'a.zip').write_bytes(make_zip(PETS))
    with pytest.raises(UserError, match='more than 5 files'): unpack(tmp_path/'a.zip', tmp_path/'a', max_files=5)
    with pytest.raises(UserError, match='more than 1,000 bytes'): unpack(tmp_path/'a.zip', tmp_path/'a', max_bytes=1000)
    data = bytearray((tmp_path/'a.zip').read_bytes())
    data[data.index(b'PK\1\2') + 8] |= 1  # the flag in the table of contents
    (tmp_path/'a.zip').write_bytes(data)
    with pytest.raises(UserError, match='with its password'): unpack(tmp_path/'a.zip', tmp_path/'a')
    assert not (tmp_path/'a').exists()


def test_a_refused_archive_is_not_kept(net, tmp_path):
    net.zip = make_zip({**PETS, '../../evil.jpg': b'x'})
    with pytest.raises(UserError, match='leads out'): fetch(Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')
    assert not [k for k in bytes_below(tmp_path) if k.endswith(('.jpg', 'archive'))]


# ---- the disk

def test_a_disk_that_is_too_small(net, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr('imgclf_nb.datasets.archives.shutil.disk_usage', lambda p: usage._replace(free=100))
    with pytest.raises(UserError, match=f'{len(net.zip):,} bytes are needed.*100 are free'): fetch(Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')
    assert seen(tmp_path/'data') == []
    (tmp_path/'a.zip').write_bytes(net.zip)
    with pytest.raises(UserError, match=f'{sum(map(len, PETS.values())):,} bytes are needed'): unpack(tmp_path/'a.zip', tmp_path/'a')


def test_a_disk_that_fills_up(net, tmp_path):
    "After a megabyte every write fails as it does on a full disk; what had arrived stays, and is gone on with once there is room"
    net.zip = BIG
    code = f"""
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
fetching.open = lambda p, mode='r', *a, **k: Full(open(p, mode, *a, **k)) if mode in ('wb', 'ab', 'xb') else open(p, mode, *a, **k)
try: fetching.fetch(fetching.Source('https', '{net.url}/p.zip'), {str(tmp_path/'data'/'pets')!r})
except fetching.UserError as e: print(e)"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env(tmp_path)).stdout
    assert 'The disk is full' in out and f'{len(BIG):,} bytes are needed' in out and 'Make room' in out, out
    assert seen(tmp_path/'data') == []
    fetch(Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')  # room was made
    assert net.ranges()[0] > 500_000, 'what had arrived was thrown away'


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    "The hub's client taken out: it knows of one file, and the test says what a download does"
    import huggingface_hub, huggingface_hub.constants
    info = huggingface_hub.DatasetInfo(id='me/pets', sha=SHA, siblings=[dict(rfilename='a.zip', size=1234)])
    monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path/'records'))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(huggingface_hub.HfApi, 'dataset_info', lambda *a, **k: info)
    monkeypatch.setattr('imgclf_nb.fetching._check_reachable', lambda e: None)
    monkeypatch.setattr('imgclf_nb.fetching.time.sleep', lambda s: None)
    return lambda f: monkeypatch.setattr(huggingface_hub, 'snapshot_download', f)


def test_a_disk_that_fills_up_under_the_hub(tmp_path, fake_hub):
    def full(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device')
    fake_hub(full)
    with pytest.raises(UserError, match='The disk is full: 1,234 bytes are needed.*Make room'): fetch(Source('hub', 'me/pets'), tmp_path/'data'/'pets')


def test_a_hub_that_hands_back_half(tmp_path, fake_hub):
    "Where the network goes away, the client hands back what is there, with a warning"
    fake_hub(lambda *a, **k: None)
    with pytest.raises(UserError, match='1 of 1 files have not come'): fetch(Source('hub', 'me/pets'), tmp_path/'data'/'pets')
    assert seen(tmp_path/'data') == []


def test_a_folder_that_cannot_be_written(net, tmp_path, monkeypatch):
    def no(self, *a, **k): raise PermissionError(errno.EACCES, 'Permission denied', str(self))
    monkeypatch.setattr('imgclf_nb.fetching.get_records', lambda k: tmp_path)
    monkeypatch.setattr(Path, 'mkdir', no)
    with pytest.raises(UserError, match='cannot be written: make .*data writable'): fetch(Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets')


# ---- Kaggle

KAGGLE = Source('kaggle', 'me/pets')


def test_kaggle_whole(kaggle, tmp_path):
    rc, out = run(tmp_path, KAGGLE, KAGGLE_API_TOKEN='secret')
    assert rc == 0 and bytes_below(tmp_path/'data'/'pets') == PETS, out
    assert json.loads((tmp_path/'records'/'pets'/'source.json').read_text())['revision'] == '3'
    assert all(o[3] == 'Bearer secret' for o in kaggle.asked) and not (tmp_path/'.cache'/'kagglehub').exists()


def test_kaggle_goes_on_after_a_cut(kaggle, tmp_path):
    "In its test environment kagglehub reads the first answer whole, so the first cut is one that an earlier, killed process left behind"
    kaggle.zip, kaggle.cuts = BIG, 0
    kaggle.md5 = base64.b64encode(hashlib.md5(BIG).digest()).decode()
    work(tmp_path, KAGGLE).mkdir(parents=True)
    (work(tmp_path, KAGGLE)/'3.archive').write_bytes(BIG[:1_500_000])
    first = kaggle.body
    def cut_the_rest(h, data, start, headers):
        kaggle.cuts = int(start == 1_500_000)
        first(h, data, start, headers)
    kaggle.body = cut_the_rest
    rc, out = run(tmp_path, KAGGLE)
    assert rc == 0 and set(PETS) < set(bytes_below(tmp_path/'data'/'pets')), out
    one, two = kaggle.ranges()
    assert one == 1_500_000 and two > one + (1 << 20) - 1, kaggle.ranges()
    assert 'the connection broke, again in 1 s' in out


def test_kaggle_wrong_sum_and_busy(kaggle, tmp_path):
    kaggle.busy, kaggle.md5 = 1, base64.b64encode(b'0'*16).decode()
    def mends(h, data, start, headers, body=kaggle.body): body(h, data, start, headers); kaggle.md5 = None  # the second time it is right
    kaggle.body = mends
    rc, out = run(tmp_path, KAGGLE)
    assert rc == 0 and bytes_below(tmp_path/'data'/'pets') == PETS, out
    assert 'busy (429), again in 1 s' in out and sum('DownloadDataset' in o[1] for o in kaggle.asked) == 2


def test_kaggle_limits_are_ours(kaggle, tmp_path):
    kaggle.zip = make_zip({**PETS, 'zeros.jpg': bytes(70 << 20)})
    rc, out = run(tmp_path, KAGGLE)
    assert rc == 3 and 'unpacks to more than' in out and seen(tmp_path/'data') == [], out


@pytest.mark.parametrize('status,token,says', [(401, None, ['KAGGLE_API_TOKEN', 'kaggle.com/settings', '~/.kaggle/access_token']), (403, 'secret', ['accept its terms', 'kaggle.com/datasets/me/pets']),
    (404, 'secret', ['does not exist'])])
def test_kaggle_closed_doors(kaggle, tmp_path, status, token, says):
    kaggle.status = status
    rc, out = run(tmp_path, KAGGLE, **({'KAGGLE_API_TOKEN': token} if token else {}))
    last = out.strip().splitlines()[-1]
    assert rc == 3 and all(o in last for o in says) and seen(tmp_path/'data') == [], out


# ---- the hub

HUB = Source('hub', 'me/pets')


def tables(n=40, big=0):
    "Two parquet files of a split; some names twice, some missing; the first image with `big` bytes behind it"
    features = dict(image=dict(_type='Image'), labels=dict(_type='ClassLabel', names=['cat', 'dog']))
    rows = [dict(image=dict(bytes=picture(i) + os.urandom(big*(i == 0)), path=None if i % 5 == 0 else f'{i//4}.jpg'), labels=i % 2) for i in range(n)]
    files = {}
    for j,part in enumerate((rows[:n//2], rows[n//2:])):
        t = pa.Table.from_pylist(part).replace_schema_metadata({'huggingface': json.dumps(dict(info=dict(features=features)))})
        pq.write_table(t, out := io.BytesIO())
        files[f'data/train-{j:05}-of-00002.parquet'] = out.getvalue()
    return rows, {'README.md': b'# pets', **files}


def test_hub_parquet_keeps_the_bytes(tmp_path):
    "Every image arrives once, in its class, byte for byte; a cut connection is mended by the client itself, which writes ten megabytes at a time"
    rows, files = tables(big=24 << 20)
    with serving(repo=files) as net:
        net.cuts, net.cut_in = 1, '00000-of'
        rc, out = run(tmp_path, HUB, net)
        assert rc == 0, out
        assert len(net.ranges()) == 1 and net.ranges()[0] >= 10 << 20, 'the second request asked for all of it again'
    got = bytes_below(tmp_path/'data'/'pets')
    for i,c in enumerate(('cat', 'dog')):
        assert sorted(sha256(v) for k,v in got.items() if k.startswith(f'{c}/')) == sorted(sha256(r['image']['bytes']) for r in rows if r['labels'] == i)
    assert len(got) == len(rows) and all(k.endswith('.jpg') for k in got)
    assert json.loads((tmp_path/'records'/'pets'/'source.json').read_text())['revision'] == SHA


def test_hub_folders_and_zips(tmp_path):
    with serving(repo={'README.md': b'# pets', 'train.zip': make_zip(PETS), 'test/cat/x.jpg': picture(7)}) as net:
        rc, out = run(tmp_path, Source('hub', 'me/pets', revision='main'), net)
        assert rc == 0, out
        got = bytes_below(tmp_path/'data'/'pets')
        assert got == {'README.md': b'# pets', 'test/cat/x.jpg': picture(7), **{f'train/{k}': v for k,v in PETS.items()}}
        rc, out = run(tmp_path, Source('hub', 'me/pets', revision='other'), net)
        assert rc == 3 and 'move it away' in out


def test_hub_goes_on_in_a_second_process(tmp_path):
    "Files that are whole are not asked for again; of a half one the client keeps nothing"
    _, files = tables()
    with serving(repo=files) as net:
        hub = net.body
        net.body = lambda h, data, start, headers: net.send(h, 403, b'', {}) if '00001-of' in h.path and h.command == 'GET' else hub(h, data, start, headers)
        rc, out = run(tmp_path, HUB, net)
        assert rc == 3 and 'refuses (403)' in out and seen(tmp_path/'data') == [], out
        net.body, net.asked[:] = hub, []
        rc, out = run(tmp_path, HUB, net)
        assert rc == 0 and seen(tmp_path/'data') == ['pets'], out
        assert [o[1].rsplit('/')[-1] for o in net.asked if o[0] == 'GET' and '/resolve/' in o[1]] == ['train-00001-of-00002.parquet']


def test_hub_wrong_sum(tmp_path):
    _, files = tables()
    with serving(repo=files) as net:
        hub, lie = net.body, 'data/train-00001-of-00002.parquet'
        net.body = lambda h, data, start, headers: hub(h, data[:-9] + b'x'*9 if data == files[lie] else data, start, headers)
        rc, out = run(tmp_path, HUB, net)
        assert rc == 3 and sha256(files[lie]) in out and sha256(files[lie][:-9] + b'x'*9) in out and seen(tmp_path/'data') == [], out
        net.body = hub
        assert run(tmp_path, HUB, net)[0] == 0


@pytest.mark.parametrize('status,says', [(401, 'HF_TOKEN'), (403, 'accept its terms'), (404, 'does not exist')])
def test_hub_closed_doors(tmp_path, status, says):
    with serving() as net:
        net.status = status
        rc, out = run(tmp_path, HUB, net)
    assert rc == 3 and says in out and 'huggingface.co/datasets/me/pets' in out and seen(tmp_path/'data') == [], out


def test_hub_busy_and_switched_off(tmp_path):
    with serving(repo={'train.zip': make_zip(PETS)}) as net:
        net.busy = 1
        rc, out = run(tmp_path, HUB, net)
        assert rc == 0 and 'busy (429), again in 1 s' in out
    rc, out = run(tmp_path, HUB, folder='more', HF_HUB_OFFLINE='1')
    assert rc == 3 and 'HF_HUB_OFFLINE is set' in out


@pytest.mark.parametrize('source', [KAGGLE, HUB, Source('https', 'http://127.0.0.1:9/p.zip')], ids=lambda s: s.kind)
def test_without_network(tmp_path, source):
    with FileLock(Path(tempfile.gettempdir())/'imgclf-port-7777.lock', timeout=120):  # nobody listens there
        began = time.time()
        rc, out = run(tmp_path, source)
    assert rc == 3 and 'cannot be reached' in out and 'connect to the network' in out and time.time() - began < 20, out


# ---- parquet, layouts

def test_parquet_splits_odd_names_and_gaps(tmp_path, capsys):
    def write(name, rows): pq.write_table(pa.Table.from_pylist(rows), tmp_path/name); return tmp_path/name
    row = lambda label, path, data=b'\x89PNG1': dict(image=dict(bytes=data, path=path), label=label)
    files = [write('train-0.parquet', [row('a/b', '../../evil.png'), row('a_b', '.hidden.png'), row('__x', 'n'), row('a/b', 'EVIL.png'), row('a/b', None, b'??'), row('x', 'v.2')]),
             write('validation-0.parquet', [row('a/b', 'v.png'), row(None, 'w.png'), dict(image=None, label='a/b')])]
    got = unpack_parquet(files, tmp_path/'out')
    names = sorted(p.relative_to(got).as_posix() for p in got.rglob('*') if p.is_file())
    assert names == ['train/a_b/000005.jpg', 'train/a_b/EVIL_000004.png', 'train/a_b/evil.png', 'train/a_b_/hidden.png', 'train/x/n.png', 'train/x_/v.2.png', 'valid/a_b/v.png']
    assert '2 of 9 rows' in capsys.readouterr().out


def test_the_folder_that_is_the_set(net, tmp_path):
    inner = {f'fruits-360_dataset/fruits-360/{s}/Apple/r_{i}_100.jpg': picture(i) for s in ('Training', 'Test') for i in range(2)}
    net.zip = make_zip({**inner, 'readme.md': b'x'})
    got = fetch(Source('https', f'{net.url}/p.zip', folder=SOURCES['fruits360'].folder), tmp_path/'data'/'fruits360')
    assert sorted(bytes_below(got)) == ['Test/Apple/r_0_100.jpg', 'Test/Apple/r_1_100.jpg', 'Training/Apple/r_0_100.jpg', 'Training/Apple/r_1_100.jpg']
    net.zip = make_zip({f'fruits-360_{s}/Training/Apple/1.jpg': b'x' for s in ('100x100', 'original-size')})
    with pytest.raises(UserError, match='2 folders.*100x100.*another layout'): fetch(Source('https', f'{net.url}/p.zip', folder='**/fruits-360*'), tmp_path/'data'/'more')


def test_two_sources_do_not_mix(net, tmp_path):
    "The first one breaks when all of it is here; the second is asked all the same"
    net.zip = make_zip({'fruits-1/a/1.jpg': b'x', 'fruits-2/a/1.jpg': b'x'})
    with pytest.raises(UserError, match='2 folders'): fetch(Source('https', f'{net.url}/one.zip', folder='fruits-*'), tmp_path/'data'/'pets')
    net.zip = make_zip(PETS)
    assert bytes_below(fetch(Source('https', f'{net.url}/two.zip'), tmp_path/'data'/'pets')) == PETS
    with pytest.raises(UserError, match='move it away'): fetch(Source('https', f'{net.url}/one.zip'), tmp_path/'data'/'pets')
    with pytest.raises(UserError, match='move it away'): fetch(Source('https', f'{net.url}/two.zip', sha256='0'*64), tmp_path/'data'/'pets')


def test_a_source_that_has_changed_says_so(net, tmp_path, capsys):
    source, folder = Source('https', f'{net.url}/p.zip'), tmp_path/'data'/'pets'
    shutil.rmtree(fetch(source, folder))
    old, net.zip = sha256(net.zip), make_zip(dict(list(PETS.items())[:4]))
    fetch(source, folder)
    assert f'it was {old}, now it is {sha256(net.zip)}' in capsys.readouterr().out


def test_something_unexpected_keeps_its_name():
    assert 'ZeroDivisionError: by zero' in _explain(ZeroDivisionError('by zero'), HUB)


# ---- the command

def test_command_end_to_end(kaggle, tmp_path):
    "A named set from Kaggle: counts are held against the card, the manifest's hash is printed, a second call changes nothing"
    e = {**env(tmp_path), 'KAGGLE_API_TOKEN': 'secret'}
    rc, out = command('imgclf_fetch', 'pc_parts', **e)
    assert rc == 0 and 'The card expects 3,279 images, here are 6' in out and 'expects 14 classes, here are 2' in out, out[-3000:]
    manifest = (tmp_path/'records'/'pc_parts'/'manifest.csv').read_bytes()
    assert f'data_hash {sha256(manifest)}' in out and manifest.count(b'\n') == 7
    assert all(sha256(v).encode() in manifest for v in PETS.values())
    n = len(kaggle.asked)
    rc, out = command('imgclf_fetch', 'pc_parts', **e)
    assert rc == 0 and 'is there already' in out and len(kaggle.asked) == n, out


def test_command_any_zip_and_another_data_root(tmp_path):
    (tmp_path/'elsewhere').mkdir()
    with serving() as net:
        rc, out = command('imgclf_fetch', 'mine', '--source', f'{net.url}/p.zip', '--sha256', sha256(net.zip), **{**env(tmp_path), 'IMGCLF_DATA': str(tmp_path/'elsewhere')})
    assert rc == 0 and 'is only read' in out and '6 images, 0 unreadable, 2 classes' in out and (tmp_path/'data'/'mine'/'pets'/'cat').is_dir(), out


@pytest.mark.parametrize('args,says', [(['chest_xrai'], 'chest_xray'), (['pc_parts_mini'], 'drawn by the program'), (['../x', '--source', 'hf:a/b'], "cannot be a set's folder"),
    (['records', '--source', 'hf:a/b'], "cannot be a set's folder"), (['x', '--source', 'ftp://a/b.zip'], 'is no source'), (['x', '--source', 'http://a.org/b.zip'], 'changed on its way'),
    (['pc_parts', '--revision', 'main'], 'numbers'), (['cats_vs_dogs', '--sha256', '0'*64], 'no archive'), (['x', '--source', 'https://a.org/b.zip', '--revision', '1'], 'no revisions'),
    (['x', '--source', 'https://a.org/b.zip', '--sha256', 'abc'], '64')])
def test_command_refuses_with_a_sentence(tmp_path, args, says):
    rc, out = command('imgclf_fetch', *args, IMGCLF_HOME=str(tmp_path), IMGCLF_RECORDS=str(tmp_path/'records'))
    assert rc == 1 and says in out and 'Traceback' not in out


def test_command_stopped_by_hand(tmp_path):
    with serving(zip=BIG) as net:
        net.cuts, net.stall = 1, True
        p = subprocess.Popen([str(Path(sys.executable).parent/'imgclf_fetch'), 'mine', '--source', f'{net.url}/p.zip'], env=env(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a background job ignores Ctrl-C, and so would its child
        assert net.arrived.wait(60)
        time.sleep(.5)
        p.send_signal(signal.SIGINT)
        out, _ = p.communicate(timeout=60)
    assert p.returncode == 1 and 'The same command resumes' in out and 'Traceback' not in out and seen(tmp_path/'data') == [], out
