"Everything that makes folds, for any number of groups and classes: a result without NaN, or a sentence"
import os, unicodedata, warnings

import numpy as np, pandas as pd, pytest
from hypothesis import Phase, given, settings, strategies as st

from imgclf_nb import leakage
from imgclf_nb.auditing import label_errors, outliers, shortcuts
from imgclf_nb.core import UserError
from imgclf_nb.learning_curve import get_part_sizes
from imgclf_nb.models import linear_heads, logistic
from imgclf_nb.splitting import get_fold, get_folds, get_split_table, get_splits
from imgclf_nb.stats.calibration import cross_calibrate, get_unit_folds
from imgclf_nb.stats.intervals import get_units
from imgclf_nb.training.subsets import divide_validation, take_fold, take_images

few = settings(max_examples=int(os.environ.get('EXAMPLES', 8)), derandomize=True, deadline=None, phases=[Phase.generate])


def make_items(labels, groups, sequences=None, split=''):
    "Items with these labels and groups, and the contents 0, 1, 2 …"
    n = len(labels)
    sequences = sequences or ['']*n
    frames = [i if sequence else -1 for i,sequence in enumerate(sequences)]
    files = [f'{i:03}.png' for i in range(n)]
    items = pd.DataFrame(dict(path=files, file=files, label=labels, split=split, group=groups, sequence=sequences, frame=frames,
        copies='', sha256=[f'{i*7919 % 104729:064}' for i in range(n)], width=10, height=10, bytes=100))
    items.attrs.update(dataset='x', unreadable=[], decisions={}, data_hash='h', by_hand=False)
    return items


@st.composite
def draw_items(draw, split=''):
    "2 to 50 images of 2 to 5 classes in 1 to 13 groups: of any labels, of one label each, or some images without a group"
    seed, n, k, g = (draw(st.integers(*o)) for o in ((0, 9999), (2, 50), (2, 5), (1, 13)))
    kind = draw(st.sampled_from(['none', 'any', 'pure', 'some', 'videos']))
    rng = np.random.default_rng(seed)
    group = rng.integers(0, g, n)
    label = group % k if kind == 'pure' else rng.integers(0, k, n)
    labels = [f'c{o}' for o in label]
    if kind == 'videos': return make_items(labels, '', [f'{o}/v{i % 2}' for i,o in enumerate(labels)], split)
    named = dict(none=np.zeros(n), some=rng.random(n) < .5).get(kind, np.ones(n))
    return make_items(labels, [f'g{o}' if is_named else '' for o,is_named in zip(group, named)], split=split)


def make_facts(n, rng):
    "What the shortcuts look at"
    return pd.DataFrame(dict(bytes=rng.integers(100, 9999, n), width=rng.integers(10, 99, n), height=rng.integers(10, 99, n),
        mean=255*rng.random(n), border_red=rng.random(n), border_green=rng.random(n), border_blue=rng.random(n),
        colour=9*rng.random(n), mode=rng.choice(['RGB', 'L'], n), format=rng.choice(['PNG', 'JPEG'], n),
        quality=rng.choice([np.nan, 80.], n)))


def run(function, *args, **kw):
    "The result, or None for a `UserError` with a sentence; any other error and any warning of a library fails"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        try: return function(*args, **kw)
        except UserError as error: assert len(str(error)) > 20


def see(items):
    "`(features, classes as numbers, units)`"
    return np.random.default_rng(1).normal(size=(len(items), 3)), pd.factorize(items.label, sort=True)[0], get_units(items)


@few
@given(draw_items(), st.sampled_from([8, 30, 10_000]))
def test_shortcuts(items, limit):
    table = run(shortcuts.get_shortcuts, items, make_facts(len(items), np.random.default_rng(2)), limit=limit)
    assert table is not None and table.drop(columns=['cue', 'most', 'finding']).astype(float).notna().all(axis=None)


@pytest.mark.parametrize('groups', [2, 12])
def test_shortcuts_of_few_large_groups(groups):
    "36,000 images in 12 groups: the images are thinned out, not the groups"
    n = 36_000
    items = make_items([f'c{i % 2}' for i in range(n)], [f'g{i % groups}' for i in range(n)])
    facts = make_facts(n, np.random.default_rng(0))
    facts['mean'] = np.arange(n) % 2*100.
    table = run(shortcuts.get_shortcuts, items, facts).set_index('cue')
    if groups == 2: assert table.empty  # each class is one group
    else: assert table.score['brightness'] == 1


@few
@given(draw_items())
def test_probes(items):
    x, y, units = see(items)
    p = run(logistic.cross_predict, x, y, units, folds=3)
    assert p is None or np.allclose(p.sum(1), 1)
    assert run(logistic.choose_c, x, y, units, cs=(.1, 1.)) in (None, .1, 1.)
    if len(set(y)) < 2: return
    found = run(linear_heads.cross_validate, x, y, units, 1., False)
    t, accuracy, rows, sure = found.values()
    assert .1 <= t <= 10 and (0 <= accuracy <= 1 or t == 1)
    assert len(rows) == len(sure) and ((sure > 0) & (sure <= 1)).all() and len({*rows}) == len(rows)


@few
@given(draw_items())
def test_label_errors(items):
    found = run(label_errors.find_suspicious, items, see(items)[0])
    assert found is None or found.notna().all(axis=None)


@few
@given(draw_items())
def test_outliers(items):
    found = run(outliers.find_outliers, items, see(items)[0])
    if found is None: return  # too few units
    assert len(items) >= outliers.NEEDED and found.notna().all(axis=None) and len(found)
    assert items.set_index('file').label.value_counts()[found.label.unique()].min() >= outliers.CLASS_NEEDED


@few
@given(draw_items())
def test_leakage(items):
    measured = run(leakage.measure_leakage, items, see(items)[0], 2)
    if measured is None: return
    estimate = run(leakage.get_leakage, measured[0])
    text = leakage.describe_leakage(estimate) + leakage.get_leakage_table(estimate).to_string()
    assert 'nan' not in text.lower()


@few
@given(draw_items(), st.integers(1, 8))
def test_unit_folds(items, folds):
    x, y, units = see(items)
    fold = run(get_unit_folds, y, units, folds)
    assert pd.Series(fold).groupby(units).nunique().max() == 1
    t, p = run(cross_calibrate, np.full((len(y), 5), .2), y, units)
    assert np.isfinite(t) and np.isfinite(p).all()


@few
@given(draw_items(split='train'), st.integers(2, 11), st.integers(0, 10))
def test_folds(items, folds, fold):
    divided = run(take_fold, items, folds, fold)
    if divided is None: return
    assert set(divided[divided.split == 'train'].label) == set(items.label)
    assert (divided.split == 'valid').any()
    grouped = divided[divided.group != '']
    assert (grouped.groupby('group').split.nunique() == 1).all()
    own = get_folds(items, folds)
    assert own.between(-1, folds - 1).all() and len(get_fold(items, own, 0)) <= len(items)


@few
@given(draw_items(), st.integers(1, 60), st.sampled_from([.1, .5, .9]))
def test_splits_and_parts(items, n, share):
    splits = run(get_splits, items)
    if splits is None: return
    assert {'train', 'valid', 'test'} == set(splits.split)
    assert run(get_split_table, splits).pictures.sum() == len(splits)
    assert set(take_images(splits, n).query("split == 'train'").label) == set(items.label)
    parts = divide_validation(splits, share).query("split == 'valid'").part
    assert set(parts) <= {'choose', 'calibrate'} and (parts == 'choose').any()
    assert (parts == 'calibrate').sum() not in range(1, 10)  # enough, or none


NAMES = ['1', '10', '2', '0.5', 'nan', 'None', 'True', 'Äpfel', unicodedata.normalize('NFD', 'é'), '猫', 'собака', 'קיפוד', 'نمر',
    '🐈', 'a b', 'a,b', "d'or", '=1+1', 'zebra', 'Ant']


@few
@given(draw_items(), st.permutations(NAMES))
def test_class_names_decide_nothing(items, names):
    "With other names for the classes the splits, parts and folds are the same"
    renamed = items.assign(label=items.label.map({f'c{i}': name for i,name in enumerate(names[:5])}))
    renamed.attrs = items.attrs
    assert get_folds(items, 3).tolist() == get_folds(renamed, 3).tolist()
    splits, others = run(get_splits, items), run(get_splits, renamed)
    assert (splits is None) == (others is None)
    if splits is None: return
    assert splits.split.tolist() == others.split.tolist()
    assert divide_validation(splits).part.tolist() == divide_validation(others).part.tolist()
    assert sorted(take_images(splits, 9).file) == sorted(take_images(others, 9).file)


@few
@given(st.permutations(NAMES), st.integers(2, 40), st.integers(0, 99))
def test_names_decide_no_part(names, n, seed):
    "Large enough parts are the same too; two classes of six divide, or not, whatever they are called"
    items = make_items([f'c{i % 3}' for i in range(3*n)], '', split='valid')
    renamed = items.assign(label=items.label.map({f'c{i}': name for i,name in enumerate(names[:3])}))
    assert divide_validation(items, seed=seed).part.tolist() == divide_validation(renamed, seed=seed).part.tolist()


@few
@given(st.integers(1, 60), st.integers(2, 12), st.integers(1, 80))
def test_sizes_of_a_learning_curve(n, points, smallest):
    sizes = run(get_part_sizes, n, points, smallest)
    assert sizes is None or (sizes[0] == smallest and sizes[-1] == n)
