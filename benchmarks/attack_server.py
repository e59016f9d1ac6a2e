"""Ten thousand hostile requests to a served model: `.venv/bin/python benchmarks/attack_server.py [--n 10000] [--seed 0] [--run RUN]`

Never a status of 500 and more but 503, never an answer later than the server's own time limits allow, the same answers to the same images
afterwards, and no more memory than `MOST_MEMORY` times as before. Kinds: damaged images, bombs that claim 50,000 x 50,000 pixels, other
files as .jpg, truncated and lying multipart bodies, wrong lengths, random bytes, 1,000 images at once, header floods, broken chunks, odd
paths and JSON. Prints what each kind was answered; exit code 1 if anything failed, with the seed and number that repeat it.
"""
import argparse, collections, io, json, os, random, signal, socket, struct, subprocess, sys, tempfile, time, urllib.request, zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np, psutil
from PIL import Image

HERE = Path(__file__).resolve().parent
MOST_SECONDS = 60.   # the sum of the server's limits for slow bodies and for computing, with room
MOST_MEMORY = 1.5
BOUNDARY = b'XcutX'


def make_image(rng, kind='JPEG'):
    "A small image of noise"
    im = Image.fromarray(np.frombuffer(rng.randbytes(48*64*3), np.uint8).reshape(48, 64, 3))
    buffer = io.BytesIO()
    im.save(buffer, kind)
    return buffer.getvalue()


def damage(rng, data):
    "Some bytes changed, cut off, doubled or zeroed"
    data = bytearray(data)
    how = rng.randrange(4)
    if how == 0:
        for _ in range(rng.randint(1, 40)): data[rng.randrange(len(data))] = rng.randrange(256)
    elif how == 1: del data[rng.randrange(len(data)):]
    elif how == 2:
        at = rng.randrange(len(data))
        data[at:at] = data[at//2:at]
    else:
        at = rng.randrange(len(data))
        data[at:at+200] = bytes(len(data[at:at+200]))
    return bytes(data)


def make_bomb(rng):
    "A PNG of a few bytes that claims 50,000 x 50,000 pixels"
    def chunk(name, data): return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    side = rng.choice((50_000, 65_535, 2**31 - 1))
    head = chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, rng.choice((0, 2, 6)), 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + chunk(b'IDAT', zlib.compress(bytes(10_000))) + chunk(b'IEND', b'')


OTHERS = (b'<!DOCTYPE html><html><script>alert(1)</script></html>', b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    b'%PDF-1.7\n1 0 obj<<>>endobj', b'PK\x03\x04' + bytes(60), b'GIF89a', b'\xff\xd8\xff', b'', b'\0'*5000, b'MZ' + bytes(500))


def make_part(data, name=b'images', filename=b'x.jpg'):
    "One part of a multipart body"
    head = b'--' + BOUNDARY + b'\r\nContent-Disposition: form-data; name="' + name + b'"; filename="' + filename + b'"\r\n'
    return head + b'Content-Type: image/jpeg\r\n\r\n' + data + b'\r\n'


def make_request(body, path=b'/predict', kind=b'image/jpeg', length=None, method=b'POST', more=()):
    "The bytes of a request"
    length = len(body) if length is None else length
    head = [method + b' ' + path + b' HTTP/1.1', b'Host: 127.0.0.1', b'Connection: close', b'Content-Type: ' + kind, b'Content-Length: %d' % length, *more]
    return b'\r\n'.join(head) + b'\r\n\r\n' + body


MULTIPART = b'multipart/form-data; boundary=' + BOUNDARY


def attack_image(rng): return make_request(damage(rng, make_image(rng, rng.choice(('JPEG', 'PNG', 'GIF', 'WEBP', 'TIFF', 'BMP')))))
def attack_bomb(rng): return make_request(make_bomb(rng))
def attack_other(rng): return make_request(rng.choice(OTHERS))


def attack_multipart(rng):
    "Parts that are cut off, lie, or hide in each other"
    good = make_part(make_image(rng)) + make_part(damage(rng, make_image(rng)), filename=rng.randbytes(20).hex().encode())
    end = b'--' + BOUNDARY + b'--\r\n'
    how = rng.randrange(8)
    if how == 0: return make_request(good[:rng.randrange(len(good))], kind=MULTIPART)
    if how == 1: return make_request(good + end, kind=b'multipart/form-data')
    if how == 2: return make_request(good + end, kind=b'multipart/form-data; boundary=' + rng.randbytes(60).hex().encode())
    if how == 3: return make_request(make_part(b'x', name=rng.randbytes(30).hex().encode()) + end, kind=MULTIPART)
    if how == 4: return make_request(b'--' + BOUNDARY + b'\r\n' + b'A'*70_000 + b': b\r\n\r\nx\r\n' + end, kind=MULTIPART)
    if how == 5: return make_request(good.replace(b'\r\n', b'\n') + end, kind=MULTIPART)
    if how == 6: return make_request(damage(rng, good + end), kind=MULTIPART)
    return make_request(make_part(b'1'*9000, name=b'group', filename=b'../../etc/passwd') + good + end, kind=MULTIPART)


def attack_many(rng):
    "A thousand images at once"
    part = make_part(make_image(rng))
    return make_request(part*1000 + b'--' + BOUNDARY + b'--\r\n', kind=MULTIPART)


def attack_length(rng):
    "A length that is too small, negative, no number, doubled, or huge"
    body = make_image(rng)
    how = rng.randrange(5)
    if how == 0: return make_request(body, length=len(body)//2)
    if how == 1: return make_request(body).replace(b'Content-Length: ', b'Content-Length: -')
    if how == 2: return make_request(body).replace(b'Content-Length: ', b'Content-Length: x')
    if how == 3: return make_request(body, more=(b'Content-Length: 3',))
    return make_request(body, length=10**rng.randint(9, 30))


def attack_wait(rng):
    "A length that promises more than comes: the server must not wait for ever"
    body = make_image(rng)
    return make_request(body, length=len(body) + rng.randint(1, 1000))


def attack_bytes(rng): return rng.randbytes(rng.randint(1, 4000))


def attack_headers(rng):
    "Too many, too long, or odd headers"
    how = rng.randrange(4)
    if how == 0: more = [b'X-%d: a' % i for i in range(rng.choice((200, 20_000)))]
    elif how == 1: more = [b'X-Long: ' + b'a'*rng.choice((10_000, 2_000_000))]
    elif how == 2: more = [b'X-Odd\x00: \xff\xfe', b' folded: x']
    else: more = [b'X-API-Key: ' + rng.randbytes(16).hex().encode(), b'X-Forwarded-For: 8.8.8.8', b'Expect: 100-continue']
    return make_request(make_image(rng), more=more)


def attack_chunks(rng):
    "Chunks with wrong sizes"
    head = b'POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n'
    body = make_image(rng)
    how = rng.randrange(4)
    if how == 0: return head + b'%x\r\n' % len(body) + body + b'\r\n0\r\n\r\n'
    if how == 1: return head + b'ffffffffffffffffff\r\n' + body
    if how == 2: return head + b'zz\r\n' + body + b'\r\n0\r\n\r\n'
    return head + b'4\r\nabcdefgh\r\n0\r\n\r\n'


PATHS = (b'/../../etc/passwd', b'/predict/../admin/model', b'/%00', b'/model.json?' + b'a'*9000, b'/docs/%2e%2e/%2e%2e', b'*', b'http://other/predict',
    b'/v2/models/x/infer', b'/v2/models/' + b'%F0%9F'*50, b'/explain', b'/admin/model', b'/metrics', b'/openapi.json', b'//', b'/feedback')
JSONS = (b'{', b'[]', b'null', b'{"run": "../../etc"}', b'{"inputs": [{"name": "x", "shape": [-1], "datatype": "BYTES", "data": [1]}]}',
    b'{"inputs": [{"name": "images", "shape": [99999999], "datatype": "BYTES", "data": []}]}', b'['*100_000, b'{"request_id": 1, "index": "a", "label": []}',
    b'{"request_id": "' + b'a'*5000 + b'", "index": -1, "label": "\\ud800"}', b'{"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["!!"]}]}')


def attack_path(rng):
    "Odd paths, methods and JSON"
    method = rng.choice((b'GET', b'POST', b'PUT', b'DELETE', b'OPTIONS', b'TRACE', b'HEAD', b'BREW'))
    more = rng.choice(((), (b'Inference-Header-Content-Length: %d' % rng.randint(-5, 99_999),)))
    return make_request(rng.choice(JSONS), rng.choice(PATHS), b'application/json', method=method, more=more)


KINDS = dict(image=(attack_image, 30), bomb=(attack_bomb, 6), other=(attack_other, 10), multipart=(attack_multipart, 20), many=(attack_many, .1),
    length=(attack_length, 8), wait=(attack_wait, .6), bytes=(attack_bytes, 8), headers=(attack_headers, 6), chunks=(attack_chunks, 4), path=(attack_path, 8))


def ask(port, data):
    "`(status, seconds)`; status 0 if the connection was closed without an answer, -1 after `MOST_SECONDS`"
    began = time.perf_counter()
    try:
        with socket.create_connection(('127.0.0.1', port), timeout=MOST_SECONDS) as s:
            try: s.sendall(data)
            except (BrokenPipeError, ConnectionResetError): pass  # refused early: its answer may be there
            if not data.startswith((b'POST', b'GET')): s.shutdown(socket.SHUT_WR)
            answer = s.recv(64)
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError): return 0, time.perf_counter() - began
    except TimeoutError: return -1, time.perf_counter() - began
    seconds = time.perf_counter() - began
    if not answer.startswith(b'HTTP/1.'): return 0, seconds
    return int(answer.split()[1]), seconds


def get_case(seed, number):
    "`(kind, bytes of the request)`"
    rng = random.Random(f'{seed}-{number}')
    kind = rng.choices([*KINDS], [weight for _,weight in KINDS.values()])[0]
    return kind, KINDS[kind][0](rng)


def start(run, folder):
    "`(process, port)` of a server that is ready"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    command = [sys.executable, '-c', 'from imgclf_nb.serving import imgclf_serve; imgclf_serve()', run, '--port', str(port), '--log', f'sqlite:///{folder}/log.sqlite']
    env = {**os.environ, 'PYTHONPATH': str(HERE.parent), 'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen(command, env=env, stdout=open(f'{folder}/out.txt', 'w'), stderr=subprocess.STDOUT)
    while True:
        try:
            with urllib.request.urlopen(f'http://127.0.0.1:{port}/ready', timeout=2): return process, port
        except OSError: time.sleep(.1)
        if process.poll() is not None: sys.exit(Path(f'{folder}/out.txt').read_text())


def get_memory(process):
    "MB of all its processes"
    found = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(o.memory_full_info().pss for o in found)/1e6


def get_references(port):
    "The answers to three images"
    answers = []
    for number in range(3):
        data = make_image(random.Random(f'reference {number}'))
        request = urllib.request.Request(f'http://127.0.0.1:{port}/predict', data, {'Content-Type': 'image/jpeg'})
        with urllib.request.urlopen(request, timeout=60) as r: answers.append(json.loads(r.read())['predictions'])
    return answers


def attack(port, seed, numbers):
    "Counts by kind and status, and what failed"
    counts, failed, slowest = collections.defaultdict(collections.Counter), [], collections.Counter()
    def one(number):
        kind, data = get_case(seed, number)
        return number, kind, *ask(port, data)
    with ThreadPoolExecutor(32) as pool:
        for number,kind,status,seconds in pool.map(one, numbers):
            counts[kind][status] += 1
            slowest[kind] = max(slowest[kind], seconds)
            if status == -1 or (status >= 500 and status != 503):
                failed.append(number)
                print(f'{kind}: status {status} after {seconds:.1f} s: --seed {seed} --case {number}', flush=True)
    return counts, failed, slowest


def show_counts(counts, slowest):
    "One line a kind"
    for kind,found in sorted(counts.items()):
        said = ', '.join(f'{n:,} x {status or "closed"}' for status,n in sorted(found.items()))
        print(f'{kind:10} {sum(found.values()):6,}  slowest {slowest[kind]:5.1f} s  {said}')


def make_run():
    "A small network, trained on a miniature"
    from imgclf_nb.base.running import run_notebook
    from imgclf_nb.inference import ensure_export
    run_notebook('03_baseline', 'attacked', quiet=True, dataset='chest_xray_mini')
    run_notebook('05_evaluation', 'attacked', quiet=True, draws=100)
    ensure_export('attacked')
    return 'attacked'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--n', type=int, default=10_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--case', type=int, help='only this one')
    parser.add_argument('--run', help='a run that has an export; without it, one is made')
    args = parser.parse_args()
    run = args.run or make_run()
    with tempfile.TemporaryDirectory() as folder:
        process, port = start(run, folder)
        try:
            before, memory = get_references(port), get_memory(process)
            numbers = range(args.n) if args.case is None else [args.case]
            counts, failed, slowest = attack(port, args.seed, numbers)
            show_counts(counts, slowest)
            after, later = get_references(port), get_memory(process)
            print(f'memory {memory:.0f} MB before, {later:.0f} MB after; the same answers afterwards: {before == after}')
        finally:
            process.send_signal(signal.SIGTERM)
            print(f'ended with {process.wait(60)} after SIGTERM')
    sys.exit(bool(failed or before != after or later > MOST_MEMORY*memory))
