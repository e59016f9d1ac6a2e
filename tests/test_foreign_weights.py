"Weights that somebody else wrote: what is understood, and the sentence for what is not"
import argparse
import gzip
import io
import json
import os
import pathlib
import pickle
import re
import tarfile
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save, save_file

from imgclf_nb.backbones import get_backbone
from imgclf_nb.core import UserError

ARCH = 'test_resnet'

pytestmark = pytest.mark.xdist_group('foreign')  # one worker makes the model


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(1)
    return timm.create_model(ARCH, num_classes=7)


@pytest.fixture(scope='module')
def state(model): return {name: tensor.clone() for name,tensor in model.state_dict().items()}


def add(prefix, state): return OrderedDict((prefix + name, tensor) for name,tensor in state.items())


def half(state): return {name: tensor.half() if tensor.is_floating_point() else tensor for name,tensor in state.items()}


def without_head(state): return {name: tensor for name,tensor in state.items() if not name.startswith('fc')}


def number(state, model):
    "The body as fastai's cut makes it: children by number"
    places = {name: i for i,(name,_) in enumerate(model.named_children())}
    return {f'0.{places[name.split(".")[0]]}.{name.split(".", 1)[1]}': tensor for name,tensor in without_head(state).items()}


class Net(types.SimpleNamespace): pass


NOISE = dict(epoch=3, loss=torch.tensor(.5), optimizer=dict(state={0: dict(exp_avg=torch.ones(3))}, param_groups=[dict(lr=.1, params=[0])]),
    args=argparse.Namespace(lr=.1, out=pathlib.Path('/x')), best=np.float64(.5), scaler={}, amp={'a': 1})

UNDERSTOOD = {
    'plain': lambda s, m: s,
    'no head': lambda s, m: without_head(s),
    'other classes': lambda s, m: s | {'fc.weight': torch.ones(3, s['fc.weight'].shape[1]), 'fc.bias': torch.ones(3)},
    'half': lambda s, m: half(s),
    'DataParallel': lambda s, m: add('module.', s),
    'compiled': lambda s, m: add('_orig_mod.', s),
    'compiled DataParallel': lambda s, m: add('module._orig_mod.', s),
    'Lightning': lambda s, m: dict(state_dict=add('model.', s) | {'criterion.weight': torch.ones(3)}, hyper_parameters=argparse.Namespace(lr=1),
        callbacks={'EarlyStopping': {'best': torch.tensor(1.)}}, optimizer_states=[NOISE['optimizer']], **{'pytorch-lightning_version': '2.0'}),
    'Lightning net.backbone': lambda s, m: dict(state_dict=add('net.backbone.', without_head(s)) | {'net.head.0.weight': torch.ones(2, 2)}),
    'model': lambda s, m: dict(model=s, **NOISE),
    'model_state_dict': lambda s, m: dict(model_state_dict=s, optimizer_state_dict=NOISE['optimizer'], epoch=1),
    'model of DataParallel': lambda s, m: dict(model=add('module.', s), **NOISE),
    'timm training': lambda s, m: dict(arch=ARCH, state_dict=s, version=2, metric=np.float64(3), **NOISE),
    'network in a list': lambda s, m: [dict(net=s), 3],
    'fastai save with_opt': lambda s, m: dict(model=s, opt=dict(hypers=[dict(lr=.1)], state=[dict(grad_avg=torch.ones(3))])),
    'fastai body and head': lambda s, m: number(s, m) | {'1.2.weight': torch.ones(9), '1.4.weight': torch.ones(3, 3)},
    'fastai with opt, numbered': lambda s, m: dict(model=number(s, m), opt={}),
    'fastai TimmBody': lambda s, m: add('0.model.', without_head(s)) | {'1.2.weight': torch.ones(9)},
    'encoder with projector': lambda s, m: add('encoder.', without_head(s)) | {'projector.0.weight': torch.ones(4, 4), 'encoder.fc.0.weight': torch.ones(2, 2)},
    'thop counters': lambda s, m: s | {'total_ops': torch.ones(1), 'layer1.total_params': torch.ones(1)},
    'no counters': lambda s, m: {name: tensor for name,tensor in s.items() if not name.endswith('num_batches_tracked')},
    'parameters with a gradient': lambda s, m: {name: torch.nn.Parameter(t) if t.is_floating_point() else t for name,t in s.items()},
    'averaged model': lambda s, m: add('module.', s) | {'n_averaged': torch.tensor(3)},
    'beside its average': lambda s, m: dict(model={name: torch.zeros_like(t) for name,t in s.items()}, model_ema=s, **NOISE),
    'teacher and student': lambda s, m: dict(student=add('module.backbone.', {name: torch.zeros_like(t) for name,t in s.items()}), teacher=add('backbone.', s)),
}


def check_loaded(path, state):
    "The backbone has these weights, whatever its head"
    got = get_backbone(ARCH, 5, str(path)).state_dict()
    for name,tensor in without_head(state).items():
        if not name.endswith('num_batches_tracked'): assert torch.allclose(got[name].float(), tensor.float(), atol=1e-2), name


@pytest.mark.parametrize('old', [False, True], ids=['zip', 'before_1.6'])
@pytest.mark.parametrize('name', UNDERSTOOD)
def test_understood(name, old, state, model, tmp_path):
    torch.save(UNDERSTOOD[name](state, model), tmp_path/'w.pth.tar', _use_new_zipfile_serialization=not old)
    check_loaded(tmp_path/'w.pth.tar', state)


@pytest.mark.parametrize('name', ['plain', 'DataParallel', 'compiled', 'fastai TimmBody', 'encoder with projector'])
def test_understood_as_safetensors(name, state, model, tmp_path):
    save_file(UNDERSTOOD[name](state, model), tmp_path/'w.safetensors')
    check_loaded(tmp_path/'w.safetensors', state)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', '.ckpt', '.bin', '', '.txt'])
def test_the_suffix_does_not_matter(suffix, state, tmp_path):
    torch.save(state, tmp_path/f'a{suffix}')
    check_loaded(tmp_path/f'a{suffix}', state)
    (tmp_path/f'b{suffix}').write_bytes(save(state))
    check_loaded(tmp_path/f'b{suffix}', state)


def test_names_of_another_project(tmp_path):
    "timm knows the names that the authors of DeiT, ConvNeXt or Swin gave: the file of one of them is understood"
    torch.manual_seed(0)
    convnext = timm.create_model('convnext_atto', num_classes=2)
    theirs = {}
    for name,tensor in convnext.state_dict().items():
        name = re.sub(r'^stem\.(\d)', r'downsample_layers.0.\1', name)
        name = re.sub(r'^stages\.(\d)\.downsample\.(\d)', r'downsample_layers.\1.\2', name)
        name = re.sub(r'^stages\.(\d)\.blocks\.(\d+)\.', r'stages.\1.\2.', name)
        name = name.replace('conv_dw', 'dwconv').replace('mlp.fc1', 'pwconv1').replace('mlp.fc2', 'pwconv2')
        theirs[name.replace('head.norm.', 'norm.').replace('head.fc.', 'head.')] = tensor
    torch.save(dict(model=theirs), tmp_path/'theirs.pth')
    got = get_backbone('convnext_atto', 2, str(tmp_path/'theirs.pth'))
    assert torch.equal(got.stages[1].downsample[1].weight, convnext.stages[1].downsample[1].weight)


class Evil:
    "Runs a command when it is loaded"
    def __init__(self, f=os.system, args=('touch {}',)): self.f, self.args = f, args
    def __reduce__(self): return self.f, self.args


def make_archive(names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name in names: archive.writestr(name, b'x')
    return file.getvalue()


def make_tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive: archive.addfile(tarfile.TarInfo('a.pth'))
    return file.getvalue()


def dump(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def script(*args):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 1)), file)
    return file.getvalue()


def break_one(s, value):
    return s | {'conv1.0.weight' if 'conv1.0.weight' in s else next(iter(s)): torch.full_like(next(iter(s.values())), value)}


REFUSED = {
    'empty': (lambda s: b'', 'is empty'),
    'HTML': (lambda s: b'\n<!DOCTYPE html><html><body>Sign in</body></html>', 'a web page'),
    'HTML without doctype': (lambda s: b'<HTML>', 'a web page'),
    'XML of a bucket': (lambda s: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', 'a web page'),
    'LFS pointer': (lambda s: b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n', 'git lfs pull'),
    'JSON': (lambda s: b'{"error": "Repository is gated"}', 'JSON'),
    'index of parts': (lambda s: json.dumps({'weight_map': {'a': 'b'}}, indent=1).encode(), 'JSON'),
    'gzip': (lambda s: gzip.compress(dump(s)), 'compressed archive'),
    'tar': (lambda s: make_tar(), 'compressed archive'),
    'zip of a file': (lambda s: make_archive(['weights/a.pth']), 'archive without weights'),
    'keras': (lambda s: make_archive(['config.json', 'model.weights.h5']), 'archive without weights'),
    'npz': (lambda s: make_archive(['a.npy']), 'archive without weights'),
    'HDF5': (lambda s: b'\x89HDF\r\n\x1a\n' + bytes(50), 'Keras'),
    'TorchScript': (script, 'TorchScript'),
    'text': (lambda s: b'conv1.weight 0.1 0.2', 'no file of weights'),
    'zeros': (lambda s: bytes(5000), 'only zeros'),
    'image': (lambda s: b'\xff\xd8\xff\xe0' + bytes(40), 'an image'),
    'cut zip': (lambda s: dump(s)[:-3000], 'damaged or not complete'),
    'cut zip early': (lambda s: dump(s)[:300], 'damaged or not complete'),
    'cut safetensors': (lambda s: save(s)[:-9], 'damaged or not complete'),
    'cut in the header': (lambda s: save(s)[:60], 'damaged or not complete'),
    'cut old file': (lambda s: dump(s, _use_new_zipfile_serialization=False)[:-3000], 'damaged, or not complete|damaged or not complete'),
    'half zeros': (lambda s: (d := dump(s))[:len(d)//2] + bytes(len(d) - len(d)//2), 'damaged or not complete'),
    'code': (lambda s: dump(Evil()), 'holds code .posix.system.*Nothing of it was executed'),
    'code beside weights': (lambda s: dump(dict(model=s, x=Evil())), 'holds code'),
    'eval': (lambda s: dump(dict(s, x=Evil(eval, ('1',)))), 'holds code .builtins.eval'),
    'plain pickle of code': (lambda s: pickle.dumps(Evil(), 2), 'holds code'),
    'newer pickle of code': (lambda s: pickle.dumps(Evil(), 4), 'cannot be read as weights|holds code'),
    'pickle of text': (lambda s: b"cposix\nsystem\n(S'touch x'\ntR.", 'holds code'),
    'pickle of arrays': (lambda s: pickle.dumps({'a': np.ones(3)}, 2), 'holds no weights|cannot be read'),
    'whole model': (lambda s: dump(torch.nn.Linear(2, 1)), 'a whole model'),
    'own class': (lambda s: dump(Net(a=1)), 'a whole model|holds no weights'),
    'nothing': (lambda s: dump({}), 'holds no weights'),
    'numbers': (lambda s: dump(dict(epoch=3, lr=.1)), 'its entries are epoch, lr'),
    'None': (lambda s: dump(None), 'not the tensors'),
    'optimizer': (lambda s: dump(NOISE['optimizer']), 'holds no weights|do not fit'),
    'one tensor': (lambda s: dump(torch.ones(3)), 'do not fit'),
    'NaN': (lambda s: dump(break_one(s, float('nan'))), 'infinite or NaN, e.g. conv1'),
    'infinite': (lambda s: save(break_one(s, float('inf'))), 'infinite or NaN, e.g. conv1'),
    'all zero': (lambda s: dump({name: torch.zeros_like(t) for name,t in s.items()}), 'all zero'),
    'int8': (lambda s: dump({name: t.to(torch.int8) for name,t in s.items()}), 'quantised'),
    'half a model': (lambda s: dump({name: t for name,t in s.items() if 'layer4' not in name}), 'layer4.* is missing'),
    'more layers': (lambda s: dump(s | {'layer5.0.conv1.weight': torch.ones(3)}), 'layer5.0.conv1.weight is none of its'),
    'another model': (lambda s: dump(timm.create_model('test_vit').state_dict()), 'do not fit this model'),
    'another model that says so': (lambda s: dump(dict(arch='test_vit', state_dict=timm.create_model('test_vit').state_dict())), 'give arch=test_vit'),
    'other widths': (lambda s: dump({name: t[:1] if t.ndim > 1 else t for name,t in s.items()}), 'instead of'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_in_its_own_words(name, state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, says = REFUSED[name]
    for suffix in ('.pth', '.safetensors'):
        path = tmp_path/f'w{suffix}'
        path.write_bytes(make(state))
        with pytest.raises(UserError) as e: get_backbone(ARCH, 5, str(path))
        said = str(e.value)
        assert re.search(says, said), said
        assert str(path) in said and len(said) < 500 and e.value.parameter == 'weights'
        assert not re.search('weights_only|trust|safe_globals|allowlist|allow_pickle', said), said
        path.unlink()
    assert not list(tmp_path.iterdir())  # nothing was executed


def test_places_that_are_no_file(tmp_path, state):
    (tmp_path/'run').mkdir()
    for given,says in ((tmp_path/'none.pth', 'There is no weights file'), (tmp_path/'run', 'is a folder: give the file in it'),
            ('https://example.org/w.pth', 'Download the file first'), ('', 'is a folder|no weights file'), ('hub', 'no weights file')):
        with pytest.raises(UserError, match=says): get_backbone(ARCH, 5, str(given))
    save_file(state, tmp_path/'run'/'model.safetensors')
    with pytest.raises(UserError, match=f'give weights={tmp_path}/run/model.safetensors'): get_backbone(ARCH, 5, str(tmp_path/'run'))
    (tmp_path/'a').symlink_to(tmp_path/'b')
    with pytest.raises(UserError, match='There is no weights file'): get_backbone(ARCH, 5, str(tmp_path/'a'))


def test_our_own_with_a_changed_bit(state, tmp_path):
    "A run's model.safetensors given as weights is checked like everywhere"
    from imgclf_nb.base.checksums import write_safetensors
    path = tmp_path/'model.safetensors'
    write_safetensors(path, state)
    check_loaded(path, state)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match='checksum'): get_backbone(ARCH, 5, str(path))


def test_a_changed_bit_in_a_file_of_torch(state, tmp_path):
    "torch itself does not look at the CRC-32 of its archive"
    path = tmp_path/'w.pth'
    torch.save(state, path)
    data = bytearray(path.read_bytes())
    place = data.find(state['layer1.0.conv1.weight'].numpy().tobytes())
    data[place + 2] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)
    with pytest.raises(UserError, match='has changed'): get_backbone(ARCH, 5, str(path))


def test_a_damaged_file_of_the_hub_is_named(state, tmp_path, monkeypatch):
    "The hub names its files by their SHA-256: another content is no model, and no reason to take other weights"
    from imgclf_nb import backbones
    stored = tmp_path/('0'*64)
    save_file(state, stored)
    monkeypatch.setattr(backbones, '_find_hub', lambda model: (stored, 'hub cache a/b'))
    with pytest.raises(UserError, match='Delete this file, and run again'): get_backbone(ARCH, 5)


@pytest.mark.parametrize('old', [False, True], ids=['zip', 'before_1.6'])
def test_settings_in_a_plain_namespace_are_no_code(old, state, tmp_path):
    content = dict(model=state, args=types.SimpleNamespace(lr=.1))
    torch.save(content, tmp_path/'w.pth', _use_new_zipfile_serialization=not old)
    check_loaded(tmp_path/'w.pth', state)


def test_a_file_that_torch_wrote_without_checksums(state, tmp_path):
    torch.serialization.set_crc32_options(False)
    try: torch.save(state, tmp_path/'w.pth')
    finally: torch.serialization.set_crc32_options(True)
    check_loaded(tmp_path/'w.pth', state)


@pytest.fixture
def run(tmp_path, monkeypatch):
    "A finished run of seven classes, as `mine`"
    from imgclf_nb.backbones import save_model
    from imgclf_nb.core import write_json
    from imgclf_nb.images.preprocessing import Preprocessing
    monkeypatch.setenv('IMGCLF_RUNS', str(tmp_path/'runs'))
    folder = tmp_path/'runs'/'mine'
    folder.mkdir(parents=True)
    classes = list('abcdefg')
    write_json(folder/'run.json', dict(status='done', run='mine', notebook='04_train', classes=classes, dataset='x', parameters={}, error=None))
    pre = Preprocessing(size=32, classes=classes).to_dict()
    torch.manual_seed(1)
    save_model(folder, timm.create_model(ARCH, num_classes=7), dict(arch=ARCH, classes=classes, preprocessing=pre, temperature=1.))
    return folder


def test_a_run_gives_its_body_and_more_classes_get_a_new_head(run, state):
    for given in ('mine', str(run)):
        model = get_backbone(ARCH, 8, given)
        assert model.source == 'run mine' and model.get_classifier().weight.shape[0] == 8
        assert all(torch.equal(tensor, state[name]) for name,tensor in without_head(model.state_dict()).items())


def test_a_run_that_gives_no_weights(run):
    from imgclf_nb.core import write_json
    with pytest.raises(UserError, match='no weights file mein.*no run.*Did you mean mine'): get_backbone(ARCH, 8, 'mein')
    with pytest.raises(UserError, match=f'Run mine is a {ARCH}, not a resnet18: give arch={ARCH}'): get_backbone('resnet18', 8, 'mine')
    data = bytearray((run/'model.safetensors').read_bytes())
    data[-9] ^= 1
    (run/'model.safetensors').write_bytes(data)
    with pytest.raises(UserError, match='damaged'): get_backbone(ARCH, 8, 'mine')
    (run/'model.safetensors').unlink()
    with pytest.raises(UserError, match='no weights file'): get_backbone(ARCH, 8, 'mine')
    write_json(run/'run.json', dict(status='failed', run='mine', notebook='04_train', parameters={}, dataset='x', error=dict(message='boom', parameter=None)))
    with pytest.raises(UserError, match='mine'): get_backbone(ARCH, 8, 'mine')
