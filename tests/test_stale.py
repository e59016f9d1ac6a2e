"Images that change without changing size and time: facts, features and pixels follow their contents"
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from imgclf_nb.backbones import get_backbone
from imgclf_nb.core import UserError
from imgclf_nb.data import get_items
from imgclf_nb.images import contents, properties
from imgclf_nb.images.preprocessing import Preprocessing
from imgclf_nb.images.properties import measure_images
from imgclf_nb.models.features import get_frozen_features
from imgclf_nb.pixels import get_pixels
from imgclf_nb.results.artifacts import get_predictions

KEEP = dict(size=32, resize='squash')


@pytest.fixture
def birds(tmp_path, monkeypatch):
    "A set of bitmaps of one size, and caches of its own; files count as settled at once"
    for name in ('CACHE', 'RECORDS', 'RUNS'):
        monkeypatch.setenv(f'IMGCLF_{name}', str(tmp_path/name))
    monkeypatch.setattr(contents, '_TICK', 0)
    for label,seed in (('crow', 0), ('duck', 100)):
        (tmp_path/'birds'/label).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng(seed + i).integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path/'birds'/label/f'{i}.bmp')
    return tmp_path/'birds'


def swap(a, b):
    "Swap the contents of two files as `cp -p` does, with their times"
    data, times = [o.read_bytes() for o in (a, b)], [o.stat() for o in (a, b)]
    for file,other,time in ((a, data[1], times[0]), (b, data[0], times[1])):
        file.write_bytes(other)
        os.utime(file, ns=(time.st_atime_ns, time.st_mtime_ns))


def replace_by_rsync(a, b):
    "Put b's content in the place of a as `rsync -t` does: a new file, renamed, with a's time"
    new = a.with_name('.incoming')
    shutil.copy(b, new)
    os.utime(new, ns=(a.stat().st_atime_ns, a.stat().st_mtime_ns))
    os.replace(new, a)


def replace_by_mv(a, b):
    "Put b in the place of a with mv; both are as old"
    os.utime(b, ns=(a.stat().st_atime_ns, a.stat().st_mtime_ns))
    os.replace(b, a)


def ignore_times(monkeypatch):
    "A file system without reliable times and inode numbers"
    def get_poor_key(path): return str(path), os.stat(path).st_size, 1, 1, 1
    monkeypatch.setattr(properties, 'get_key', get_poor_key)


def get_hashes(items): return dict(zip(items.file, items.sha256))


@pytest.mark.parametrize('change', [swap, replace_by_rsync, replace_by_mv])
def test_the_key_tells(birds, change):
    a, b = birds/'crow'/'0.bmp', birds/'duck'/'0.bmp'
    before = measure_images([a, b])
    old = a.stat()
    change(a, b)
    assert (a.stat().st_size, a.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    assert measure_images([a]).sha256[0] == before.sha256[1]


def test_a_link_to_another_file(birds):
    link = birds.parent/'link.bmp'
    link.symlink_to(birds/'crow'/'0.bmp')
    os.utime(birds/'duck'/'0.bmp', ns=(1, 10**9))
    os.utime(birds/'crow'/'0.bmp', ns=(1, 10**9))
    before = measure_images([link]).sha256[0]
    link.unlink()
    link.symlink_to(birds/'duck'/'0.bmp')
    assert measure_images([link]).sha256[0] != before


def test_a_turned_orientation_flag(birds):
    file = birds/'crow'/'photo.jpg'
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.effect_mandelbrot((40, 20), (-2, -1, 1, 1), 20).convert('RGB').save(file, exif=exif)
    before = get_items(str(birds)).set_index('file').loc['crow/photo.jpg']
    old, data = file.stat(), file.read_bytes()
    at = data.index(b'\x01\x12') + 8  # tag, type, count, then the value
    with open(file, 'r+b') as o:
        o.seek(at)
        o.write(b'\x00\x06')
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    items = get_items(str(birds))
    now = items.set_index('file').loc['crow/photo.jpg']
    assert Image.open(file).getexif()[0x0112] == 6 and file.stat().st_size == old.st_size
    assert now.sha256 != before.sha256
    assert measure_images([file]).orientation[0] == 6
    shape = get_pixels(items[items.file == 'crow/photo.jpg'], Preprocessing(size=16), 'wide')[0].shape
    assert shape[0] > shape[1]  # upright


def test_changed_in_the_moment_of_reading(birds, monkeypatch):
    "A change within one tick of the clock keeps the key: facts of fresh files are not used again"
    monkeypatch.undo()
    monkeypatch.setenv('IMGCLF_CACHE', str(birds.parent/'CACHE'))
    a, b = birds/'crow'/'0.bmp', birds/'duck'/'0.bmp'
    key = properties.get_key(a)
    monkeypatch.setattr(properties, 'get_key', lambda path: key)
    before = measure_images([a]).sha256[0]
    swap(a, b)
    assert measure_images([a]).sha256[0] != before


def test_settled_files_are_not_read_again(birds, monkeypatch):
    files = sorted(birds.rglob('*.bmp'))
    first = measure_images(files)
    def refuse(path): raise AssertionError('read again')
    monkeypatch.setattr(properties, 'measure_image', refuse)
    pd.testing.assert_frame_equal(measure_images(files, workers=0), first)


def test_without_times_a_sample_tells(birds, monkeypatch, capsys):
    ignore_times(monkeypatch)
    before = get_items(str(birds))
    swap(birds/'crow'/'0.bmp', birds/'duck'/'0.bmp')
    after = get_items(str(birds))
    assert get_hashes(after)['crow/0.bmp'] == get_hashes(before)['duck/0.bmp']
    assert after.attrs['data_hash'] != before.attrs['data_hash']
    said = capsys.readouterr().out
    assert '2 of 12 images that were read again have another content' in said


def test_a_partial_sample_says_how_much(birds, capsys):
    get_items(str(birds))
    measure_images(sorted(birds.rglob('*.bmp')), check=1e-9)
    assert '0 of 12 known images were read again: unchanged.' in capsys.readouterr().out


def test_facts_of_another_version_are_read_again(birds):
    files = sorted(birds.rglob('*.bmp'))
    first = measure_images(files)
    store, = (birds.parent/'CACHE'/'facts').glob('*.csv')
    old = pd.read_csv(store, dtype=str, keep_default_na=False).drop(columns=['ctime', 'inode', 'seen'])
    old.assign(sha256='0'*64).to_csv(store, index=False)
    pd.testing.assert_frame_equal(measure_images(files), first)


def test_features_and_pixels_follow(birds):
    model, pre = get_backbone('test_resnet', weights='none'), Preprocessing(**KEEP)
    def see():
        items = get_items(str(birds)).iloc[[0, 6]]
        pixels = get_pixels(items, pre, 'exact')
        x = get_frozen_features(items, 'test_resnet', 32, model=model)
        return items, x, [np.array(pixels[i]) for i in range(2)]
    items, x, pixels = see()
    swap(*[Path(path) for path in items.path])
    again, other, swapped = see()
    assert list(again.sha256) == list(items.sha256)[::-1]
    assert np.array_equal(other, x[::-1]) and not np.array_equal(x[0], x[1])
    assert np.array_equal(swapped[0], pixels[1]) and np.array_equal(swapped[1], pixels[0])


USES = dict(
    features=lambda items, model, pre: get_frozen_features(items, 'test_resnet', 32, model=model),
    pixels=lambda items, model, pre: get_pixels(items, pre, 'exact'),
    uncached=lambda items, model, pre: get_pixels(items, pre, 'exact', cache=False)[0],
    evaluation=lambda items, model, pre: get_predictions(model, items.assign(split='valid'), pre))


@pytest.mark.parametrize('use', USES)
def test_a_change_after_the_facts_stops_and_is_read_again(birds, use, monkeypatch):
    "Even where times and inodes tell nothing, `run again` reads the file again"
    ignore_times(monkeypatch)
    monkeypatch.setattr(contents, 'find_changed', lambda files, seconds: (len(files), []))
    monkeypatch.setattr(properties, 'find_changed', contents.find_changed)
    model, pre = get_backbone('test_resnet', 2, 'none'), Preprocessing(classes=['crow', 'duck'], **KEEP)
    items = get_items(str(birds))
    swap(Path(items.path[0]), Path(items.path[6]))
    with pytest.raises(UserError, match='crow/0.bmp: it has changed since .* Run again'):
        USES[use](items.iloc[[0, 6]], model, pre)
    assert get_items(str(birds)).sha256[0] == items.sha256[6]


def test_a_file_that_is_gone_stops(birds):
    items, model = get_items(str(birds)), get_backbone('test_resnet', weights='none')
    Path(items.path[3]).unlink()
    with pytest.raises(UserError, match='crow/3.bmp: it can no longer be read'):
        get_frozen_features(items, 'test_resnet', 32, model=model)


def test_duplicates_follow(birds, monkeypatch):
    "Pairs are looked for in the contents of now, also within one process, and kept only for them"
    from imgclf_nb.images.duplicates import find_near_duplicates, get_similarity
    a, b, c = birds/'crow'/'0.bmp', birds/'crow'/'1.bmp', birds/'duck'/'0.bmp'
    assert get_similarity(a, b) < .5
    swap(b, c)
    b.write_bytes(a.read_bytes())
    assert get_similarity(a, b) > .99
    facts = measure_images([a, b, c])
    os.utime(c)
    find_near_duplicates(facts)
    assert not list((birds.parent/'CACHE'/'copies').glob('*.csv'))
    find_near_duplicates(measure_images([a, b, c]))
    assert list((birds.parent/'CACHE'/'copies').glob('*.csv'))
