"Downloads: whatever a server does, the file is the server's, in one version, or a sentence says why not"
import contextlib
import gzip
import hashlib
import io
import re
import socket
import tarfile
import threading
import time
import zipfile

import pytest

from imgclf_nb.core import UserError
from imgclf_nb.datasets import downloads
from imgclf_nb.datasets.sources import Source
from imgclf_nb.fetching import fetch


def make_zip(seed):
    "A zip of 300 KB; all seeds give the same length"
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        for i in range(3): archive.writestr(f'cat/{i}.jpg', bytes([seed])*100_000)
    return out.getvalue()


ONE, TWO = make_zip(1), make_zip(2)
HALF = len(ONE)//2


def answer(body=b'', status='200 OK', length=True, **headers):
    "The bytes of a response; `_` in a header's name stands for `-`"
    if length is True: length = len(body)
    lines = [f'HTTP/1.1 {status}', 'Connection: close']
    if length is not None: lines.append(f'Content-Length: {length}')
    lines += [f"{name.replace('_', '-')}: {value}" for name,value in headers.items()]
    return '\r\n'.join([*lines, '', '']).encode() + body


def rest(body, start=HALF, end=None, total=None, **headers):
    "A response with a part of a file"
    end = len(body) if end is None else end
    total = len(body) if total is None else total
    return answer(body[start:end], '206 Partial Content',
        Content_Range=f'bytes {start}-{end - 1}/{total}', **headers)


def half(body, **headers): return answer(body[:HALF], length=len(body), **headers)


def chunk(*parts): return b''.join(b'%x\r\n%b\r\n' % (len(part), part) for part in parts)


class Script:
    "A server that gives these answers in turn, the last one again and again"
    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []
        self.socket = socket.create_server(('127.0.0.1', 0))
        self.url = f'http://127.0.0.1:{self.socket.getsockname()[1]}/pets.zip'
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True: self.reply(self.socket.accept()[0])

    def reply(self, connection):
        with connection, contextlib.suppress(OSError):
            asked = connection.recv(1 << 16).decode()
            if not asked: return  # whether it can be reached
            self.asked.append(asked)
            data = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            for part in [data] if isinstance(data, bytes) else data(): connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(1)
            while connection.recv(1 << 16): pass  # closing with unread bytes would reset it

    def ranges(self): return [int(o) for asked in self.asked for o in re.findall('Range: bytes=([0-9]+)-', asked)]


@pytest.fixture
def get(monkeypatch, tmp_path):
    "A function: answers → what a fetch gives, as bytes of the first image, or its sentence"
    for name in ('http_proxy', 'https_proxy', 'all_proxy'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path/'records'))
    monkeypatch.setattr('imgclf_nb.datasets.retries.sleep', lambda seconds: None)
    monkeypatch.setattr('imgclf_nb.fetching.os.sync', lambda: None)
    def get(*answers, sha256=None):
        get.server = Script(*answers)
        folder = tmp_path/'data'/f'pets{len(list(tmp_path.glob("data/pets*")))}'
        try: fetch(Source('https', get.server.url, sha256=sha256), folder)
        except UserError as error:
            assert not folder.exists()
            return str(error)
        finally: get.server.socket.close()
        images = {file.read_bytes()[:1] for file in folder.rglob('*.jpg')}
        assert len(images) == 1 and len(list(folder.rglob('*.jpg'))) == 3, 'two versions are mixed'
        return images.pop()[0]
    return get


ETAG, DATE = dict(ETag='"1"'), dict(Last_Modified='Mon, 02 Nov 2026 10:00:00 GMT')
ETAG2, DATE2 = dict(ETag='"2"'), dict(Last_Modified='Tue, 03 Nov 2026 10:00:00 GMT')


@pytest.mark.parametrize('first,second', [
    (ETAG, ETAG), (DATE, DATE), (DATE, {}), ({**ETAG, **DATE}, ETAG),
    ({'ETag': 'W/"1"', **DATE}, {'ETag': '"1"', **DATE})])
def test_the_rest_of_the_same_file(get, first, second):
    assert get(half(ONE, **first), rest(ONE, **second)) == 1
    assert get.server.ranges() == [HALF]


CHANGED = dict(
    etag=(ETAG, rest(TWO, **ETAG2)),
    no_etag=(ETAG, rest(TWO)),
    date=(DATE, rest(TWO, **DATE2)),
    date_beside_an_etag=({**ETAG, **DATE}, rest(TWO, **ETAG, **DATE2)),
    weak_etag=({'ETag': 'W/"1"', **DATE}, rest(TWO, ETag='W/"2"', **DATE)),
    size=(ETAG, rest(TWO + b'more', **ETAG)),
    total=(ETAG, rest(TWO, total=len(TWO) + 5, **ETAG)),
    another_part=(ETAG, rest(TWO, start=HALF - 7, **ETAG)),
    no_range=(ETAG, answer(TWO[HALF:], '206 Partial Content', **ETAG)),
    wrong_range=(ETAG, answer(TWO[HALF:], '206 Partial Content', Content_Range='bytes 5-3/2', **ETAG)),
    encoding=(ETAG, rest(TWO, Content_Encoding='gzip', **ETAG)),
    too_short=(ETAG, answer(b'', '416 Range Not Satisfiable', Content_Range='bytes */9')),
    all_of_it=(ETAG, answer(TWO, **ETAG2)))

@pytest.mark.parametrize('name', CHANGED)
def test_the_rest_of_another_file_is_not_taken(get, name):
    "A 206 with another ETag mixed two archives of the same length"
    headers, second = CHANGED[name]
    assert get(half(ONE, **headers), second, answer(TWO, **ETAG2)) == 2
    assert get.server.ranges() == [HALF]


def test_nothing_is_asked_for_that_cannot_be_compared(get):
    for headers in ({}, {'ETag': 'W/"1"'}):
        assert get(half(ONE, **headers), answer(ONE, **headers)) == 1
        assert get.server.ranges() == []


def test_a_server_that_alternates_comes_to_an_end(get, capsys):
    "Half of it arrives each time: without an end the tries were counted anew"
    answers = [half(ONE, **ETAG), rest(TWO, **ETAG2)]*20
    assert 'kept breaking' in get(*answers) and len(get.server.asked) == 5
    assert 'the file on the server has changed (another ETag)' in capsys.readouterr().out


def test_a_rest_in_pieces(get):
    "A server may send less than was asked for; what it announced as the whole counts"
    step = 100_000
    pieces = [rest(ONE, start=i, end=min(i + step, len(ONE)), **ETAG) for i in range(0, len(ONE), step)]
    assert get(*pieces) == 1
    assert get.server.ranges() == list(range(step, len(ONE), step))


def test_lengths(get):
    assert get(answer(ONE, length=None)) == 1
    assert 'kept breaking' in get(answer(ONE, length=len(ONE) + 9))
    assert 'cannot be unpacked' in get(answer(ONE, length=HALF))
    assert 'cannot be unpacked' in get(answer(ONE[:HALF], length=None))
    assert get(answer(ONE, length='-5')) == 1
    assert get(answer(ONE, length='x'*30)) == 1
    assert 'multiple unmatching values' in str(get(answer(ONE, length='1, 2')))
    chunks = chunk(*[ONE[i:i + 9999] for i in range(0, len(ONE), 9999)])
    chunked = dict(length=None, Transfer_Encoding='chunked')
    assert get(answer(chunks + b'0\r\n\r\n', **chunked)) == 1
    assert get(answer(chunks + b'0\r\n\r\n', length=7, Transfer_Encoding='chunked')) == 1
    assert 'kept breaking' in get(answer(chunks, **chunked))
    assert 'kept breaking' in get(answer(chunks[:50_000], **chunked))


@pytest.mark.parametrize('status', ['202 Accepted', '204 No Content', '304 Not Modified', '300 Choices'])
def test_an_answer_without_a_file(get, status):
    assert status[:3] in get(answer(b'', status))
    assert get(answer(b'', status), answer(ONE)) == 1


# ---- compressed answers

GZIP = dict(Content_Encoding='gzip')

def make_tgz():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w:gz') as archive:
        for i in range(3):
            header = tarfile.TarInfo(f'cat/{i}.jpg')
            header.size = 9
            archive.addfile(header, io.BytesIO(b'\1'*9))
    return out.getvalue()


def test_a_compressed_answer(get):
    packed = gzip.compress(ONE)
    assert get(answer(packed, **GZIP)) == 1
    cut = len(packed)//2
    first = answer(packed[:cut], length=len(packed), **GZIP, **ETAG)
    assert get(first, rest(packed, start=cut, **GZIP, **ETAG)) == 1
    assert get(answer(packed, **GZIP), sha256=hashlib.sha256(ONE).hexdigest()) == 1
    assert 'expected: 0000' in get(answer(packed, **GZIP), sha256='0'*64)
    assert 'is damaged' in get(answer(packed[:-4], **GZIP))
    assert "compression 'br'" in get(answer(ONE, Content_Encoding='br'))


def test_a_tar_gz_with_the_mark_of_a_compressed_answer(get):
    "As some servers send it: the checksum is that of the file"
    tgz = make_tgz()
    assert get(answer(tgz, **GZIP)) == 1
    assert get(answer(tgz, **GZIP), sha256=hashlib.sha256(tgz).hexdigest()) == 1
    assert get(answer(tgz, **GZIP), sha256=hashlib.sha256(gzip.decompress(tgz)).hexdigest()) == 1


def test_a_compressed_answer_writes_no_more_than_a_zip(get, tmp_path):
    "1 MB became 1 GB on the disk"
    assert 'unpacks to more than 67,108,864 bytes' in get(answer(gzip.compress(bytes(80 << 20)), **GZIP))
    left = [file for file in tmp_path.rglob('*') if file.is_file() and file.stat().st_size > 10_000]
    assert not left


@pytest.mark.parametrize('encoding', ['', 'gzip'])
def test_a_page_instead_of_an_archive(get, encoding):
    page = b'<!DOCTYPE html><html><head><title>Log in</title></head>'
    body = gzip.compress(page) if encoding else page
    assert "a web page with the title 'Log in'" in get(answer(body, Content_Encoding=encoding))


# ---- redirects

@pytest.mark.parametrize('where,says', [
    ('file:///etc/passwd', 'where nothing can be downloaded'),
    ('ftp://127.0.0.1/p.zip', 'where nothing can be downloaded'),
    ('http://', 'where nothing can be downloaded'),
    ('/pets.zip', 'where nothing can be downloaded')])
def test_redirects_to_no_web_address(get, where, says):
    assert says in get(answer(b'', '302 Found', Location=where))


def test_a_redirect_to_another_server(get):
    other = Script(answer(ONE))
    assert get(answer(b'', '302 Found', Location=other.url)) == 1


def test_every_step_of_a_redirect_is_encrypted():
    hops = [type('Hop', (), dict(url=url)) for url in ('https://a.org', 'http://b.org')]
    final = type('Hop', (), dict(url='https://c.org', history=hops, status_code=200))
    with pytest.raises(UserError, match='https://a.org redirects to http://b.org'):
        downloads._check_response(final, 'https://a.org', None)
    hops[0].url = 'http://127.0.0.1:80'
    with pytest.raises(UserError, match='redirects to http://b.org'):
        downloads._check_response(final, 'http://127.0.0.1:80', None)


# ---- time and room

def drip(start, pause):
    "An answer that begins with these bytes, then sends one at a time"
    def parts():
        yield start
        while True:
            time.sleep(pause)
            yield b'1'
    return parts


def test_a_server_that_drips(get, monkeypatch):
    "A byte now and then kept the connection, and the command, forever"
    monkeypatch.setattr(downloads, 'PATIENCE', .2)
    monkeypatch.setattr('imgclf_nb.datasets.retries.sleep', lambda seconds: None)
    parts = drip(answer(b'', length=10**6), .02)
    began = time.monotonic()
    assert re.search(r'only [\d,]+ bytes arrived in 0.2 s', get(parts))
    assert 'TimeoutError' in get(drip(b'HTTP/1.1 200 OK\r\nA: ', .02))
    assert time.monotonic() - began < 60


def test_an_answer_without_end(get, monkeypatch):
    monkeypatch.setattr(downloads, 'MAX_DOWNLOAD', 10**6)
    def endless():
        yield answer(length=None)
        while True: yield bytes(1 << 16)
    assert 'more than 1,000,000 bytes: this is no archive' in get(endless)
    assert 'more than 1,000,000 bytes: this is no archive' in get(answer(b'1', length=10**12))
    def chunks():
        yield answer(length=None, Transfer_Encoding='chunked')
        while True: yield chunk(bytes(1 << 16))
    assert 'more than 1,000,000 bytes' in get(chunks)


def test_a_killed_download_never_leaves_a_note_beside_other_bytes(tmp_path, monkeypatch):
    "The note was written before the old bytes were gone: their rest would have been asked for"
    part = tmp_path/'archive'
    server = Script(half(ONE, **ETAG), answer(TWO, **ETAG2))
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    with pytest.raises(Exception, match='IncompleteRead'): downloads.download(server.url, part)
    def die(*_): raise KeyboardInterrupt
    monkeypatch.setattr(downloads, '_write_arriving', die)
    with pytest.raises(KeyboardInterrupt): downloads.download(server.url, part)
    assert not part.exists() and downloads.read_note(part)['etag'] == '"2"'


@pytest.mark.parametrize('note', ['[]', '{"etag": 5}', '', '{"etag": "", "modified": "", "encoding": "", "size": "x"}'])
def test_a_damaged_note_is_none(tmp_path, note):
    part = tmp_path/'archive'
    part.write_bytes(ONE[:HALF])
    part.with_suffix('.json').write_text(note)
    assert downloads.read_note(part) == {}
