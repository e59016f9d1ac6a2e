"A real server on this machine: its answers, what it refuses, slow and hostile callers, killed workers, and its end"
import base64, concurrent.futures, io, json, os, re, signal, socket, subprocess, sys, threading, time

import httpx, numpy as np, pytest
from PIL import Image

from imgclf_nb.server.example_run import make_example_run

HEAVY = {'torch', 'timm', 'fastai', 'torchvision', 'sklearn', 'matplotlib', 'seaborn', 'albumentations', 'mapie', 'captum', 'cv2'}
CLASSES = ['cat', 'dog', '漢字 "x", Кот']


def make_image(seed, size=(60, 50), format='JPEG'):
    "The bytes of an image of noise"
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


IMAGE = make_image(0)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Two exported runs with random weights"
    d = tmp_path_factory.mktemp('serving')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('IMGCLF_RUNS', str(d/'runs'))
        make_example_run('mine', CLASSES)
        make_example_run('other', CLASSES, seed=1)
    return d


class Server:
    "`imgclf_serve`, begun, with what it printed"
    def __init__(self, place, *words, run='mine', wait=True, env=()):
        env = dict(os.environ, IMGCLF_RUNS=str(place/'runs'), IMGCLF_RECORDS=str(place/'records'), **dict(env))
        command = [sys.executable, '-m', 'imgclf_nb.commands', 'serve', run, '--port', '0', *map(str, words)]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=place)
        self.lines = []
        if not wait: return
        for line in self.process.stdout:
            self.lines.append(line)
            if 'answers at' in line: break
        said = ''.join(self.lines)
        self.url = re.search(r'http://\S+', said)[0] if 'answers at' in said else pytest.fail(said)
        self.port = int(self.url.rpartition(':')[2])
        self.reading = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self.reading.start()

    def __enter__(self): return self

    def __exit__(self, *_):
        if self.process.poll() is None: self.process.kill()
        self.process.wait()

    def client(self, **options): return httpx.Client(base_url=self.url, timeout=120, **options)

    def end(self, number=signal.SIGTERM):
        "The exit code after a signal; all that it printed has been read"
        self.process.send_signal(number)
        code = self.process.wait(120)
        self.reading.join(120)
        return code

    def workers(self):
        "Process numbers of those that it started, with what they are"
        import psutil
        return psutil.Process(self.process.pid).children()


def wait_for(condition, seconds=120):
    "Wait until something holds"
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, 'it did not happen'
        time.sleep(.02)


@pytest.fixture(scope='module')
def server(place):
    "A server that several tests share: two workers, no log, short deadlines for those who send slowly"
    with Server(place, '--log', 'none', '--workers', 2, '--limit', 'header_seconds=3', '--limit', 'body_seconds=3',
        '--limit', 'decode_seconds=30', '--limit', 'body_bytes=3000000', '--limit', 'pixels=4000000') as server: yield server


@pytest.fixture
def client(server):
    with server.client() as client: yield client


def test_the_answers_are_those_of_the_predictor(place, client, server):
    from imgclf_nb.inference import Predictor
    images = [make_image(i, format=o) for i,o in enumerate(['JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF']*4)]
    table = Predictor(place/'runs'/'mine').predict(images)
    found = client.post('/predict', files=[('images', o) for o in images]).json()
    rows = found['predictions']
    assert set(found) == {'model', 'request_id', 'predictions', 'seconds'} and len(rows) == 24
    assert set(rows[0]) == {'predicted', 'probability', 'probabilities', 'novelty', 'decision', 'prediction_set', 'error'}
    for name in ('predicted', 'decision', 'prediction_set', 'error'): assert [row[name] for row in rows] == list(table[name]), name
    for name in CLASSES: assert np.allclose([row['probabilities'][name] for row in rows], table[f'p_{name}'], atol=1e-5)
    single = client.post('/predict', content=images[1], headers={'Content-Type': 'image/png'}).json()['predictions'][0]
    assert np.isclose(single['probability'], table.probability[1], atol=1e-5)


def test_unreadable_images(client):
    files = [('images', IMAGE), ('images', b''), ('images', b'%PDF-1.4'), ('images', IMAGE[:200]), ('images', IMAGE)]
    rows = client.post('/predict', files=files).json()['predictions']
    assert [bool(row['error']) for row in rows] == [False, True, True, True, False]
    assert rows[1]['predicted'] is None and rows[1]['prediction_set'] == [] and rows[0]['probability'] == rows[4]['probability']
    for content,says in ((b'%PDF-1.4', 'PDF'), (b'<svg xmlns="a">', 'SVG'), (b'PK\x03\x04', 'archive'), (os.urandom(999), '')):
        answer = client.post('/predict', content=content, headers={'Content-Type': 'image/jpeg'})
        assert answer.status_code == 422 and says in answer.json()['error'] and '/' not in answer.json()['error'].replace('and/or', '')


def test_a_bomb_is_refused_before_it_is_decoded(client):
    content = bytearray(make_image(1))
    at = content.index(b'\xff\xc0')
    content[at+5:at+9] = b'\xc3\x50\xc3\x50'
    for bomb in (bytes(content), make_image(0, (2100, 2000), 'PNG')[:2_900_000]):
        answer = client.post('/predict', content=bomb)
        assert answer.status_code == 422 and 'larger than' in answer.json()['error'], answer.text


@pytest.mark.parametrize('words, status', [
    (dict(content=b''), 400), (dict(json={}), 415), (dict(files=[('images', IMAGE)]*33), 413), (dict(content=bytes(3_000_001)), 413),
    (dict(content=iter([bytes(100_000)]*31)), 413), (dict(files=[('pictures', IMAGE)]), 400), (dict(data={'group': 'a'}), 415),
    (dict(content=b'--x\r\n', headers={'Content-Type': 'multipart/form-data; boundary=x'}), 400),
    (dict(content=b'abc', headers={'Content-Type': 'multipart/form-data'}), 400),
    (dict(content=IMAGE, headers={'Content-Encoding': 'gzip'}), 415)])
def test_what_is_refused(client, words, status):
    answer = client.post('/predict', **words)
    assert answer.status_code == status and set(answer.json()) == {'error'} and answer.json()['error'].endswith('.')


def test_no_answer_tells_about_the_server(client, place):
    for method,path in (('GET', '/health'), ('GET', '/none'), ('PUT', '/predict'), ('GET', '/model'), ('GET', '/docs'), ('GET', '/openapi.json'), ('OPTIONS', '/predict')):
        answer = client.request(method, path, headers={'Origin': 'http://elsewhere.example'})
        assert answer.status_code < 500
        told = f'{answer.headers} {answer.text}'.lower()
        for word in ('uvicorn', 'starlette', 'fastapi', str(place).lower(), 'traceback', 'access-control-allow'): assert word not in told, (path, word)
        assert 'http://' not in answer.text.replace('http://elsewhere.example', '') and 'https://' not in answer.text
    assert client.post('/predict', content=IMAGE, headers={'Sec-Fetch-Site': 'cross-site'}).status_code == 403


def test_state_and_documents(client):
    assert client.get('/health').json() == {'alive': True} and client.get('/ready').json()['ready'] is True
    said = client.get('/model.json').json()
    assert said['classes'] == CLASSES and said['explain'] is False and said['key_needed'] is False
    assert said['accuracy'] == dict(value=.5, low=.3, high=.7, n=20, split='valid')
    assert set(said['limits']) == {'body_bytes', 'images', 'pixels', 'seconds'}
    assert 'Random weights' in client.get('/model').text
    assert client.post('/explain', content=IMAGE).status_code == 404 and '--explain' in client.post('/explain', content=IMAGE).json()['error']
    metrics = client.get('/metrics').text
    assert all(line.startswith(('#', 'imgclf_')) for line in metrics.splitlines())
    assert 'imgclf_ready 1.0' in metrics and 'run="mine"' in metrics
    assert {'/predict', '/feedback', '/v2/models/{name}/infer'} <= set(client.get('/openapi.json').json()['paths'])


def test_the_front_process_loads_no_training_stack(place):
    code = f'''
import sys
import imgclf_nb.serving
print(sorted({{o.split('.')[0] for o in sys.modules}} & {HEAVY | {'pandas', 'onnxruntime', 'openvino'}!r}))'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stdout + done.stderr


def test_the_running_processes_map_no_torch(server, client):
    client.post('/predict', content=IMAGE)
    if sys.platform != 'linux': pytest.skip('/proc is needed')
    for pid in (server.process.pid, *[o.pid for o in server.workers()]):
        mapped = open(f'/proc/{pid}/maps').read()
        assert 'libtorch' not in mapped and 'sklearn' not in mapped


def test_tritons_client(server, client, place):
    http = pytest.importorskip('tritonclient.http', reason='tritonclient[http] is missing')
    with http.InferenceServerClient(server.url.removeprefix('http://')) as triton:
        assert triton.is_server_live() and triton.is_server_ready() and triton.is_model_ready('mine') and not triton.is_model_ready('x')
        assert triton.get_model_metadata('mine')['inputs'][0]['datatype'] == 'BYTES'
        images = np.array([make_image(1), b'no image', make_image(2)], object)
        expected = client.post('/predict', files=[('images', bytes(o)) for o in images]).json()['predictions']
        for binary in (True, False):
            given = http.InferInput('images', [3], 'BYTES')
            if binary: given.set_data_from_numpy(images)
            else:
                given.set_data_from_numpy(np.array([base64.b64encode(o) for o in images], object), binary_data=False)
            wanted = [http.InferRequestedOutput(o, binary_data=binary) for o in ('predicted', 'probability', 'probabilities', 'error')]
            found = triton.infer('mine', [given], outputs=wanted, request_id='7')
            said = [o.decode() if isinstance(o, bytes) else o for o in found.as_numpy('predicted')]
            assert said == [row['predicted'] or '' for row in expected] and found.get_response()['id'] == '7'
            assert np.allclose(found.as_numpy('probability'), [row['probability'] or 0 for row in expected], atol=1e-6)
            assert found.as_numpy('probabilities').shape == (3, 3) and found.as_numpy('error')[1]
        given.set_data_from_numpy(images)
        assert triton.infer('mine', [given]).as_numpy('decision').shape == (3,)


def test_a_damaged_inference_request(client):
    for body in (b'', b'[]', b'{"inputs": 3}', b'{"inputs": [{"datatype": "BYTES", "shape": [1], "data": [{}]}]}', b'['*100_000):
        answer = client.post('/v2/models/mine/infer', content=body, headers={'Content-Type': 'application/json'})
        assert answer.status_code == 400 and set(answer.json()) == {'error'}
    answer = client.post('/v2/models/mine/infer', content=b'{}', headers={'Inference-Header-Content-Length': '99'})
    assert answer.status_code == 400


def send_slowly(port, head, results):
    "A caller that sends a byte a second, until the server has had enough"
    began = time.monotonic()
    try:
        with socket.create_connection(('127.0.0.1', port), timeout=60) as caller:
            if head: caller.sendall(head)
            while time.monotonic() - began < 120:
                caller.sendall(b'a')
                time.sleep(1)
    except OSError: pass
    results.append(time.monotonic() - began)


def test_500_callers_of_a_byte_a_second(server, client):
    heads = [b'', b'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: 99999\r\n\r\n']
    results = []
    callers = [threading.Thread(target=send_slowly, args=(server.port, heads[i % 2], results), daemon=True) for i in range(500)]
    for caller in callers: caller.start()
    time.sleep(.5)
    began = time.monotonic()
    for _ in range(20): assert client.post('/predict', content=IMAGE).status_code == 200
    seconds = time.monotonic() - began
    for caller in callers: caller.join(max(0, began + 120 - time.monotonic()))
    assert len(results) == 500 and max(results) < 60, (len(results), max(results))
    assert seconds < 60


def talk(port, *parts):
    "What comes back for these bytes"
    with socket.create_connection(('127.0.0.1', port), timeout=120) as caller:
        for part in parts: caller.sendall(part)
        answer = b''
        try:
            while more := caller.recv(65536): answer += more
        except OSError: pass
        return answer


def test_lying_and_damaged_http(server, client):
    post = b'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\n'
    close = b'Connection: close\r\n'
    assert b' 400 ' in talk(server.port, b'GET / HTTP/1.1\r\nHost: a\r\n' + b'X: y\r\n'*20_000)[:20]
    assert b' 400 ' in talk(server.port, b'\x16\x03\x01 no http\r\n\r\n')[:20]
    assert b' 400 ' in talk(server.port, post + b'Content-Length: -1\r\n\r\n')[:20]
    assert b' 400 ' in talk(server.port, post + b'Content-Length: 3\r\nContent-Length: 5\r\n\r\nabc')[:20]
    assert b' 413 ' in talk(server.port, post + b'Content-Length: 999999999999\r\n' + close + b'\r\n')[:20]
    assert b' 408 ' in talk(server.port, post + b'Content-Length: 9999\r\n\r\nshort')[:20]
    assert b' 422 ' in talk(server.port, post + close + b'Content-Length: 3\r\n\r\nabcdef')[:20]
    assert client.post('/predict', content=IMAGE).status_code == 200


def test_a_killed_worker_is_replaced(server, client):
    before = {o.pid for o in server.workers()}
    over, statuses = threading.Event(), []
    def ask():
        with server.client() as caller:
            while not over.is_set(): statuses.append(caller.post('/predict', content=IMAGE).status_code)
    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers: caller.start()
    try:
        wait_for(lambda: len(statuses) > 4)
        os.kill(min(before), signal.SIGKILL)
        wait_for(lambda: {o.pid for o in server.workers()} - before)
        n = len(statuses)
        wait_for(lambda: statuses[n:].count(200) > 10)
    finally: over.set()
    for caller in callers: caller.join()
    assert set(statuses) <= {200, 503} and statuses.count(503) <= 16 and statuses.count(200) > 10
    assert client.post('/predict', content=IMAGE).status_code == 200 and 'imgclf_worker_ends_total{reason="sigkill"} 1.0' in client.get('/metrics').text


def test_an_image_that_takes_too_long_ends_alone(place):
    limits = ['--limit', 'decode_seconds=0.25', '--limit', 'seconds=100']  # this JPEG 2000 takes a second
    with Server(place, '--log', 'none', '--workers', 1, *limits) as server, server.client() as client:
        slow = client.post('/predict', content=make_image(3, (2000, 1500), 'JPEG2000'))
        assert slow.status_code == 503 and 'too long to decode' in slow.json()['error']
        assert client.post('/predict', content=IMAGE).status_code == 200
        assert 'imgclf_worker_ends_total{reason="slow"} 1.0' in client.get('/metrics').text


def test_the_queue_is_bounded(place):
    limits = ['--limit', 'queue=4', '--limit', 'batch=1', '--limit', 'seconds=100']
    with Server(place, '--log', 'none', '--workers', 1, *limits) as server:
        image = make_image(3, (600, 400), 'PNG')
        def ask():
            answer = httpx.post(f'{server.url}/predict', content=image, timeout=120)
            return answer.status_code, answer.headers.get('retry-after')
        worker, = server.workers()
        worker.suspend()  # as if its image took long
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            asked = [pool.submit(ask) for _ in range(40)]
            try: wait_for(lambda: any(one.done() for one in asked))
            finally: worker.resume()
        found = [one.result() for one in asked]
        assert {status for status,_ in found} == {200, 503} and {after for status,after in found if status == 503} == {'1'}
        assert server.end() == 0


def test_sigterm_under_load_answers_what_was_accepted(place):
    with Server(place, '--log', 'none', '--workers', 1) as server:
        statuses, over = [], threading.Event()
        def ask():
            while not over.is_set():
                try: statuses.append(httpx.post(f'{server.url}/predict', content=IMAGE, timeout=120).status_code)
                except httpx.ConnectError: return  # it accepts no more
                except httpx.HTTPError as error: statuses.append(repr(error))
        callers = [threading.Thread(target=ask) for _ in range(16)]
        for caller in callers: caller.start()
        wait_for(lambda: len(statuses) > 30)
        children = server.workers()
        code = server.end()
        over.set()
        for caller in callers: caller.join()
        assert code == 0 and set(statuses) == {200}, (code, set(statuses))
        assert not any(child.is_running() and child.status() != 'zombie' for child in children)
        assert 'All that was accepted is answered.' in ''.join(server.lines)


def test_the_log_has_every_answer_and_forgets_a_person(place):
    import sqlite3
    with Server(place, '--workers', 1, '--shadow', 'other', '--keep-images', 'originals') as server, server.client() as client:
        found = [client.post('/predict', files=[('images', IMAGE), ('images', b'broken')], data=dict(group='ward 3')).json() for _ in range(20)]
        ids = [o['request_id'] for o in found]
        assert len(set(ids)) == 20 and 'facts' not in found[0]['predictions'][0]
        assert client.post('/feedback', json=dict(request_id=ids[0], index=0, label='none of these')).json() == {'kept': True}
        assert client.post('/feedback', json=dict(request_id=ids[0], index=0, label='x'*201)).status_code == 400
        assert client.post('/feedback', content=b'[', headers={'Content-Type': 'application/json'}).status_code == 400
        wait_for(lambda: 'imgclf_confidence_count{role="shadow"}' in client.get('/metrics').text)
        assert server.end() == 0
    file = place/'records'/'mine'/'predictions.sqlite'
    with sqlite3.connect(file) as database:
        def ask(words): return database.execute(words).fetchall()
        assert ask("select count(*) from predictions where role = 'active'") == [(40,)]
        assert ask("select count(distinct request_id) from predictions where role = 'shadow' and model = 'other'")[0][0] > 0
        row = ask(f"select model, \"group\", predicted, width, height, length(embedding), error from predictions where request_id = '{ids[0]}' and \"index\" = 0 and role = 'active'")[0]
        assert row[:2] == ('mine', 'ward 3') and row[2] in CLASSES and row[3:5] == (60, 50) and row[5] >= 2 and row[6] == ''
        assert ask('select label from corrections') == [('none of these',)]
    env = dict(os.environ, IMGCLF_RUNS=str(place/'runs'), IMGCLF_RECORDS=str(place/'records'))
    kept = list((place/'records'/'mine').rglob(f'*{ids[0]}*'))
    command = [sys.executable, '-m', 'imgclf_nb.commands', 'serve', 'mine', '--forget', ids[0]]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and 'were deleted' in done.stdout, done.stdout + done.stderr
    assert kept and not list((place/'records'/'mine').rglob(f'*{ids[0]}*'))


def is_closed(port):
    "Whether nobody listens there"
    try: socket.create_connection(('127.0.0.1', port), timeout=60).close()
    except OSError: return True
    return False


def test_a_second_signal_ends_at_once(place):
    with Server(place, '--log', 'none', '--workers', 1, '--limit', 'body_seconds=300') as server:
        with socket.create_connection(('127.0.0.1', server.port), timeout=120) as caller:
            caller.sendall(b'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n')
            assert b' 100 ' in caller.recv(1000)  # it waits for the body
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: is_closed(server.port))
            time.sleep(1)
            assert server.process.poll() is None
            assert server.end(signal.SIGINT) in (130, -2)


def test_the_model_is_replaced_under_load(place):
    key = place/'key.txt'
    key.write_text('a-key-of-24-letters-here')
    headers = {'X-API-Key': key.read_text()}
    with Server(place, '--workers', 1, '--api-key-file', key, '--shadow', 'other', '--log', 'none') as server, server.client(headers=headers) as client:
        assert httpx.get(f'{server.url}/').status_code == 401 and httpx.get(f'{server.url}/metrics').status_code == 401
        over, seen = threading.Event(), []
        def ask():
            with server.client(headers=headers) as caller:
                while not over.is_set():
                    answer = caller.post('/predict', content=IMAGE)
                    seen.append((answer.status_code, answer.json().get('model', {}).get('run'), round(answer.json()['predictions'][0]['probability'], 6)))
        callers = [threading.Thread(target=ask) for _ in range(4)]
        for caller in callers: caller.start()
        try:
            wait_for(lambda: seen)
            assert client.post('/admin/model', json=dict(run='nope')).status_code == 422
            assert client.post('/admin/model', json=dict(run='../mine')).status_code == 400
            assert client.post('/admin/model', json=dict(run='other')).json()['model']['run'] == 'other'
            wait_for(lambda: any(run == 'other' for _,run,_ in list(seen)))
            assert client.post('/admin/model', json=dict(back=True)).json()['model']['run'] == 'mine'
        finally: over.set()
        for caller in callers: caller.join()
        assert {status for status,_,_ in seen} == {200} and {run for _,run,_ in seen} == {'mine', 'other'}
        assert len({(run, p) for _,run,p in seen}) == 2  # each answer is that of the model it names
        assert str(place) not in client.post('/admin/model', json=dict(run='nope')).text
        assert 'role="shadow"' in client.get('/metrics').text
        assert server.end() == 0


def test_maps_are_drawn_on_request(place):
    with Server(place, '--log', 'none', '--workers', 1, '--explain') as server, server.client() as client:
        answer = client.post('/explain', content=IMAGE, params={'class': CLASSES[2]})
        assert answer.headers['content-type'] == 'image/png' and Image.open(io.BytesIO(answer.content), formats=['PNG']).size == (64, 64)
        assert client.post('/explain', files=[('images', IMAGE)]).status_code == 200
        assert client.post('/explain', content=IMAGE, params={'class': 'no'}).status_code == 400
        assert client.post('/explain', content=b'<html>').status_code == 422
        assert client.get('/model.json').json()['explain'] is True


@pytest.mark.parametrize('words, says', [
    (['--limit', 'image=3'], 'Did you mean images'), (['--api-key-file', 'nothing.txt'], 'nothing.txt'), (['--host', 'no.such.invalid'], 'cannot listen'),
    (['--precision', 'int8', '--log', 'none'], 'int8')])
def test_bad_settings_give_one_sentence(place, words, says):
    with Server(place, *words, wait=False) as server:
        out = server.process.communicate(timeout=120)[0]
        assert server.process.returncode == 1 and says in out and 'Traceback' not in out, out


def test_an_open_server_is_warned_of(place):
    with Server(place, '--log', 'none', '--workers', 1, '--host', '0.0.0.0') as server:
        assert any('Warning' in line and 'api-key-file' in line for line in server.lines)
