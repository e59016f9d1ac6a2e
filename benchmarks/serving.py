"""A served model under load, beside other servers of the same model: `.venv/bin/python benchmarks/serving.py`

A probe of tf_efficientnet_lite0 at 224 pixels on pc_parts is exported and served on loopback; `hey` sends one JPEG of pc_parts (256
pixels) or of the photos (400 pixels) with 1, 8 and 64 clients, in rounds that meet every side once. For each: answers a second, the
median, 95th and 99th percentile of their times, answers that were not 200, memory of all processes (PSS), seconds to start, and the
share of the processor that the clients took. `tutorial` is FastAPI with PyTorch eager; the others batch: LitServe, BentoML, Ray Serve.
`--overload` sends twice what is possible for a minute, and then asks again; `--endurance MINUTES` half of it, and watches the memory.
"""
import csv, http.client, io, json, os, resource, signal, socket, statistics, subprocess, sys, tempfile, threading, time, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np, psutil

from common import get_parser
from imgclf_nb.base.runs import open_run
from imgclf_nb.results.measured import get_provenance, keep_measured

HERE = Path(__file__).resolve().parent
SIDES = dict(tutorial='FastAPI, PyTorch eager', onnx='imgclf_serve, ONNX Runtime', openvino='imgclf_serve, OpenVINO',
    litserve='LitServe, OpenVINO', bentoml='BentoML, OpenVINO', ray='Ray Serve, OpenVINO')
OURS = ('onnx', 'openvino')
CLIENTS = (1, 8, 64)
SETS = dict(pc_parts='JPEG of PC parts, 256 pixels', photos='JPEG photo, 400 pixels')


def get_command(side, run, port):
    "The command that serves the run"
    if side in OURS:
        command = [sys.executable, '-c', 'from imgclf_nb.serving import imgclf_serve; imgclf_serve()']
        limits = [word for limit in args.limit for word in ('--limit', limit)]
        return [*command, run, '--port', str(port), '--runtime', side, '--log', args.log, *limits]
    script = 'tutorial' if side == 'tutorial' else f'{side}_server'
    return [sys.executable, str(HERE/'servers'/f'{script}.py'), run, str(port), 'openvino']


def find_port():
    "A free port"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def is_ready(port):
    "Whether the server answers"
    for path in ('/ready', '/readyz'):
        try:
            with urllib.request.urlopen(f'http://127.0.0.1:{port}{path}', timeout=2) as r:
                if r.status == 200: return True
        except OSError: pass
    return False


class Server:
    "A server in processes of its own; `seconds` until it was ready"
    def __init__(self, side, run):
        self.side, self.port = side, find_port()
        self.log = tempfile.TemporaryFile()
        env = {**os.environ, 'PYTHONPATH': str(HERE.parent), 'OMP_NUM_THREADS': '2' if side == 'tutorial' else '1'}
        began = time.perf_counter()
        self.process = subprocess.Popen(get_command(side, run, self.port), env=env, stdout=self.log, stderr=self.log, start_new_session=True)
        while not is_ready(self.port):
            if self.process.poll() is not None or time.perf_counter() - began > 180:
                self.log.seek(0)
                sys.exit(f'{side} did not start: {self.log.read().decode()[-3000:]}')
            time.sleep(.05)
        self.seconds = time.perf_counter() - began

    def list_processes(self):
        "The server's processes"
        try: return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        except psutil.NoSuchProcess: return []

    def get_memory(self):
        "MB of all processes; what they share counts once"
        total = 0
        for process in self.list_processes():
            try: total += process.memory_full_info().pss
            except psutil.Error: pass
        return total/1e6

    def get_cpu(self):
        "CPU seconds of all its processes until now"
        times = 0.
        for process in self.list_processes():
            try: times += sum(process.cpu_times()[:2])
            except psutil.Error: pass
        return times

    def stop(self):
        "End it and all that it has started"
        running = self.list_processes()
        self.process.send_signal(signal.SIGTERM)
        try: self.process.wait(30)
        except subprocess.TimeoutExpired: pass
        for process in running:
            try: process.kill()
            except psutil.Error: pass


def make_body(side, path, folder):
    "`(file of a request's body, content type)`"
    data = path.read_bytes()
    if side not in ('bentoml', 'litserve'): return path, 'image/jpeg'  # those two want forms
    head = b'--cut\r\nContent-Disposition: form-data; name="images"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = folder/f'{path.stem}.multipart'
    body.write_bytes(head + data + b'\r\n--cut--\r\n')
    return body, 'multipart/form-data; boundary=cut'


def send(port, body, content_type, clients, seconds, rate=None):
    "What `hey` measures: a dictionary"
    command = ['hey', '-z', f'{seconds}s', '-c', str(clients), '-t', '60', '-m', 'POST', '-T', content_type, '-D', str(body), '-o', 'csv']
    if rate: command += ['-q', str(rate/clients)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run([*command, f'http://127.0.0.1:{port}/predict'], capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    if not rows: sys.exit(f'hey got no answer: {done.stderr[-500:]}')
    times = {}
    for row in rows: times.setdefault(int(row['status-code']), []).append(float(row['response-time']))
    good = np.array(times.get(200, [np.nan]))
    others = np.array([o for status,found in times.items() if status != 200 for o in found] or [np.nan])
    p50, p95, p99 = np.percentile(good, [50, 95, 99])*1000
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return dict(n=len(times.get(200, [])), rate=len(times.get(200, []))/wall, p50=p50, p95=p95, p99=p99, other={k: len(v) for k,v in times.items() if k != 200},
        other_p99=float(np.percentile(others, 99)*1000), client_cpu=cpu/(wall*os.cpu_count()))


class Caller(threading.local):
    "A connection for each thread"
    connection = None

    def ask(self, port, data, content_type, due):
        "Status and seconds since the request was due"
        if not self.connection: self.connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
        self.connection.request('POST', '/predict', data, {'Content-Type': content_type})
        response = self.connection.getresponse()
        response.read()
        return response.status, time.perf_counter() - due


def send_at_random(port, body, content_type, rate, seconds):
    "As `send`, for requests that come at random, whether or not others have been answered; hey's come in bursts"
    data, caller, rng = Path(body).read_bytes(), Caller(), np.random.default_rng(0)
    due = time.perf_counter() + np.cumsum(rng.exponential(1/rate, int(rate*seconds)))
    asked, before = [], time.process_time()
    with ThreadPoolExecutor(64) as pool:
        for moment in due:
            time.sleep(max(0, moment - time.perf_counter()))
            asked.append(pool.submit(caller.ask, port, data, content_type, moment))
        answers = [o.result() for o in asked]
    good = np.array([taken for status,taken in answers if status == 200])
    p50, p95, p99 = np.percentile(good, [50, 95, 99])*1000
    other = {str(status): sum(o == status for o,_ in answers) for status in {o for o,_ in answers} - {200}}
    return dict(n=len(good), rate=len(good)/seconds, p50=p50, p95=p95, p99=p99, other=other,
        client_cpu=(time.process_time() - before)/(seconds*os.cpu_count()))


def show(**row): print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k,v in row.items()}), flush=True)


def measure(sides, run, images, folder):
    "All rows: every side once a round"
    rows = []
    for _ in range(args.rounds):
        for side in sides:
            server = Server(side, run)
            idle = server.get_memory()
            try:
                for name,path in images.items():
                    body, content_type = make_body(side, path, folder)
                    send(server.port, body, content_type, 8, 3)  # warm
                    for clients in CLIENTS:
                        found = send(server.port, body, content_type, clients, args.seconds)
                        rows.append(dict(side=side, images=name, clients=clients, start=server.seconds, memory=server.get_memory(), idle=idle, **found))
                        show(**rows[-1])
            finally: server.stop()
    return rows


def overload(run, path, folder):
    "Half and twice of the capacity, and afterwards"
    server = Server('openvino', run)
    body, content_type = make_body('openvino', path, folder)
    try:
        send(server.port, body, content_type, 8, 3)
        alone = send(server.port, body, content_type, 1, 10)
        before = send(server.port, body, content_type, 64, 15)
        show(load='one client', memory=server.get_memory(), **alone)
        show(load='64 clients', memory=server.get_memory(), **before)
        half = send_at_random(server.port, body, content_type, before['rate']/2, 30)
        show(load='half', memory=server.get_memory(), times_alone=half['p99']/alone['p50'], **half)
        twice = send(server.port, body, content_type, 400, 60, 2*before['rate'])
        show(load='twice', memory=server.get_memory(), **twice)
        show(load='afterwards', memory=server.get_memory(), **send(server.port, body, content_type, 64, 15))
    finally: server.stop()


def endure(run, path, folder):
    "Memory at half load, each half minute"
    server = Server('openvino', run)
    body, content_type = make_body('openvino', path, folder)
    try:
        rate = send(server.port, body, content_type, 64, 15)['rate']/2
        memory = []
        for number in range(2*args.endurance):
            found = send_at_random(server.port, body, content_type, rate, 30)
            memory.append(server.get_memory())
            show(minute=(number + 1)/2, memory=memory[-1], rate=found['rate'], p99=found['p99'], other=found['other'])
        slope = np.polyfit(np.arange(len(memory))/2, memory, 1)[0]
        show(first=memory[0], last=memory[-1], change=memory[-1]/memory[0] - 1, slope_mb_a_minute=float(slope))
    finally: server.stop()


def get_range(values):
    "Their median, smallest and largest"
    return dict(value=round(statistics.median(values), 2), low=round(min(values), 2), high=round(max(values), 2))


def summarize(rows):
    "One row for an image, a number of clients and a server: medians over the rounds"
    found = []
    for name in SETS:
        for clients in CLIENTS:
            here = [row for row in rows if (row['images'], row['clients']) == (name, clients)]
            base = [row['rate'] for row in here if row['side'] == 'tutorial']
            for side in dict.fromkeys(row['side'] for row in here):
                mine = [row for row in here if row['side'] == side]
                median = {key: round(statistics.median(row[key] for row in mine), 3) for key in ('p50', 'p95', 'p99', 'start', 'memory', 'client_cpu')}
                times = get_range([row['rate']/other for row,other in zip(mine, base)]) if base else None
                errors = sum(sum(row['other'].values()) for row in mine)
                answers = sum(row['n'] for row in mine)
                found.append(dict(set=name, title=SETS[name], side=side, name=SIDES[side], clients=clients, rate=get_range([row['rate'] for row in mine]),
                    times=times, **median, errors=errors, **get_provenance('python benchmarks/serving.py', answers)))
    return found


def make_run():
    "A probe of PC parts with its export"
    from imgclf_nb.base.running import run_notebook
    from imgclf_nb.inference import ensure_export
    run_notebook('04a_probe', 'serving-bench', quiet=True, dataset='pc_parts', arch='tf_efficientnet_lite0')
    ensure_export('serving-bench')
    return 'serving-bench'


def make_images(folder):
    "One JPEG of each set"
    from imgclf_nb.core import get_data_root
    from imgclf_nb.data import get_items
    from imgclf_nb.datasets.folders import is_image
    from imgclf_nb.images.preprocessing import open_image
    part = Path(sorted(get_items('pc_parts').path)[0])
    found = sorted(o for o in (get_data_root()/'openimages_photos').rglob('*') if is_image(o.name))[0]
    photo = folder/'photo.jpg'
    im = open_image(found)
    im.thumbnail((400, 400))
    im.save(photo, quality=90)
    return dict(pc_parts=part, photos=photo)


if __name__ == '__main__':
    parser = get_parser(__doc__, rounds=3)
    parser.add_argument('--sides', nargs='+', default=[*SIDES], choices=[*SIDES])
    parser.add_argument('--seconds', type=int, default=10, help='of each measurement')
    parser.add_argument('--run', help='a run that has an export; without it, one is made')
    parser.add_argument('--log', default='none', help='as for imgclf_serve')
    parser.add_argument('--limit', action='append', default=[], help='as for imgclf_serve')
    parser.add_argument('--overload', action='store_true')
    parser.add_argument('--endurance', type=int, default=0, metavar='MINUTES')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as d:
        images, run = make_images(Path(d)), str(open_run(args.run or make_run()).path)
        if args.overload: overload(run, images['pc_parts'], Path(d))
        elif args.endurance: endure(run, images['pc_parts'], Path(d))
        else:
            rows = summarize(measure(args.sides, run, images, Path(d)))
            for row in rows: show(**row)
            if args.keep: keep_measured('serving', rows)
