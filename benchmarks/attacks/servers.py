"""A server with many bad habits: what is fetched is complete and of one version, or nothing is there"""
import gzip, http.server, re, resource, threading
from email.utils import formatdate
from hashlib import sha256
from pathlib import Path

from imgclf_nb.datasets import retries
from imgclf_nb.datasets.sources import Source
from imgclf_nb import fetching
from attacks.cases import Lost, Shown, Silent, ask, find_difference, read_tree
from attacks.samples import draw_set, make_gz, make_stored, make_tar

PLANTED = 50
FIRST = draw_set(60)
SECOND = {name: data[:-30] + bytes(28) + data[-2:] for name,data in FIRST.items()}  # same sizes
MOST_MEMORY = 2 << 30
PAGE = b'<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please</body></html>'


class Server:
    "Answers each request with the habit of the moment; counts the requests"
    def __init__(self):
        self.habit, self.asked = None, 0
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), make_handler(self))
        self.server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, args=(.02,), daemon=True).start()


def make_handler(server):
    "The class that http.server wants"
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'
        def log_message(self, *_): pass

        def do_GET(self):
            server.asked += 1
            self.close_connection = True
            found = re.match(r'bytes=(\d+)-', self.headers.get('Range', ''))
            try: server.habit(self, server.asked, int(found[1]) if found else 0)
            except (BrokenPipeError, ConnectionResetError): pass  # the client has had enough
    return Handler


def send(h, status, data, headers=(), length=True, most=None):
    "A response: with its length, and only `most` bytes of it"
    h.send_response(status)
    headers = dict(headers)
    if length: headers.setdefault('Content-Length', len(data))
    for name,value in headers.items(): h.send_header(name, value)
    h.end_headers()
    h.wfile.write(data if most is None else data[:most])
    h.wfile.flush()


def send_rest(h, data, start, tag='"one"', **headers):
    "The rest of a file from `start` on, as a good server sends it"
    more = {name.replace('_', '-'): value for name,value in headers.items()}
    if tag: more = {'ETag': tag} | more
    if start: more.setdefault('Content-Range', f'bytes {start}-{len(data)-1}/{len(data)}')
    send(h, 206 if start else 200, data[start:], more)


def half(h, data, headers=()):
    "The first half of a file, and then the connection breaks"
    send(h, 200, data, dict(headers) or {'ETag': '"one"'}, most=len(data)//2)


# ---- habits: `habit(handler, number of the request, first byte that is asked for)`

WHOLE, OTHER = make_tar(FIRST), make_tar(SECOND)  # a tar has no checksums: a mixture is whole


def good(h, n, start): send_rest(h, WHOLE, start)


def cut_often(h, n, start):
    "Half of the rest each time"
    rest = WHOLE[start:]
    headers = {'ETag': '"one"'}
    if start: headers['Content-Range'] = f'bytes {start}-{len(WHOLE)-1}/{len(WHOLE)}'
    send(h, 206 if start else 200, rest, headers, most=None if n > 4 else len(rest)//2)


def drip(h, n, start):
    "Small pieces"
    send(h, 200, WHOLE, {'ETag': '"one"'}, most=0)
    for i in range(0, len(WHOLE), 1000): h.wfile.write(WHOLE[i:i+1000])


def other_tag(h, n, start):
    "The rest of another file, under another ETag"
    if n == 1: half(h, WHOLE)
    else: send_rest(h, OTHER, start, '"two"')


def other_tag_mixed(h, n, start):
    "The rest of another file under another ETag once, and a good server after that"
    if n == 1: half(h, WHOLE)
    else: send_rest(h, OTHER, start if n == 2 else 0, '"two"')


def other_date(h, n, start):
    "The rest of another file, with another date and no ETag"
    dates = formatdate(1e9, usegmt=True), formatdate(1.1e9, usegmt=True)
    if n == 1: half(h, WHOLE, {'Last-Modified': dates[0]})
    else: send_rest(h, OTHER, start, None, Last_Modified=dates[1])


def same_tag_other_date(h, n, start):
    "The rest of another file: the ETag is the same, the date is not"
    dates = formatdate(1e9, usegmt=True), formatdate(1.1e9, usegmt=True)
    if n == 1: half(h, WHOLE, {'ETag': '"one"', 'Last-Modified': dates[0]})
    else: send_rest(h, OTHER, start, '"one"', Last_Modified=dates[1])


def no_tag(h, n, start):
    "Nothing says which version it is, and the second one is another"
    if n == 1: half(h, WHOLE, {'X': 'y'})
    else: send_rest(h, OTHER, start, None)


def weak_tag(h, n, start):
    "A weak ETag, and the rest of another file"
    if n == 1: half(h, WHOLE, {'ETag': 'W/"one"'})
    else: send_rest(h, OTHER, start, 'W/"two"')


def other_total(h, n, start):
    "The rest of a longer file"
    longer = OTHER + bytes(1000)
    if n == 1: half(h, WHOLE)
    else: send_rest(h, longer, start)


def ignores_range(h, n, start):
    "The whole of another file, whatever was asked"
    if n == 1: half(h, WHOLE)
    else: send(h, 200, OTHER, {'ETag': '"two"'})


def part_unasked(h, n, start):
    "206 although all was asked for, and only a part"
    send(h, 206, WHOLE[500:], {'ETag': '"one"', 'Content-Range': f'bytes 500-{len(WHOLE)-1}/{len(WHOLE)}'})


def other_part(h, n, start):
    "Another part than was asked for"
    if n == 1: half(h, WHOLE)
    elif n == 2: send_rest(h, WHOLE, start + 1)
    else: send_rest(h, WHOLE, start)


def lies_about_part(h, n, start):
    "Another part than its header says: its sums do not fit"
    if n == 1: half(h, WHOLE)
    else: send(h, 206, WHOLE[start+1:] + b'x', {'ETag': '"one"',
        'Content-Range': f'bytes {start}-{len(WHOLE)-1}/{len(WHOLE)}'})


def short_part(h, n, start):
    "A part that ends early, and says so"
    if n == 1: half(h, WHOLE)
    else:
        end = min(len(WHOLE), start + 5000)
        send(h, 206, WHOLE[start:end], {'ETag': '"one"',
            'Content-Range': f'bytes {start}-{end-1}/{len(WHOLE)}'})


def no_range_header(h, n, start):
    "206 without Content-Range"
    if n == 1: half(h, WHOLE)
    elif n == 2: send(h, 206, WHOLE[start:], {'ETag': '"one"'})
    else: send_rest(h, WHOLE, start)


def many_parts(h, n, start):
    "multipart/byteranges instead of the rest"
    body = b'--x\r\nContent-Range: bytes 0-9/99\r\n\r\n0123456789\r\n--x--\r\n'
    if n == 1: half(h, WHOLE)
    else: send(h, 206, body, {'ETag': '"one"', 'Content-Type': 'multipart/byteranges; boundary=x'})


def refuses_range(h, n, start):
    "416 for the rest, and all of it after that"
    if n == 1: half(h, WHOLE)
    elif start: send(h, 416, b'', {'Content-Range': f'bytes */{len(WHOLE)}'})
    else: send_rest(h, WHOLE, 0)


def always_416(h, n, start): send(h, 416, b'')


def too_long(h, n, start):
    "Announces more than it sends"
    send(h, 200, WHOLE, {'Content-Length': len(WHOLE) + 5, 'ETag': '"one"'})


def too_short(h, n, start):
    "Announces less than it sends"
    send(h, 200, WHOLE, {'Content-Length': len(WHOLE) - 5000, 'ETag': '"one"'})


def no_length(h, n, start): send(h, 200, WHOLE, {'ETag': '"one"'}, length=False)


def no_length_cut(h, n, start):
    "No length, and half of the bytes"
    send(h, 200, WHOLE, {'ETag': '"one"'}, length=False, most=len(WHOLE)//2)


def bad_length(h, n, start): send(h, 200, WHOLE, {'Content-Length': 'many'})


def negative_length(h, n, start): send(h, 200, WHOLE, {'Content-Length': '-1'})


def giant_length(h, n, start): send(h, 200, WHOLE, {'Content-Length': 10**18})


def chunks_cut(h, n, start):
    "A chunked answer that ends before its last chunk"
    send(h, 200, b'', {'Transfer-Encoding': 'chunked'}, length=False)
    h.wfile.write(b'%x\r\n' % len(WHOLE) + WHOLE[:len(WHOLE)//2])


def zipped(h, n, start):
    "gzip as Content-Encoding, although it was not asked for"
    send(h, 200, gzip.compress(WHOLE), {'Content-Encoding': 'gzip'})


def zipped_tar(h, n, start):
    "A tar.gz under Content-Encoding: gzip, as some servers name it"
    send(h, 200, make_gz(FIRST), {'Content-Encoding': 'gzip', 'Content-Type': 'application/x-tar'})


def zipped_bomb(h, n, start):
    "1 GB in a gzip answer of 1 MB"
    send(h, 200, get_bomb(), {'Content-Encoding': 'gzip'})


def zipped_cut(h, n, start):
    "Half of a gzip answer"
    data = gzip.compress(WHOLE)
    send(h, 200, data, {'Content-Encoding': 'gzip'}, most=len(data)//2)


def zipped_wrong(h, n, start): send(h, 200, WHOLE, {'Content-Encoding': 'gzip'})


def unknown_coding(h, n, start): send(h, 200, WHOLE, {'Content-Encoding': 'x-secret'})


def page(h, n, start): send(h, 200, PAGE, {'Content-Type': 'text/html'})


def page_later(h, n, start):
    "A page of a proxy instead of the rest"
    if n == 1: half(h, WHOLE)
    else: send(h, 200, PAGE, {'Content-Type': 'text/html'})


def nothing(h, n, start): send(h, 200, b'')


def loop(h, n, start): send(h, 302, b'', {'Location': '/again'})


def redirect(h, n, start):
    "Once to another place"
    if n == 1: send(h, 302, b'', {'Location': '/other'})
    else: send_rest(h, WHOLE, start)


def to_file(h, n, start): send(h, 302, b'', {'Location': 'file:///etc/passwd'})


def to_nowhere(h, n, start): send(h, 302, b'', {'Location': 'http://'})


def to_nobody(h, n, start): send(h, 302, b'', {'Location': 'http://127.0.0.1:9/x.zip'})


def busy(after):
    "429 with this Retry-After, and the file after that"
    def answer(h, n, start):
        if n == 1: send(h, 429, b'', {'Retry-After': after})
        else: send_rest(h, WHOLE, start)
    answer.__name__ = f'busy, Retry-After: {after}'
    return answer


def fails(status, times):
    "This status so many times"
    def answer(h, n, start):
        if n <= times: send(h, status, b'{}')
        else: send_rest(h, WHOLE, start)
    answer.__name__ = f'status {status}, {times} times'
    return answer


def hangs_up(h, n, start): h.connection.close()


def rubbish(h, n, start): h.wfile.write(b'\0\1\2 this is no HTTP\r\n\r\n')


def many_headers(h, n, start): send(h, 200, WHOLE, {f'X-{i}': 'y'*500 for i in range(300)})


def odd_tag(h, n, start): send_rest(h, WHOLE, start, '"\xff\x80"')


def changing_tag(h, n, start):
    "Another ETag each time, for the same file, which is cut three times"
    headers = {'ETag': f'"{n}"'}
    if start: headers['Content-Range'] = f'bytes {start}-{len(WHOLE)-1}/{len(WHOLE)}'
    send(h, 206 if start else 200, WHOLE[start:], headers, most=None if n > 3 else len(WHOLE[start:])//2)


def damaged(h, n, start):
    "A flipped bit on the way"
    data = bytearray(make_stored(FIRST))
    data[len(data)//3] ^= 4
    send(h, 200, bytes(data))


def cut_tar(h, n, start): send(h, 200, make_gz(FIRST)[:-4000])


def partial_tar(h, n, start):
    "A tar without length that ends at a member's border"
    send(h, 200, make_tar(FIRST)[:51200], length=False)


HABITS = (good, cut_often, drip, other_tag, other_tag_mixed, other_date, same_tag_other_date, no_tag,
    weak_tag, other_total, ignores_range, part_unasked, other_part, lies_about_part, short_part,
    no_range_header, many_parts, refuses_range, always_416, too_long, too_short, no_length,
    no_length_cut, bad_length, negative_length, giant_length, chunks_cut, zipped, zipped_tar,
    zipped_bomb, zipped_cut, zipped_wrong, unknown_coding, page, page_later, nothing, loop, redirect,
    to_file, to_nowhere, to_nobody, busy('3'), busy('Wed, 21 Oct 2015 07:28:00 GMT'), busy('soon'),
    busy('-5'), busy('1e9'), busy('99999999999'), busy('²'), busy('1.5'), fails(500, 1),
    fails(503, 9), fails(404, 9), fails(403, 9), fails(401, 9), fails(410, 9), fails(418, 9),
    fails(204, 1), hangs_up, rubbish, many_headers, odd_tag, changing_tag, damaged, cut_tar,
    partial_tar)
MUST_ARRIVE = (good, cut_often, drip, redirect, no_length, refuses_range, other_part)
BOMB = []


def get_bomb():
    "1 GB of zeros, compressed; made once"
    if not BOMB: BOMB.append(gzip.compress(bytes(1 << 30), 1))
    return BOMB[0]


# ---- the attack

def prepare(folder):
    "A server; the client does not wait between its tries"
    waits = []
    retries.sleep = waits.append
    return dict(server=Server(), waits=waits)


def check_waits(waits):
    "`Shown` for a wait that is no number of seconds from 0 to 300"
    odd = [wait for wait in waits if not 0 <= wait <= 300]
    if odd: raise Shown(f'a wait of {odd[0]} s')


def check_memory():
    "`Shown` if too much memory was used"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if used > MOST_MEMORY: raise Shown(f'{used:,} bytes of memory were used')


def check_left(place):
    "`Lost` if a refused fetch left anything that can be seen"
    seen = [path.name for path in place.iterdir() if not path.name.startswith('.')]
    if seen: raise Lost(f'refused, but {seen} can be seen')
    size = sum(path.stat().st_size for path in place.rglob('*') if path.is_file())
    if size > 50 << 20: raise Silent(f'{size:,} bytes were written and kept')


def check_arrived(folder, asked):
    "`Silent` for anything but all files of one version"
    got = read_tree(folder)
    differences = [find_difference(wanted, got) for wanted in (FIRST, SECOND)]
    if all(differences): raise Silent(f'{len(got)} of {len(FIRST)} images: {differences[0]}')


def attack(case):
    "Fetch from a server with this habit; half of the fetches give the right checksum"
    server = case.shared['server']
    habit = case.pick(HABITS)
    given = sha256(WHOLE).hexdigest() if case.number//len(HABITS) % 2 else None
    case.title(f'{habit.__name__}{", with sha256" if given else ""}')
    server.habit, server.asked = habit, 0
    case.shared['waits'].clear()
    place = case.folder/'data'
    place.mkdir()
    source = Source('https', f'{server.url}/set{case.number}.zip', sha256=given)
    result, sentence = ask(fetching.fetch, source, place/f'pets-{case.folder.name}')
    check_waits(case.shared['waits'])
    check_memory()
    if sentence is None: return check_arrived(result, server.asked)
    check_left(place)
    if habit in MUST_ARRIVE: raise Lost(f'refused: {sentence}')


# ---- wrong readers, which must be reported

def mix(shared):
    "A client that takes any rest as the rest of its file, and does not read what it unpacks"
    fetching._is_rest = lambda response, part, have: response.status_code == 206
    fetching._check_tag = lambda *_, **__: None
    def bad(part, folder, **_):
        folder.mkdir()
        (folder/'0.jpg').write_bytes(Path(part).read_bytes()[:99])
        return folder
    fetching.unpack = bad


def raise_inner(shared):
    "A client that lets the library's errors through"
    import requests
    def bad(source, folder): raise requests.exceptions.ChunkedEncodingError('inner')
    fetching.fetch = bad


def leave_part(shared):
    "A client that leaves the beginning of a set behind"
    real = fetching.fetch
    def bad(source, folder):
        try: return real(source, folder)
        finally: folder.mkdir(exist_ok=True)
    fetching.fetch = bad


PLANTS = {'silent': mix, 'traceback': raise_inner, 'lost': leave_part}
