"Facts about the real images, counted here independently of the package"
import hashlib, re
from collections import defaultdict

import pytest

from imgclf_nb.data import get_items
from imgclf_nb.images.preprocessing import Preprocessing
from imgclf_nb.splitting import get_splits


@pytest.fixture
def sets(real, monkeypatch):
    monkeypatch.setenv('IMGCLF_DATA', str(real))
    return real


def count(folder): return sum(p.suffix.lower() in ('.jpg', '.jpeg', '.png') for p in folder.rglob('*'))


@pytest.mark.parametrize('name, classes', [('pc_parts', 14), ('cats_vs_dogs', 2), ('fruits360', 30), ('instruments', 10), ('chest_xray', 2)])
def test_every_picture_is_found(sets, name, classes):
    items = get_splits(get_items(name))
    assert len(items) + len(items.attrs['unreadable']) == count(sets/name) and items.label.nunique() == classes and set(items.split) == {'train', 'valid', 'test'}
    for s in ('valid', 'test'): assert set(items[items.split == s].label) == set(items.label)


def test_no_patient_is_in_train_and_valid(sets):
    "With a parser of our own: any number after person or IM, in the given training folder"
    items = get_splits(get_items('chest_xray'))
    given = {'/test/': 'test', '/train/': 'train'}
    sides = defaultdict(set)
    for r in items.itertuples():
        where = next(v for k,v in given.items() if k in r.path)
        assert (r.split == 'test') == (where == 'test')
        sides[where, re.search(r'(person\d+|IM-\d+)', r.path)[1]].add(r.split)
    assert max(map(len, sides.values())) == 1
    assert items.group.nunique() == len(sides)


def test_copies_stay_together(sets):
    items = get_splits(get_items('pc_parts'))
    sides = defaultdict(set)
    for r in items.itertuples(): sides[hashlib.md5(open(r.path, 'rb').read()).hexdigest()].add(r.split)
    assert max(map(len, sides.values())) == 1 and len(sides) < len(items)


def test_films_are_cut_in_arcs(sets):
    items = get_splits(get_items('fruits360'))
    assert (items.sequence != '').all() and (items.group == '').all()
    train = items[items.split != 'test']
    for _,film in train.sort_values('frame').groupby('sequence'):
        v = (film.split == 'valid').to_numpy()
        assert sum(v[i] and not v[i-1] for i in range(len(v))) == 1


def test_instruments_are_pooled(sets):
    items = get_items('instruments')
    assert set(items.split) == {''}


def test_large_grey_films_become_tensors(real):
    files = sorted((real/'chest_xray_fullsize').rglob('*.jpeg'))
    assert len(files) > 20
    for p in files[:8]: assert Preprocessing(size=224, resize='letterbox')(p).shape == (3, 224, 224)
