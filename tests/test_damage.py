"""Bit rot: every file that a command reads back is damaged at random places. The answer is what it is
without the damage, or one sentence that names the file; never another answer, never a traceback"""
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imgclf_nb.core import UserError

MANY = int(os.environ.get('IMGCLF_MUTANTS', 25))  # mutants of each file

pytestmark = pytest.mark.xdist_group('damage')  # one worker makes what they share


def flip(data, rng):
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)

def cut(data, rng):
    del data[rng.randrange(len(data)):]

def zero(data, rng):
    start = rng.randrange(len(data))
    data[start:start+40] = bytes(len(data[start:start+40]))

def swap(data, rng):
    "Two pieces change places: two fields or lines of a table, two tensors"
    n = max(1, len(data)//9)
    a, b = sorted(rng.sample(range(0, len(data) - n + 1), 2))
    if a + n <= b: data[a:a+n], data[b:b+n] = data[b:b+n], data[a:a+n]

def spoil(data, rng):
    "A byte that is not UTF-8, a NUL, a line break, a quote"
    data[rng.randrange(len(data))] = rng.choice(b'\xff\0\n"\r,')

def swap_lines(data, rng):
    "The second fields of two lines"
    lines = bytes(data).split(b'\n')
    if len(lines) < 4: return flip(data, rng)
    a, b = rng.sample(range(1, len(lines) - 1), 2)
    one, two = lines[a].split(b','), lines[b].split(b',')
    place = rng.randrange(min(len(one), len(two)))
    one[place], two[place] = two[place], one[place]
    lines[a], lines[b] = b','.join(one), b','.join(two)
    data[:] = b'\n'.join(lines)

def grow(data, rng):
    "The start again at the end, as after a failed copy"
    data += data[:rng.randrange(1, len(data))]

DAMAGES = (flip, flip, flip, cut, zero, swap, spoil, swap_lines, grow)


def make_mutants(whole, n=MANY):
    "Yields damaged versions of a file's content, and an empty one"
    yield b''
    rng = random.Random(0)
    for i in range(n):
        data = bytearray(whole)
        DAMAGES[i % len(DAMAGES)](data, rng)
        if data != whole: yield bytes(data)


def check_mutants(path, ask, whole=None):
    "For each mutant of a file the same answer, or a sentence with the file's name; how many were refused"
    whole = whole or path.read_bytes()
    right = ask()
    refused = 0
    for mutant in make_mutants(whole):
        path.write_bytes(mutant)
        try: answer = ask()
        except UserError as error:
            assert path.name in str(error) or path.parent.name in str(error), error
            assert 'weights_only' not in str(error) and 'allow_pickle' not in str(error)
            refused += 1
        else: assert answer == right
    path.write_bytes(whole)
    assert ask() == right
    return refused


def summarise(state):
    return {name: (tuple(tensor.shape), tensor.double().sum().item(), hash(tensor.float().numpy().tobytes()))
        for name,tensor in state.items()}


@pytest.fixture(scope='module')
def birds(tmp_path_factory):
    "Twelve images of two classes, each with a smaller copy, and caches of their own"
    top = tmp_path_factory.mktemp('birds')
    patch = pytest.MonkeyPatch()
    for name in ('CACHE', 'RECORDS', 'RUNS'): patch.setenv(f'IMGCLF_{name}', str(top/name.lower()))
    rng = np.random.default_rng(0)
    for i in range(12):
        folder = top/'set'/('crow' if i % 2 else 'wren')
        folder.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8))
        image = small.resize((96, 96), Image.BICUBIC)
        image.save(folder/f'{i}.png')
        image.resize((80, 80)).save(folder/f'{i}, "small".png')
        old = 1_600_000_000 + i
        for path in folder.glob(f'{i}*.png'): os.utime(path, (old, old))
    yield top
    patch.undo()


@pytest.fixture(scope='module')
def facts(birds):
    "The properties, as remembered; the clock of the cache is an hour ahead, so that the files are settled"
    import time

    from imgclf_nb.images import properties
    real = time.time_ns
    patch = pytest.MonkeyPatch()
    patch.setattr(properties.time, 'time_ns', lambda: real() + 3600*10**9)
    yield properties.measure_images(sorted((birds/'set').rglob('*.png')), workers=0)
    patch.undo()


def test_properties(birds, facts):
    from imgclf_nb.images.properties import measure_images
    store, = (birds/'cache'/'facts').glob('*.csv')
    files = sorted((birds/'set').rglob('*.png'))
    assert check_mutants(store, lambda: measure_images(files, workers=0).to_csv()) == 0


def test_one_byte_costs_one_image(birds, facts, monkeypatch, capsys):
    "A byte that is not UTF-8 in one line: one sentence, one image is read again, the next call says nothing"
    from imgclf_nb.images import properties
    store, = (birds/'cache'/'facts').glob('*.csv')
    files = sorted((birds/'set').rglob('*.png'))
    real, read = properties.measure_image, []
    monkeypatch.setattr(properties, 'measure_image', lambda path: read.append(path) or real(path))
    whole = bytearray(store.read_bytes())
    whole[len(whole)//2] = 0xff
    store.write_bytes(whole)
    again = properties.measure_images(files, workers=0)
    assert len(read) == 1 and again.equals(facts) and 'images of 1 of its lines' in capsys.readouterr().out
    properties.measure_images(files, workers=0)
    assert len(read) == 1 and capsys.readouterr().out == ''


def test_properties_of_an_earlier_version_are_used(birds, facts, monkeypatch):
    from imgclf_nb.images import properties
    store, = (birds/'cache'/'facts').glob('*.csv')
    files = sorted((birds/'set').rglob('*.png'))
    whole = store.read_bytes()
    properties._read_rows(store).to_csv(store, index=False)
    monkeypatch.setattr(properties, 'measure_image', lambda path: 1/0)
    assert properties.measure_images(files, workers=0).equals(facts)
    store.write_bytes(whole)


def test_duplicates(birds, facts):
    from imgclf_nb.images.duplicates import find_near_duplicates
    pairs = find_near_duplicates(facts)
    assert len(pairs) == 12
    store, = (birds/'cache'/'copies').glob('*.csv')
    assert check_mutants(store, lambda: find_near_duplicates(facts).to_csv()) == 0


def test_duplicates_of_an_earlier_version(birds, facts, capsys):
    "Without a checksum it is used as it is, unless it names images that there are not"
    from imgclf_nb.images.duplicates import find_near_duplicates
    find_near_duplicates(facts)
    store, = (birds/'cache'/'copies').glob('*.csv')
    whole = store.read_bytes()
    first, _, plain = whole.partition(b'\n')
    assert first.startswith(b'#sha256 ')
    lines = plain.splitlines(keepends=True)
    store.write_bytes(b''.join(lines[:-1]))
    assert len(find_near_duplicates(facts)) == 11
    store.write_bytes(plain.replace(lines[1][:9], b'"00000000'))
    assert len(find_near_duplicates(facts)) == 12 and 'pairs of other images' in capsys.readouterr().out
    store.write_bytes(whole)


@pytest.fixture(scope='module')
def items(birds, facts):
    from imgclf_nb.data import get_items
    return get_items(str(birds/'set'))


@pytest.mark.parametrize('name', ['pixels.bin', 'index.npy', 'recipe.json'])
def test_pixels(items, name):
    from imgclf_nb.images.preprocessing import Preprocessing
    from imgclf_nb.pixels import get_pixels, get_store
    pre = Preprocessing(size=24)
    def ask(): return [np.array(a).tobytes() for a in get_pixels(items, pre, 'wide', workers=0)]
    right = ask()
    folder = get_store(items.attrs['dataset'], pre, 'wide')
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    for mutant in make_mutants(kept[name]):
        for other,data in kept.items(): (folder/other).write_bytes(data)
        (folder/name).write_bytes(mutant)
        assert ask() == right
    shutil.rmtree(folder)


def test_one_damaged_image_is_decoded_alone(items, monkeypatch, capsys):
    import imgclf_nb.pixels as m
    from imgclf_nb.images.preprocessing import Preprocessing
    pre = Preprocessing(size=24)
    folder, = m.fill_stores(items, pre, ('exact',), workers=0)
    with open(folder/'pixels.bin', 'r+b') as file:
        file.seek(24*24*3*5 + 7)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    real, decoded = m.decode, []
    monkeypatch.setattr(m, 'decode', lambda job: decoded.append(job) or real(job))
    pixels = m.get_pixels(items, pre, 'exact', workers=0)
    assert len(decoded) == 1 and capsys.readouterr().out.count('1 of its 24 images are decoded again') == 1
    for i,path in enumerate(items.path): assert np.array_equal(pixels[i], pre.pixels(path))


def test_a_store_of_an_earlier_version_is_used(items, monkeypatch):
    import imgclf_nb.pixels as m
    from imgclf_nb.images.preprocessing import Preprocessing
    pre = Preprocessing(size=20)
    folder, = m.fill_stores(items, pre, ('exact',), workers=0)
    table = np.load(folder/'index.npy')
    np.save(folder/'index.npy', np.array(table[['sha256', 'offset', 'height', 'width', 'channels']].tolist(), table.dtype.descr[:-1]))
    monkeypatch.setattr(m, 'decode', lambda job: 1/0)
    assert len(m.get_pixels(items, pre, 'exact', workers=0)) == 24


def test_features(birds, items):
    from imgclf_nb.models.features import get_frozen_features
    from imgclf_nb.backbones import get_backbone
    model, some = get_backbone('test_resnet', weights='none'), items.head(2)
    def ask(): return get_frozen_features(some, 'test_resnet', 32, weights='none', model=model).tobytes()
    ask()
    store, = (birds/'cache'/'features').glob('*.npz')
    assert check_mutants(store, ask) == 0


def test_heads(birds):
    from imgclf_nb.models import linear_heads
    patch = pytest.MonkeyPatch()
    patch.setattr(linear_heads, 'get_linear_head', lambda x, *args, **kw: (x[:2]*.5, x[0, :2], .1))
    crossed = dict(temperature=1.5, accuracy=.875, rows=np.arange(3), sure=np.full(3, .75))
    patch.setattr(linear_heads, 'cross_validate', lambda *args, **kw: crossed)
    rng = np.random.default_rng(0)
    y = np.arange(30) % 2
    x = (rng.normal(size=(30, 4)) + y[:, None]).astype(np.float32)
    def ask():
        head = linear_heads.get_head(x, y, np.arange(30), 2)
        return {name: np.asarray(value).tolist() for name,value in head.items()}
    ask()
    store, = (birds/'cache'/'heads').glob('*.npz')
    assert check_mutants(store, ask) == 0
    patch.undo()


def test_suspicions(birds, items):
    import pandas as pd

    from imgclf_nb.auditing import label_errors
    found = pd.DataFrame(dict(file=items.file[:3], label='crow', suggested='wren', probability=[.9, 1/3, .81], p_label=.1))
    patch = pytest.MonkeyPatch()
    patch.setattr(label_errors, 'find_suspicious', lambda *args: found)
    def ask(): return label_errors.recall_suspicious(items, lambda: None, 'a').to_csv()
    ask()
    store, = (birds/'cache'/'suspicion').glob('*.csv')
    assert check_mutants(store, ask) == 0
    patch.undo()


def test_outliers(birds, items):
    import pandas as pd

    from imgclf_nb.auditing import outliers
    found = pd.DataFrame(dict(file=items.file[:3], label='crow', nearest='wren', distance=[.9, 1/3, .81], ratio=3., expected=.01))
    patch = pytest.MonkeyPatch()
    patch.setattr(outliers, 'find_judged', lambda *args: None)  # they are few
    patch.setattr(outliers, 'find_outliers', lambda *args: found)
    def ask(): return outliers.recall_outliers(items, lambda: None, 'a').to_csv()
    ask()
    store, = (birds/'cache'/'outliers').glob('*.csv')
    assert check_mutants(store, ask) == 0
    patch.undo()


def test_plans(birds, monkeypatch):
    "The execution plan and the precision that were measured: a changed digit would change the results"
    from imgclf_nb.training import autotune
    plan = dict(layout='channels_last', precision='fp32', micro=8)
    monkeypatch.setattr(autotune, '_find_plan', lambda *args: (dict(plan), [dict(seconds=.25)]))
    def ask(): return autotune.get_execution_plan(None, 'test_resnet', 32, 16)
    ask()
    store, = (birds/'cache'/'tuning').glob('test_resnet-*.json')
    assert check_mutants(store, ask) == 0


CARD = dict(arch='test_resnet', classes=['crow', 'wren'], temperature=1.25, preprocessing=dict(size=32, channels=3, mean=[.485]*3))


@pytest.fixture
def run(tmp_path):
    "A run's folder with a model"
    from imgclf_nb.backbones import get_backbone, save_model
    folder = tmp_path/'run'
    folder.mkdir()
    save_model(folder, get_backbone('test_resnet', 2, 'none'), CARD)
    return folder


@pytest.mark.parametrize('name', ['model.safetensors', 'model.json'])
def test_a_model(run, name):
    from imgclf_nb.backbones import load_model
    def ask():
        model, card = load_model(run)
        return summarise(model.state_dict()), {k: v for k,v in card.items()}
    assert check_mutants(run/name, ask) > MANY*.8


def test_a_model_of_an_earlier_version(run):
    "Neither file has a checksum: read as before; weights that are no safetensors get a sentence"
    import json

    from safetensors.torch import load_file, save_file

    from imgclf_nb.backbones import load_model
    state = load_file(run/'model.safetensors')
    save_file(state, run/'model.safetensors')
    (run/'model.json').write_text(json.dumps(CARD))
    assert torch.equal(load_model(run)[0].state_dict()['fc.weight'], state['fc.weight'])
    (run/'model.safetensors').write_bytes(b'?'*100)
    with pytest.raises(UserError, match='model.safetensors is damaged'): load_model(run)


def test_weights_of_another_run(run, tmp_path):
    from imgclf_nb.backbones import get_backbone, load_model, save_model
    other = tmp_path/'other'
    other.mkdir()
    save_model(other, get_backbone('test_resnet', 2, 'none'), CARD)
    shutil.copy(other/'model.safetensors', run)
    with pytest.raises(UserError, match='of another run'): load_model(run)


def test_a_kill_between_two_files_harms_nothing(run):
    "The checksum of the weights is inside them: new weights beside an old model.json are known as such, and read alone"
    from imgclf_nb.base.checksums import read_safetensors, write_safetensors
    tensors, _ = read_safetensors(run/'model.safetensors')
    write_safetensors(run/'model.safetensors', tensors)  # the same command again
    from imgclf_nb.backbones import load_model
    load_model(run)  # the same bits: nothing to say


def test_a_checkpoint(tmp_path):
    from imgclf_nb.training.states import read_checkpoint, write_checkpoint
    facts = dict(epoch=1, step=3, pct_train=.5, train_iter=7, history=[{'valid_loss': .25}], happened=[], scaler={}, seconds=.5,
        counters={}, python=[3, [1, 2], None], numpy=[1, 0, 0.], key={}, way={}, spent=1.)
    path = tmp_path/'checkpoint.safetensors'
    write_checkpoint(path, {'model.w': torch.randn(50), 'rng.torch': torch.get_rng_state()[:200]}, facts)
    def ask():
        tensors, facts = read_checkpoint(path)
        return summarise(tensors), facts
    assert check_mutants(path, ask) > MANY*.8
    assert not list(tmp_path.glob('.*'))


def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch):
    "The disk is full while the checksum is put in: the old checkpoint stays, whole"
    from imgclf_nb.base import checksums
    path = tmp_path/'a.safetensors'
    checksums.write_safetensors(path, dict(w=torch.ones(3)))
    whole = path.read_bytes()
    def fail(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(checksums, 'replace_file', fail)
    with pytest.raises(OSError): checksums.write_safetensors(path, dict(w=torch.zeros(3)))
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]
