"The first answer: what its processes load, and that a faster runtime changes nothing that counts"
import errno, io, os, signal, subprocess, sys, time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from imgclf_nb import backbones
from imgclf_nb.base import machine
from imgclf_nb.core import UserError
from imgclf_nb.models import freezing, frozen
from test_imports import loaded

ARCH, SIZE = 'lcnet_035', 64
SLOW = {'torch', 'torchvision', 'timm', 'fastai', 'matplotlib', 'seaborn', 'albumentations'}
PLACES = ('IMGCLF_CACHE', 'IMGCLF_RECORDS', 'IMGCLF_RUNS')


def say(function):
    "What a function prints, and its result"
    with redirect_stdout(io.StringIO()) as said: result = function()
    return said.getvalue(), result


@pytest.fixture(scope='module')
def export(tmp_path_factory):
    "A small network with random weights, its file, and an export that is taken for the fastest; in folders of its own"
    import torch
    from imgclf_nb.base.architectures import get_expected
    from imgclf_nb.datasets.listing import list_items
    from imgclf_nb.images.preprocessing import Preprocessing
    patch, tmp = pytest.MonkeyPatch(), tmp_path_factory.mktemp('export')
    for name in PLACES: patch.setenv(name, str(tmp/name))
    patch.setattr(freezing, 'choose_runtime', lambda seconds, cosine: 'fp32')
    torch.manual_seed(0)
    model = backbones.get_backbone(ARCH, 14, 'none')
    file = str(tmp/'weights.pth')
    torch.save(model.state_dict(), file)
    get_expected(ARCH)
    said, made = say(lambda: freezing.freeze(model, ARCH, Preprocessing(size=SIZE), file, list_items('pc_parts_mini').path))
    assert made and 'exported for OpenVINO (fp32)' in said and 'times as fast' in said
    yield dict(model=model, file=file, tmp=tmp)
    patch.undo()


@pytest.fixture
def places(export, monkeypatch):
    for name in PLACES: monkeypatch.setenv(name, str(export['tmp']/name))
    return export


def open_it(export, **given): return frozen.open_frozen(ARCH, given.get('size', SIZE), weights=given.get('weights', export['file']))


def get_mini():
    from imgclf_nb.data import get_items
    from imgclf_nb.models.features import get_preprocessing
    from imgclf_nb.splitting import get_splits
    items = get_splits(get_items('pc_parts_mini'))
    return items, get_preprocessing(ARCH, SIZE, sorted(items.label.unique()))


# results -------------------------------------------------------------------------------

def test_a_frozen_backbone_gives_the_same_probe(places):
    "Features of each image with cosine 0.9999 and more, and the same predictions, also of mirrored images"
    from imgclf_nb.models.linear_heads import fit_head
    items, pre = get_mini()
    model = places['model']
    by_torch = fit_head(model, ARCH, items, pre)
    made = open_it(places)
    by_openvino = fit_head(made, ARCH, items, pre)
    assert by_torch['c'] == by_openvino['c']
    assert (by_torch['probs'].argmax(1) == by_openvino['probs'].argmax(1)).all()
    np.testing.assert_allclose(by_torch['probs'], by_openvino['probs'], atol=2e-3)
    assert made.cost == backbones.get_cost(model, SIZE)
    assert made.state_dict().keys() == dict(model.state_dict()).keys()


def test_a_batch_of_any_size(places):
    made = open_it(places)
    x = np.random.default_rng(0).normal(size=(33, 3, SIZE, SIZE)).astype(np.float32)
    whole = made.get_features(x)
    assert whole.shape[0] == 33 and made.get_features(x[:0]).shape[0] == 0
    np.testing.assert_allclose(made.get_features(x[:1]), whole[:1], rtol=1e-4, atol=1e-5)
    mirrored = frozen.see_frozen(made, x[:2], True, 'fp32')
    np.testing.assert_allclose(mirrored, made.get_features(x[:2, ..., ::-1].copy()), rtol=1e-4, atol=1e-5)


def test_features_of_another_runtime_are_never_mixed(places):
    "The name of the store says which runtime computed them"
    from imgclf_nb.models.features import _get_store
    _, pre = get_mini()
    names = {_get_store(model, ARCH, pre, False, 'fp32') for model in (places['model'].eval(), open_it(places))}
    assert len(names) == 2


def test_the_kept_run_is_an_ordinary_one(places, tmp_path):
    "torch loads it and computes the same; foreign, damaged and exchanged weights are refused"
    from imgclf_nb.models.linear_heads import fit_head
    items, pre = get_mini()
    made = open_it(places)
    fit_head(made, ARCH, items, pre)
    backbones.save_model(tmp_path, made, dict(arch=ARCH, classes=pre.classes, preprocessing=pre.to_dict(), temperature=1., threshold=None,
        weights=made.source))
    loaded_by_torch, _ = backbones.load_model(tmp_path)
    assert loaded_by_torch.classifier.weight.detach().numpy().tolist() == made.head['weight'].tolist()
    again, card = frozen.load_frozen(tmp_path, places['file'])
    assert (again.head['bias'] == made.head['bias']).all() and card['arch'] == ARCH
    assert frozen.load_frozen(tmp_path, 'none') is None  # torch takes over
    data = bytearray((tmp_path/'model.safetensors').read_bytes())
    data[-1] ^= 1
    (tmp_path/'model.safetensors').write_bytes(data)
    with pytest.raises(UserError, match='is damaged'): frozen.load_frozen(tmp_path, places['file'])


# fallbacks -----------------------------------------------------------------------------

def test_other_weights_inputs_and_machines_have_no_export(places, monkeypatch, tmp_path):
    assert open_it(places) and open_it(places, size=96) is None and open_it(places, weights='none') is None
    assert open_it(places, weights=str(tmp_path/'missing.pth')) is None
    assert open_it(places, weights=str(tmp_path)) is None
    other = tmp_path/'other.pth'
    other.write_bytes(Path(places['file']).read_bytes() + b' ')
    assert open_it(places, weights=str(other)) is None
    monkeypatch.setattr(frozen, 'get_processor', lambda: 'another processor')
    assert open_it(places) is None
    monkeypatch.undo()
    for name in ('local-dir:/nowhere', 'nonsense', 'lcnet_050'): assert frozen.open_frozen(name, SIZE) is None


@pytest.mark.parametrize('name, value', [('get_device', lambda: 'cuda'), ('get_versions', lambda: dict(openvino='9'))])
def test_a_gpu_or_another_version_has_no_export(name, value, places, monkeypatch):
    monkeypatch.setattr(frozen, name, value)
    assert open_it(places) is None


def test_without_openvino_torch_computes(places, monkeypatch):
    import importlib.util
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == 'openvino' else find(name, *a))
    assert not frozen.can_freeze() and open_it(places) is None
    assert freezing.freeze(places['model'], ARCH, None, places['file'], []) is None


@pytest.mark.parametrize('suffix', ['.xml', '.bin', '.safetensors', '.json'])
def test_a_damaged_export_is_told_and_not_used(suffix, places):
    path = frozen.add_suffix(open_it(places).stem, suffix)
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-2] + b'xx')
        said, made = say(lambda: open_it(places))
        assert made is None and path.name in said and 'exported again' in said
        path.unlink()
        assert say(lambda: open_it(places))[1] is None
    finally: path.write_bytes(before)
    assert open_it(places)


def test_an_export_that_fails_is_told(places, monkeypatch):
    "An error of a library is one line; a full disk is told as for each cache; torch computes in both cases"
    from imgclf_nb.datasets.listing import list_items
    from imgclf_nb.images.preprocessing import Preprocessing
    def fail(*_): raise RuntimeError('no conversion rule for aten::new\nmore')
    def make(): return freezing.freeze(places['model'], ARCH, Preprocessing(size=32), places['file'], list_items('pc_parts_mini').path)
    monkeypatch.setattr(freezing, 'convert', fail)
    said, made = say(make)
    assert made is None and 'has no export' in said and 'aten::new' in said and 'more' not in said
    def fill(*_): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(freezing, 'convert', fill)
    said, made = say(make)
    assert made is None and 'cannot be written' in said


# what is loaded ------------------------------------------------------------------------

def test_a_gpu_is_looked_for_without_torch(tmp_path):
    code = 'from imgclf_nb.base.machine import get_device, get_environment, _may_have_gpu\nget_environment()\nprint(_may_have_gpu())'
    r, got = loaded(code, tmp_path)
    assert r.returncode == 0, r.stderr
    if 'False' in r.stdout: assert 'torch' not in got


def test_torch_is_asked_where_it_is_loaded(monkeypatch):
    import torch
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(machine, '_may_have_gpu', lambda: False)
    assert machine.get_device() == 'cuda'


def test_a_probe_with_an_export_loads_no_torch(places, tmp_path):
    "Nor what only figures need; its settings are checked, its files written and read again"
    code = f'''
import imgclf_nb.probe as p
from imgclf_nb.data import get_items
from imgclf_nb.splitting import get_splits
from imgclf_nb.base.architectures import check_arch
from imgclf_nb.base.runs import get_run
from imgclf_nb.training.settings import check_settings
file = {places['file']!r}
check_arch({ARCH!r})
params = dict(arch={ARCH!r}, size={SIZE}, channels=3, weights=file, valid=.2, test=.2, run='a', dataset='pc_parts_mini')
check_settings(params)
run = get_run('04a_probe', params)
items = get_splits(get_items('pc_parts_mini'))
probe = p.get_probe({ARCH!r}, items, sorted(items.label.unique()), {SIZE}, weights=file)
p._keep_probe(run, probe, items, 1, [p._get_row(probe)])
again = p.predict_again(run.path, items, items[items.split == 'valid'], file)
print(abs(again.filter(like='p_').to_numpy() - probe['probs']).max() < 1e-5)'''
    env = {name: os.environ[name] for name in PLACES}
    code = f'import os\nos.environ.update({env!r})\n{code}'
    r, got = loaded(code, tmp_path)
    assert r.returncode == 0 and 'True' in r.stdout, r.stdout + r.stderr
    assert got & SLOW == set()


def test_the_command_of_a_first_answer_loads_no_torch(tmp_path):
    "Its own process checks, asks for the notebook and reads the answer"
    code = '''
import sys
sys.argv[:] = ['imgclf_run', 'pc_parts_mini', '--quick', '--arch', 'tf_efficientnet_lite0']
import imgclf_nb.commands as c
c.run_notebook = lambda *a, **k: print('notebook', a)
import imgclf_nb.results.metrics
c.imgclf_run()'''
    r, got = loaded(code, tmp_path)
    assert "notebook ('04a_probe'" in r.stdout
    assert not got & (SLOW | {'scipy', 'sklearn', 'openvino'})


# the waiting kernel --------------------------------------------------------------------

WAIT = '''
import os, sys, time
os.environ.pop('IMGCLF_KERNELS', None)
from imgclf_nb.base import waiting
waiting.start_waiting()
waiting.start_waiting()
print(waiting._waiting[0].pid, len(waiting._waiting), flush=True)
if sys.argv[1] == 'sleep': time.sleep(600)'''


def is_gone_soon(pid):
    import psutil
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == 'zombie': return True
        time.sleep(.05)


@pytest.mark.skipif(os.name != 'posix', reason='only there a kernel waits')
@pytest.mark.parametrize('how', ['end', 'sleep'])
def test_no_waiting_kernel_outlives_its_command(how):
    "Whether the command ends or is killed"
    p = subprocess.Popen([sys.executable, '-c', WAIT, how], stdout=subprocess.PIPE, text=True)
    pid, n = map(int, p.stdout.readline().split())
    if how == 'sleep': p.send_signal(signal.SIGKILL)
    p.wait(120)
    assert n == 1 and is_gone_soon(pid)
