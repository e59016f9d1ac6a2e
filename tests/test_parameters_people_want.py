"resize, channels, positive, any size and any model: what only the card or timm's list decided before"
import http.server
import os
import threading
import zipfile

import numpy as np
import pytest
import timm
import torch

from conftest import run_code
from imgclf_nb.augmentation import POLICIES
from imgclf_nb.base.architectures import check_arch, create_model
from imgclf_nb.base.runs import Run, get_run, open_run
from imgclf_nb.commands import _is_same
from imgclf_nb.core import UserError, get_cache, write_json
from imgclf_nb.data import get_items
from imgclf_nb.datasets.archives import unpack
from imgclf_nb.datasets.cards import fill_recipe, get_older
from imgclf_nb.images.preprocessing import Preprocessing
from imgclf_nb.results.artifacts import describe_data
from imgclf_nb.results.paired_predictions import check_one_setting
from imgclf_nb.splitting import get_splits, seal_test

LATER = ('resize', 'channels', 'positive', 'find_lr', 'doubt', 'refit', 'budget_minutes', 'head', 'teacher')


@pytest.fixture
def items():
    "The X-ray miniature with its splits"
    return get_splits(get_items('chest_xray_mini'))


def make_old_run(path, items, notebook='04_train'):
    "A finished run as versions before these parameters wrote it"
    from imgclf_nb.base.running import get_defaults
    parameters = fill_recipe({**get_defaults(notebook), 'dataset': 'chest_xray_mini'})
    old = {name: value for name,value in parameters.items() if name not in LATER}
    run = get_run(notebook, old | dict(run=str(path)))
    describe_data(run, items, get_card())
    run.finish(metrics=dict(valid={}), arch=old['arch'])
    return run, parameters | dict(run=str(path))


def get_card():
    from imgclf_nb.datasets.cards import get_card
    return get_card('chest_xray_mini')


@pytest.mark.parametrize('notebook', ['04_train', '04a_probe', '03_baseline'])
def test_an_old_run_is_the_same_run_as_a_new_one_without_these_parameters(tmp_path, items, notebook):
    run, new = make_old_run(tmp_path/'old', items, notebook)
    older = get_older('chest_xray_mini')
    assert get_run(notebook, new, older=older).done
    with pytest.raises(UserError, match="resize was 'letterbox' and is now 'crop'"):
        get_run(notebook, {**new, 'resize': 'crop'}, older=older)
    with pytest.raises(UserError, match='channels was 3 and is now 1'):
        get_run(notebook, {**new, 'channels': 1}, older=older)


def test_the_command_returns_an_old_run_at_once(tmp_path, items):
    run, _ = make_old_run(tmp_path/'old', items)
    given = dict(dataset='chest_xray_mini')
    assert _is_same(run.record, given)
    assert _is_same(run.record, given | dict(resize='letterbox', channels=3))
    assert not _is_same(run.record, given | dict(channels=1))


def test_old_and_new_runs_are_one_setting_unless_the_positive_class_differs(tmp_path, items):
    old, parameters = make_old_run(tmp_path/'old', items)
    new = get_run('04_train', parameters | dict(run=str(tmp_path/'new'), seed=1, find_lr=True))
    describe_data(new, items, get_card())
    new.finish(arch=parameters['arch'])
    check_one_setting([old, new])
    new.update(positive_class='NORMAL')
    with pytest.raises(UserError, match='positive'): check_one_setting([old, new])


def test_the_positive_class_is_kept_and_an_unknown_one_refused(tmp_path, items):
    def describe(name, positive):
        run = get_run('00', dict(dataset='chest_xray_mini', run=str(tmp_path/name)))
        describe_data(run, items, get_card(), positive)
        return open_run(str(tmp_path/name)).record['positive_class']
    assert describe('card', None) == 'PNEUMONIA'
    assert describe('other', ' NORMAL ') == 'NORMAL'
    with pytest.raises(UserError, match='NORMAL and PNEUMONIA'): describe('wrong', 'pneumonia')


@pytest.mark.parametrize('policy', POLICIES)
def test_every_policy_augments_grey_images(items, policy):
    from imgclf_nb.training.loaders import get_dls
    pre = Preprocessing(size=32, channels=1, mean=[.5], std=[.5], classes=['NORMAL', 'PNEUMONIA'])
    dls = get_dls(seal_test(items), pre, policy, 8, 0)
    for dl in (dls.train, dls.valid):
        xb, _ = dl.one_batch()
        assert xb.shape[1:] == (1, 32, 32) and xb.isfinite().all()


def test_every_corruption_keeps_a_grey_image_grey():
    from imgclf_nb.robustness import corrupt, get_corruptions
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
    for kind,strengths in get_corruptions(32).items():
        for transform in strengths: assert corrupt(images, transform).shape == images.shape, kind


@pytest.mark.parametrize('arch,size', [('vit_tiny_patch16_224', 448), ('swin_tiny_patch4_window7_224', 128)])
def test_weights_are_adapted_to_the_size(arch, size):
    "What does not depend on the place stays the same"
    native = timm.create_model(arch).eval()
    adapted = create_model(arch, size=size, state=native.state_dict())
    with torch.no_grad(): assert adapted(torch.zeros(1, 3, size, size)).shape == (1, 1000)
    own = native.state_dict()
    for name,tensor in adapted.state_dict().items():
        placed = 'index' in name or 'mask' in name
        assert placed or own[name].shape != tensor.shape or torch.equal(own[name], tensor), name


def test_positions_are_interpolated():
    "At twice the patches, the learnt positions are the same function of the place"
    native = timm.create_model('vit_tiny_patch16_224')
    larger = create_model('vit_tiny_patch16_224', size=448, state=native.state_dict())
    def spread(model, side): return model.pos_embed[0,1:].reshape(side, side, -1).permute(2, 0, 1)[None]
    small = torch.nn.functional.adaptive_avg_pool2d(spread(larger, 28), 14)
    alike = torch.corrcoef(torch.stack([small.flatten(), spread(native, 14).flatten()]))[0,1]
    assert alike > .9


def test_grey_weights_see_a_grey_image_as_colour_ones_do():
    native = timm.create_model('vit_tiny_patch16_224').eval()
    grey = create_model('vit_tiny_patch16_224', 1, state=native.state_dict())
    x = torch.rand(1, 1, 224, 224)
    with torch.no_grad(): assert torch.allclose(grey(x), native(x.repeat(1, 3, 1, 1)), atol=1e-4)


def test_weights_that_cannot_become_grey_are_refused():
    "timm would give this model's first layer random weights"
    naflex = timm.create_model('naflexvit_base_patch16_gap', depth=1)
    with pytest.raises(UserError, match='channels = 1'):
        from imgclf_nb.base.architectures import _check_first_layer
        grey = timm.create_model('naflexvit_base_patch16_gap', depth=1, in_chans=1)
        _check_first_layer(grey, 'naflexvit_base_patch16_gap', naflex.state_dict(), 1)


@pytest.fixture
def folder(tmp_path):
    "A model of somebody's own, as timm writes it"
    torch.manual_seed(0)
    timm.models.save_for_hf(timm.create_model('test_resnet', num_classes=7), tmp_path/'a model',
        safe_serialization=True)
    return tmp_path/'a model'


def test_a_model_of_a_folder_gives_a_probe_and_a_run_of_its_own(folder, tmp_path, items):
    from imgclf_nb.backbones import load_model
    from imgclf_nb.probe import _keep_probe, get_probe
    arch = f'local-dir:{folder}'
    run = get_run('04a_probe', dict(dataset='chest_xray_mini', arch=arch, run=str(tmp_path/'run')))
    classes = describe_data(run, items, get_card())
    probe = get_probe(arch, seal_test(items), classes, 32, channels=1)
    assert list(get_cache('features').glob(f'local-dir_*{folder.name.replace(" ", "_")}*.npz'))
    _keep_probe(run, probe, seal_test(items), 1., [None])
    (folder/'config.json').unlink()
    model, card = load_model(run.path)
    assert card['architecture']['name'] == 'test_resnet'
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 2)


def test_a_folder_without_weights_or_description_is_named(folder):
    from imgclf_nb.backbones import get_backbone
    (folder/'model.safetensors').unlink()
    with pytest.raises(UserError, match='no weights'): get_backbone(f'local-dir:{folder}')
    (folder/'config.json').write_text('{}')
    with pytest.raises(UserError, match='does not describe'): check_arch(f'local-dir:{folder}')
    (folder/'config.json').unlink()
    with pytest.raises(UserError, match='no config.json'): check_arch(f'local-dir:{folder}')


class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the hub's protocol as two files need"
    files = {}

    def log_message(self, *args): pass

    def do_HEAD(self):
        name = self.path.split('?')[0].rsplit('/', 1)[-1]
        data = self.files.get(name)
        self.send_response(200 if data is not None else 404)
        headers = {'ETag': f'"{name}"', 'X-Repo-Commit': 'f'*40, 'Content-Length': str(len(data or b''))}
        if data is None: headers['X-Error-Code'] = 'EntryNotFound'
        for key,value in headers.items(): self.send_header(key, value)
        self.end_headers()
        return data or b''

    def do_GET(self): self.wfile.write(self.do_HEAD())


_sees = '''
from imgclf_nb.backbones import get_backbone
from imgclf_nb.core import UserError
try: model = get_backbone('hf_hub:someone/mine', 2, channels=1)
except UserError as error: print(error)
else: print(model.source, type(model).__name__)'''


def see(home, endpoint):
    "What a fresh process prints about a model of the hub"
    env = {k: v for k,v in os.environ.items() if k.lower() not in ('http_proxy', 'https_proxy', 'all_proxy')}
    hub = dict(HF_HOME=str(home), HF_ENDPOINT=endpoint, HF_HUB_OFFLINE='0', HF_HUB_DISABLE_XET='1',
        HF_HUB_DISABLE_PROGRESS_BARS='1')
    _, out, err = run_code(_sees, {**env, **hub})
    return (out.strip().splitlines() or [err])[-1]


def test_a_model_of_the_hub_and_a_hub_out_of_reach(folder, tmp_path):
    handler = type('Mine', (Hub,), dict(files={p.name: p.read_bytes() for p in folder.iterdir()}))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: assert see(tmp_path/'home', f'http://127.0.0.1:{server.server_port}') == 'hub someone/mine ResNet'
    finally: server.shutdown(); server.server_close()
    said = see(tmp_path/'empty', 'http://127.0.0.1:9')
    assert 'cannot be reached' in said and 'local-dir:FOLDER' in said and 'hf download someone/mine' in said


PLAIN = dict(arch='test_resnet', size=32, epochs=1, batch_size=8, lr=1e-3, policy='light', weights='none',
    class_weights=True, progressive=False, patience=2, seed=0, workers=0, cache=True, ema=.9, mixup=.2,
    cutmix=0., label_smoothing=0., clip=1.)


@pytest.mark.parametrize('layers,precision,weights', [('late', 'fp32', 'auto'), ('all', 'bf16', 'none')])
def test_the_lr_finder_changes_nothing(tmp_path, items, layers, precision, weights):
    from imgclf_nb.base.machine import set_seeds
    from imgclf_nb.train import _find_rate, _get_trainer
    items = seal_test(items).assign(part='')
    pre = Preprocessing(size=32, channels=1, mean=[.5], std=[.5], classes=['NORMAL', 'PNEUMONIA'])
    params = PLAIN | dict(layers=layers, weights=weights)
    plan = dict(layout='channels_last', precision=precision, micro=None)
    def train(find):
        set_seeds(0)
        learn = _get_trainer(create_model('test_resnet', 1), items, pre, params, plan)
        learn.model.reset_classifier(2)
        learn.model.float()
        run = Run(tmp_path/f'{find}')
        run.path.mkdir()
        if find: _find_rate(run, learn.model, items, pre, params, plan, steps=12)
        learn.fit_all(1, params['lr'], weights != 'none', layers)
        state = learn.model.state_dict()
        return run, [tuple(row[k] for k in ('train_loss', 'valid_loss')) for row in learn.history], state
    _, history, state = train(False)
    run, again, same = train(True)
    assert again == history and all(torch.equal(state[k], same[k]) for k in state)
    assert run.record['lr_find']['steps'] > 6 and (run.path/'lr_find.csv').exists()


def test_the_lr_finder_is_skipped_when_training_resumes(tmp_path):
    from imgclf_nb.training.lr_finder import find_rate
    def make(): raise AssertionError('it was run')
    (tmp_path/'checkpoint.safetensors').touch()
    find_rate(Run(tmp_path), make, 1e-3)
    assert not (tmp_path/'lr_find.csv').exists()


def test_a_kernel_of_the_user_is_not_used(tmp_path):
    "A kernel specification called python3 in the home folder starts something else"
    spec = tmp_path/'kernels'/'python3'
    spec.mkdir(parents=True)
    write_json(spec/'kernel.json', dict(argv=['/nowhere/python', '{connection_file}'], display_name='x', language='python'))
    code = '''
import sys
from imgclf_nb.base.kernels import PrivateKernel
print(PrivateKernel(kernel_name='python3').kernel_spec.argv[0] == sys.executable)'''
    _, out, err = run_code(code, {**os.environ, 'JUPYTER_DATA_DIR': str(tmp_path)})
    assert out.strip() == 'True', err


FILES = {f'set/{kind}/{i}.jpg': f'{kind}{i}'.encode() for kind in ('disc', 'box') for i in range(3)}


def zip_up(path, files, change=None):
    "A zip of these files; `change` replaces bytes, as other programs write them"
    with zipfile.ZipFile(path, 'w') as archive:
        for name,data in files.items(): archive.writestr(name, data)
    for old,new in (change or {}).items(): path.write_bytes(path.read_bytes().replace(old, new))
    return path


def list_files(folder): return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def test_zips_of_other_programs(tmp_path):
    windows = zip_up(tmp_path/'a.zip', FILES, {b'set/disc/': b'set\\disc\\', b'set/box/': b'set\\box\\'})
    assert list_files(unpack(windows, tmp_path/'a')) == sorted(FILES)
    chinese = {'AAAA/1.jpg': b'1', 'BBBB/1.jpg': b'2'}
    chinese = zip_up(tmp_path/'b.zip', chinese, {b'AAAA': '苹果'.encode('gbk'), b'BBBB': '香蕉'.encode('gbk')})
    assert list_files(unpack(chinese, tmp_path/'b')) == ['苹果/1.jpg', '香蕉/1.jpg']
    long = zip_up(tmp_path/'c.zip', {f'{"é"*200}{i}.jpg': b'1' for i in range(2)})
    names = list_files(unpack(long, tmp_path/'c'))
    assert len(set(names)) == 2 and all(name.endswith('.jpg') for name in names)


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_a_name_that_occurs_twice(tmp_path):
    path = zip_up(tmp_path/'a.zip', FILES)
    with zipfile.ZipFile(path, 'a') as archive: archive.writestr('set/disc/0.jpg', b'disc0')
    assert list_files(unpack(path, tmp_path/'a')) == sorted(FILES)
    with zipfile.ZipFile(path, 'a') as archive: archive.writestr('set/disc/0.jpg', b'another')
    with pytest.raises(UserError, match="'set/disc/0.jpg' twice"): unpack(path, tmp_path/'b')
    assert not (tmp_path/'b').exists() and not list(tmp_path.glob('.b*'))


def test_an_archive_of_archives_is_not_a_set(tmp_path):
    inner = zip_up(tmp_path/'train.zip', FILES).read_bytes()
    with pytest.raises(UserError, match=r'only archives \(train.zip\)'):
        unpack(zip_up(tmp_path/'all.zip', {'train.zip': inner, 'readme.txt': b'x'}), tmp_path/'all')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['all.zip', 'train.zip']
