"Augmentation policies compared: the rows that a finished study gives, and the policies themselves on every kind of image"
import json, shutil

import numpy as np
import pytest

from conftest import ROOT
from imgclf_nb.augmentation import POLICIES, augment, get_parts, get_policy
from imgclf_nb.core import UserError
from imgclf_nb.images.preprocessing import Preprocessing
from imgclf_nb.results.measured import keep_measured, read_measured
from imgclf_nb.results.measured_sentences import say_measured

PAIRS = (('medium', 'none'), ('albumentations', 'none'), ('albumentations', 'medium'))
TRAINED = dict(git_commit='0fb65b4e42dbf564', started='2026-11-26T01:00:00+00:00', environment=dict(platform='another', device='cpu, 2 cores'))


def make_comparison(a, b, difference=.2, p=1e-5, verdict='better'):
    "A row of compare_runs"
    return dict(a=a, b=b, difference=difference, low=difference - .05, high=difference + .05, p=p, verdict=verdict, n=371, seeds=5)


def make_corrupted(a, b, corruption):
    "A row of corrupted.csv"
    return dict(a=a, b=b, corruption=corruption, accuracy_a=.3, accuracy_b=.1, difference=.2, low=.15, high=.26, drop_a=.25, drop_b=.4,
        drop_difference=-.15, drop_low=-.3, drop_high=.01)


@pytest.fixture
def studies(tmp_path, monkeypatch):
    "A finished study of three policies and one of its trainings, as far as rows are read from them"
    monkeypatch.syspath_prepend(ROOT/'benchmarks')
    shutil.copytree(ROOT/'benchmarks'/'results', tmp_path/'results')
    record = dict(TRAINED, status='done', complete=True, runs=['one'], git_commit='another',
        comparisons=[make_comparison(a, b) for a,b in PAIRS[:2]] + [make_comparison(*PAIRS[2], .01, .6, 'no difference found')],
        policies=[dict(policy=policy, train_seconds=seconds) for policy,seconds in (('none', 50.04), ('medium', 55.), ('albumentations', 70.))],
        corrupted=[make_corrupted(a, b, kind) for a,b in PAIRS for kind in ('clean', 'all corruptions', 'blur')])
    for name, content in (('aug-pc_parts', record), ('one', TRAINED)):
        (tmp_path/'runs'/name).mkdir(parents=True)
        (tmp_path/'runs'/name/'run.json').write_text(json.dumps(content))
    return tmp_path


def test_a_finished_study_becomes_rows(studies):
    from policies import get_rows
    tables = get_rows('pc_parts', studies/'runs', parts=False, busy=False)
    rows = tables['policies']
    assert [(row['policy'], row['against'], row['p']) for row in rows] == [(*PAIRS[0], '< 0.001'), (*PAIRS[1], '< 0.001'),
        (*PAIRS[2], 'no difference found')]
    assert rows[0]['gain_points'] == dict(value=20., low=15., high=25.) and rows[0]['commit'] == '0fb65b4'
    assert (rows[2]['seconds'], rows[2]['against_seconds'], rows[0]['against_seconds']) == (70., 55., 50.)
    assert "-y 'policies: [none, medium, albumentations]'" in rows[0]['command'] and '-p run aug-pc_parts' in rows[0]['command']
    assert [len(tables['corrupted']), tables['corrupted'][0]['drop'], tables['corrupted'][0]['drop_points']['high']] == [3, .25, 1.]
    for table in tables: assert tables[table][2] in keep_measured(table, tables[table], studies/'results').rows
    busy = get_rows('pc_parts', studies/'runs', parts=False, busy=True)['policies'][0]
    assert busy['seconds'] is None and 'other work' in busy['note'] and 'note' not in rows[0]


def test_rows_say_what_makes_a_policy(studies):
    from policies import get_rows
    for table, rows in get_rows('pc_parts', studies/'runs', parts=False, busy=False).items(): keep_measured(table, rows, studies/'results')
    where = dict(set='pc_parts', policy='albumentations', against='medium')
    said = say_measured('policies', studies/'results', **where).said[0]
    assert 'by Albumentations' in said and 'against medium (our own warp)' in said and 'took 70 s instead of 55 s' in said
    said = ' '.join(say_measured('corrupted', studies/'results', **where).said)
    assert 'Albumentations) is 30.0 %, that of medium (our own warp) 10.0 %' in said and 'loses 25.0 % there, medium 40.0 %' in said



def test_a_study_that_is_missing_is_refused(studies):
    from policies import get_rows
    with pytest.raises(UserError, match='no finished run aug-instruments'): get_rows('instruments', studies/'runs', False, False)


def test_the_kept_tables_have_a_row_for_each_pair():
    "The question of the PC-parts project is answered from the file: with and without Albumentations, and against our own"
    found = {(row['policy'], row['against']) for row in read_measured('policies').rows if row['set'] == 'pc_parts'}
    assert set(PAIRS) <= found, found
    assert {row['set'] for row in read_measured('corrupted').rows} >= {'pc_parts'}


SHAPES = [(40, 64, 3), (64, 40, 3), (33, 33, 1), (9, 80, 3), (1, 1, 3), (300, 200, 1)]

@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('resize', ['crop', 'squash', 'letterbox'])
def test_albumentations_takes_what_medium_takes(shape, resize):
    "Any shape, channel and way to resize; each part alone and all without it; repeated by its key, and different by epoch"
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pre = Preprocessing(size=32, resize=resize, channels=shape[2])
    parts = get_parts(POLICIES['medium'][1])
    for name in ('', *(f':{part}' for part in parts), *(f'-{part}' for part in parts)):
        policy = get_policy(f'albumentations{name}', 32)
        outs = [augment(image, policy, (0, epoch, 0), pre) for epoch in (0, 0, *range(1, 8))]
        assert {o.shape for o in outs} == {augment(image, get_policy(f'medium{name}', 32), (0, 0, 0), pre).shape}
        assert np.array_equal(outs[0], outs[1]), name
        if min(shape) > 1 and name != ':saturation': assert any(not np.array_equal(outs[0], o) for o in outs[2:]), name


@pytest.mark.parametrize('name', ['albumentations:rotate', 'albumentations:crops', 'albumentation'])
def test_a_part_that_it_lacks_is_refused(name):
    with pytest.raises(UserError, match='crop|albumentations'): get_policy(name, 32)


def make_recorder():
    "A model of two classes that remembers what it was shown, and says the first class"
    import torch

    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.weight = [], torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            self.seen.append(x.numpy().copy())
            return torch.tensor([[1., 0.]]).repeat(len(x), 1)

    return Recorder()


def test_every_model_sees_the_same_corrupted_images():
    "Noise and position too; and the same as a model that is tried alone"
    import imgclf_nb.robustness as robustness
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 32, 32, 3), np.uint8)
    pre, kinds, targs = Preprocessing(size=32, classes=['a', 'b']), robustness.get_corruptions(32), np.array([0, 1, 0, 0, 1])
    models = [make_recorder() for _ in range(3)]
    found = robustness.try_models(models[:2], pixels, pre, kinds, targs)
    alone = robustness.try_corruptions(models[2], pixels, pre, kinds, targs)
    assert len(models[0].seen) == 28 and all(np.array_equal(x, y) and np.array_equal(x, z) for x,y,z in zip(*(m.seen for m in models)))
    assert all(np.array_equal(hits[key], [1, 0, 1, 1, 0]) for hits in (*found, alone) for key in hits) and len(alone) == 28


def test_runs_on_other_images_are_not_compared():
    from imgclf_nb.robustness import Tried, compare_tried
    hits = {('clean', 0): np.ones(4, bool), ('blur', 1): np.array([1, 1, 0, 0], bool)}
    one = Tried(hits, list('abcd'), np.arange(4))
    assert compare_tried([one], [one]).loc['blur', 'difference'] == 0
    with pytest.raises(UserError, match='different images'): compare_tried([one], [Tried(hits, list('abce'), np.arange(4))])
    with pytest.raises(UserError, match='as many seeds'): compare_tried([one, one], [one])


def test_every_policy_is_named_where_one_is_chosen():
    "The parameters' comments, which papermill --help-notebook prints, and the sentences on what makes a policy"
    from imgclf_nb.results.measured_sentences import _LIBRARIES
    assert list(_LIBRARIES) and set(_LIBRARIES) == set(POLICIES)
    for notebook in ('03_baseline', '04_train'):
        assert f"# augmentation: {', '.join(POLICIES)}" in (ROOT/'nbs'/f'{notebook}.ipynb').read_text(encoding='utf-8'), notebook
