"Weights: the hub's real client against a server of our own, and real photos seen by the default model"
import contextlib, http.server, os, socket, threading

import pytest, timm, torch
from safetensors.torch import save_file

from conftest import run_code

ARCH = 'test_resnet'  # timm's own tiny model, with a hub repository

pytestmark = pytest.mark.xdist_group('weights')  # one worker makes what they share


@contextlib.contextmanager
def hub(file, cut=False):
    "A server on 127.0.0.1 that speaks as much of the hub's protocol as one file needs; `cut` breaks the connection in the middle"
    data, asked = file.read_bytes(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *a): pass
        def head(self):
            if '/resolve/' in self.path: asked.append((self.command, self.path))  # the client asks for news too
            self.send_response(200)
            for k,v in {'ETag': '"abc"', 'X-Repo-Commit': 'f'*40, 'Content-Length': str(len(data)), 'Content-Type': 'application/octet-stream'}.items(): self.send_header(k, v)
            self.end_headers()
        do_HEAD = head
        def do_GET(self):
            self.head()
            self.wfile.write(data[:len(data)//2] if cut else data)
            if cut: self.close_connection = True

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}', asked
    finally: server.shutdown(); server.server_close()


def get_source(home, endpoint, arch=ARCH, offline='0'):
    "`(exit code, last line)` of a fresh process that makes a backbone and prints where its weights came from and the sum of one tensor"
    code = f"""
from imgclf_nb.backbones import get_backbone
from imgclf_nb.core import UserError
try:
    m = get_backbone({arch!r}); print(m.source.split('/')[0], float(next(m.parameters()).sum()), sep='|')
except UserError as e: print(e); raise SystemExit(3)"""
    env = {k: v for k,v in os.environ.items() if k.lower() not in ('http_proxy', 'https_proxy', 'all_proxy')}
    hub = dict(HF_HOME=str(home), HF_ENDPOINT=endpoint, HF_HUB_OFFLINE=offline,
        HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_PROGRESS_BARS='1')
    rc, out, err = run_code(code, {**env, **hub})
    return rc, (out.strip().splitlines() or [err])[-1]


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model, path = timm.create_model(ARCH), tmp_path_factory.mktemp('hub')/'model.safetensors'
    save_file(model.state_dict(), path)
    return path, next(model.parameters()).sum().item()


def test_the_hub_then_its_cache(weights, tmp_path):
    "The first process downloads, the second finds the file without asking"
    path, total = weights
    with hub(path) as (endpoint, asked):
        rc, out = get_source(tmp_path, endpoint)
        assert rc == 0 and out.startswith('hub ') and abs(float(out.split('|')[1]) - total) < 1e-4, out
        assert any(a == 'GET' for a,_ in asked)
        n = len(asked)
        rc, out = get_source(tmp_path, endpoint)
        assert out.startswith('hub cache') and len(asked) == n, (out, asked[n:])


def test_a_broken_download_is_an_error_not_a_model(weights, tmp_path):
    with hub(weights[0], cut=True) as (endpoint, _): rc, out = get_source(tmp_path, endpoint)
    assert rc == 3 and 'No pretrained weights for test_resnet' in out, out


def test_without_network_the_sentence_says_what_to_do(tmp_path):
    rc, out = get_source(tmp_path, 'http://127.0.0.1:9')  # nobody listens there
    assert rc == 3 and all(o in out for o in ('weights=none', 'tf_efficientnet_lite0', 'weights=/path')), out


def test_the_package_answers_where_the_hub_does_not(tmp_path):
    rc, out = get_source(tmp_path, 'http://127.0.0.1:9', arch='tf_efficientnet_lite0')
    assert rc == 0 and out.startswith('package efficientnet-lite0'), out


PHOTOS = {'cat': range(281, 286), 'dog': range(151, 269), 'hot': [934], 'hotdog': [934], 'dragonfly': [319], 'parrot': range(87, 91), 'owl': [24], 'bird': range(7, 147)}


def test_a_cat_looks_like_a_cat(real):
    "Real photos through the default model with its own head: the wrong layers, mean or renaming would not name them"
    from imgclf_nb.backbones import get_backbone, get_probabilities
    from imgclf_nb.base.architectures import get_expected
    from imgclf_nb.images.preprocessing import Preprocessing
    e = get_expected('tf_efficientnet_lite0')
    pre, model = Preprocessing(size=224, crop_pct=e['crop_pct'], mean=e['mean'], std=e['std']), get_backbone('tf_efficientnet_lite0')
    files = [p for p in sorted((real/'openimages_photos').iterdir()) if p.stem.split('_')[0] in PHOTOS]
    assert len(files) >= 10
    best = get_probabilities(model, [torch.stack([pre(p) for p in files])]).argmax(1)
    right = [int(b) in PHOTOS[p.stem.split('_')[0]] for p,b in zip(files, best)]
    assert sum(right) >= len(files) - 2, [(p.name, int(b)) for p,b,r in zip(files, best, right) if not r]


def find_downloads(home, endpoint, offline='0'):
    "What a fresh process says about two networks: one here, one on the hub; and the seconds it took"
    code = """
import time
from imgclf_nb.base.weights_at_hand import find_downloads
began = time.time()
print(find_downloads(['tf_efficientnet_lite0', 'test_resnet']), time.time() - began, sep='|')"""
    env = {k: v for k,v in os.environ.items() if k.lower() not in ('http_proxy', 'https_proxy', 'all_proxy')}
    rc, out, err = run_code(code, {**env, 'HF_HOME': str(home), 'HF_ENDPOINT': endpoint, 'HF_HUB_OFFLINE': offline})
    assert rc == 0, err
    return out


@contextlib.contextmanager
def silent():
    "A server that accepts connections and never answers"
    with socket.create_server(('127.0.0.1', 0)) as server: yield f'http://127.0.0.1:{server.getsockname()[1]}'


def test_what_the_hub_offers(weights, tmp_path):
    "The size without the file; a hub that is off, gone or silent offers nothing, and is not waited for"
    size, here = weights[0].stat().st_size, "{'tf_efficientnet_lite0': 0}"
    with hub(weights[0]) as (endpoint, asked): out = find_downloads(tmp_path, endpoint)
    assert f"'test_resnet': {size}" in out and all(method == 'HEAD' for method,_ in asked), out
    assert find_downloads(tmp_path, 'http://127.0.0.1:9', offline='1').startswith(here)
    gone = find_downloads(tmp_path, 'http://127.0.0.1:9')
    assert 'No more networks from the hub' in gone and here in gone, gone
    with silent() as endpoint: out = find_downloads(tmp_path, endpoint)
    assert 'No more networks from the hub' in out and here in out and float(out.split('|')[1]) < 10, out


def test_a_member_with_the_weights_of_an_export_uses_its_features(monkeypatch):
    "What frozen members of a combination have computed as probes is not computed again; other weights are not mistaken for them"
    from types import SimpleNamespace
    from imgclf_nb.backbones import get_backbone
    from imgclf_nb.models import features
    body = get_backbone('test_resnet', weights='none')
    export = SimpleNamespace(body=features.hash_body(body))
    monkeypatch.setattr(features, 'open_frozen', lambda *args: export)
    assert features._find_export(body, 'test_resnet', 32, 3, 'none') is export
    body.reset_classifier(7)  # a head changes no feature
    assert features._find_export(body, 'test_resnet', 32, 3, 'none') is export
    with torch.no_grad(): next(body.parameters()).add_(1e-3)
    assert features._find_export(body, 'test_resnet', 32, 3, 'none') is None
