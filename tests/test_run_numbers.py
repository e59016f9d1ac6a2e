"One interval for one number, and paired tests that survive images and predictions of every kind"
import warnings
from dataclasses import replace

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import norm

from imgclf_nb import comparison
from imgclf_nb.results.class_metrics import get_class_table
from imgclf_nb.results.leaderboard import summarise_runs
from imgclf_nb.results.metrics import get_metrics, summarise_evaluation
from imgclf_nb.base.runs import Run
from imgclf_nb.core import UserError
from imgclf_nb.stats.calibration import get_ece
from imgclf_nb.stats.class_means import combine_shares, get_balanced_accuracy
from imgclf_nb.stats.intervals import get_share, get_unit_share, resample_units
from imgclf_nb.stats.metric_values import VALUES, get_metric_value, get_value
from imgclf_nb.stats.paired_tests import METRICS, Answers, compare_answers, compare_classes, get_p_value
from imgclf_nb.stats.roc_pr import get_auc_interval, get_precision_interval
from test_comparison import make

ENDS = ('value', 'low', 'high')


def draw(seed=0, n=90, k=2, units=0, skill=2.):
    "Predictions of a model that is right more often the larger its skill; `units` groups, or single images"
    rng = np.random.default_rng(seed)
    targs = rng.integers(0, k, n)
    score = rng.normal(size=(n, k)) + skill*np.eye(k)[targs]
    probs = np.exp(score)/np.exp(score).sum(1, keepdims=True)
    groups = np.unique(rng.integers(0, units, n) if units else np.arange(n), return_inverse=True)[1]
    return Answers(targs, probs.argmax(1), probs, groups, 1 if k == 2 else None)


def vary(a, rows, seed=1):
    "The same predictions, but others for these images"
    other = draw(seed, len(a.targs), a.probs.shape[1]).probs
    probs = a.probs.copy()
    probs[rows] = other[rows]
    return replace(a, probs=probs, preds=probs.argmax(1))


@pytest.mark.parametrize('units', (0, 12))
@pytest.mark.parametrize('k', (2, 5))
def test_the_headline_the_value_and_the_class_table_have_one_interval(k, units):
    a = draw(k=k, units=units)
    headline = get_metrics(a, draws=50)
    for metric in VALUES:
        if metric in ('auc', 'average_precision') and k > 2: continue
        alone, value = get_metric_value(a, metric), get_value([a], metric)
        for end in ENDS: assert headline[metric][end] == alone[end] == value[end], metric
    if k == 2:
        row = get_class_table(a, ['no', 'yes']).loc['yes']
        assert [headline['auc'][o] for o in ENDS] == [row[o] for o in ('roc_auc', 'roc_auc_low', 'roc_auc_high')]


def test_the_leaderboard_has_the_interval_of_the_headline(tmp_path):
    d = make(tmp_path, 'run', .97, n=68, groups=False)
    table = pd.read_csv(d/'predictions.csv').query("split == 'valid'")
    right = (table.label == table.predicted).to_numpy()
    row = summarise_runs([Run(d)])
    assert (row['low'], row['high']) == tuple(get_share(right.sum(), 68)[o] for o in ('low', 'high'))


def test_66_of_68_on_the_leaderboard_is_wilsons():
    targs = np.zeros(68, int)
    a = Answers(targs, (np.arange(68) < 2)*1, np.tile([.9, .1], (68, 1)), np.arange(68), 1)
    found = get_value([a])
    assert (round(found['low'], 3), round(found['high'], 3)) == (.899, .992)


def test_few_seeds_are_never_surer_than_one():
    one = draw(n=68, skill=4)
    for seeds in (2, 3):
        several = [one] + [vary(one, rows, seed) for seed,rows in enumerate([[0], [1]])][:seeds - 1]
        found, alone = get_value(several), [get_value([o]) for o in several]
        assert found['high'] - found['low'] >= np.mean([o['high'] - o['low'] for o in alone]) - 1e-9
    apart = [draw(seed, 400, skill=skill) for seed,skill in ((0, 1), (0, 4))]
    found = get_value([apart[0], replace(apart[1], targs=apart[0].targs, units=apart[0].units)])
    assert found['high'] - found['low'] > .5  # two seeds that differ by so much tell little about a third


@pytest.mark.parametrize('metric', METRICS)
def test_a_difference_in_one_unit_none_or_all_has_a_test(metric):
    a = draw(units=8)
    for rows in ([], [0], np.flatnonzero(a.units == 3), a.units < 2, a.units >= 0):
        d = compare_answers([a], [vary(a, rows)], metric, 60)
        assert 0 <= d['p'] <= 1 and d['low'] <= d['difference'] <= d['high'], (metric, rows)
    one = vary(a, a.units == 3)
    p = compare_answers([a], [one], metric, 60)['p']
    assert p == 1 or metric == 'auc' and p > .2  # ranks of the other units change a little
    assert compare_answers([a], [a], metric, 60)['verdict'] == 'no difference found'
    alone = a.take(a.units == 3)
    try: assert compare_answers([alone], [vary(alone, [0])], metric, 60)['test'] == 'no test: one unit'
    except UserError as e: assert 'single class' in str(e)


@settings(max_examples=12, derandomize=True, deadline=None)
@given(st.integers(1, 12), st.sampled_from([2, 3, 40]), st.integers(0, 4), st.integers(1, 2), st.integers(0, 99), st.sampled_from(list(METRICS)))
def test_anything_can_be_compared_or_says_why_not(n, k, units, seeds, seed, metric):
    a = [draw(seed + i, n, k, units) for i in range(seeds)]
    a = [replace(o, targs=a[0].targs, units=a[0].units) for o in a]
    b = [vary(o, np.arange(n) < seed % (n + 1), seed + 7) for o in a]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        try: d, value = compare_answers(a, b, metric, 30), get_value(a, metric)
        except UserError as e:
            assert 'two classes' in str(e) or 'single class' in str(e)
            return
        assert 0 <= d['p'] <= 1 and d['low'] <= d['difference'] <= d['high']
        assert value['low'] <= value['value'] <= value['high']
        t = compare_classes(a, b, [str(i) for i in range(k)], 30)
        assert len(t) == len(set(a[0].targs)) and t.p.between(0, 1).all() and get_metrics(a[0], draws=30)


@pytest.mark.parametrize('groups', (True, False))
def test_runs_that_differ_in_one_group_are_compared_class_by_class(tmp_path, monkeypatch, groups):
    first, second = make(tmp_path, 'first', .9, groups=groups), make(tmp_path, 'second', .9, groups=groups)
    table = pd.read_csv(second/'predictions.csv')
    row = table.index[(table.split == 'valid') & (table.label == table.predicted)][0]
    table.loc[row, ['predicted', 'p_no', 'p_yes']] = ['no', .9, .1] if table.predicted[row] == 'yes' else ['yes', .1, .9]
    table.to_csv(second/'predictions.csv', index=False)
    for metric in METRICS if groups else ['accuracy', 'auc']:
        d = comparison.compare_runs(str(first), str(second), metric, draws=100)
        assert d['verdict'] == 'no difference found' and d['p'] > .2 and comparison.describe_comparison(d)
    assert (comparison.get_class_effects(str(first), str(second)).p == 1).all()


def get_direct_delong(first, second):
    "DeLong's z and p-value of two areas on single images, from all pairs of images"
    positive = first.targs == 1
    wins = []
    for o in (first, second):
        high, low = o.probs[positive, 1][:,None], o.probs[~positive, 1]
        wins.append((high > low) + .5*(high == low))
    gap = wins[0] - wins[1]
    error = np.sqrt(gap.mean(1).var(ddof=1)/positive.sum() + gap.mean(0).var(ddof=1)/(~positive).sum())
    return gap.mean()/error, 2*norm.sf(abs(gap.mean()/error))


@pytest.mark.parametrize('units', (0, 30))
def test_the_p_value_of_areas_does_not_depend_on_the_scale(units):
    a, b = draw(3, 120, units=units, skill=1.6), draw(4, 120, skill=.9)
    b = replace(b, targs=a.targs, units=a.units)
    b = replace(b, probs=(b.probs + a.probs)/2)
    p = get_p_value([a], [b], 'auc')[0]
    for bend in (lambda s: s**4, lambda s: np.log(s/(1 - s))):
        bent = replace(b, probs=np.c_[b.probs[:,0], bend(b.probs[:,1])])
        assert get_p_value([a], [bent], 'auc')[0] == p
        assert get_p_value([bent], [a], 'auc')[0] == pytest.approx(p, abs=.03)
    if not units: assert p == pytest.approx(get_direct_delong(a, b)[1], abs=.03)
    same = replace(a, probs=a.probs**3)  # other numbers, the same ranking
    d = compare_answers([a], [same], 'auc', 60)
    assert d['p'] == 1 and d['low'] < 0 < d['high']


@pytest.mark.parametrize('claimed, right, n', [(.999, 20, 20), (.98, 98, 100), (.9, 59, 60), (.5, 10, 20), (.6, 0, 30), (.97, 1000, 1000)])
@pytest.mark.parametrize('groups', (1, 5))
def test_the_calibration_error_reaches_as_far_as_the_accuracy(claimed, right, n, groups):
    targs = (np.arange(n) >= right)*1
    units = np.arange(n)//groups
    found = get_ece(np.tile([claimed, 1 - claimed], (n, 1)), targs, units, resample_units(int(units.max()) + 1, 200))
    accuracy = get_unit_share(targs == 0, targs >= 0, units)
    for end in ('low', 'high'): assert found['high'] >= abs(claimed - accuracy[end]) - 1e-9
    assert 0 <= found['low'] <= found['value'] <= found['high'] <= 1


def test_both_calibration_errors_are_named():
    a = draw(k=3)
    m = get_metrics(a, draws=50)
    right, confidence = a.preds == a.targs, a.probs.max(1)
    edges = np.linspace(0, 1, 16)
    direct = sum(abs((right[o] - confidence[o]).sum()) for o in [(confidence > low) & (confidence <= high) for low,high in zip(edges, edges[1:])])
    assert m['ece_15']['value'] == pytest.approx(direct/90) and m['ece_15']['low'] <= m['ece_15']['value'] <= m['ece_15']['high']
    said = summarise_evaluation(m, 'test', a, ['a', 'b', 'c'], None, 1.)
    assert 'corrected for chance' in said and 'usual 15 bins' in said
    old = {k: v for k,v in m.items() if k != 'ece_15'}  # as runs before kept them
    assert 'Expected calibration error' in summarise_evaluation(old, 'test', a, ['a', 'b', 'c'], None, 1.)


def test_a_rare_class_that_is_all_correct_is_not_certain():
    targs = np.r_[np.zeros(200, int), 1, 1]
    a = Answers(targs, targs.copy(), np.eye(2)[targs], np.arange(202), 1)
    assert get_metric_value(a, 'balanced_accuracy')['low'] < .72 and get_metric_value(a, 'average_precision')['low'] < .1
    assert get_metric_value(a, 'macro_f1')['low'] < .85 and get_metric_value(a, 'auc')['low'] < .2
    assert get_metric_value(a, 'log_loss')['high'] > .3 and get_metric_value(a, 'brier')['high'] > .01


def test_many_classes_are_not_certain_either():
    "Unlike the sum of their intervals, the mean over 100 classes of two images is as sure as 200 images"
    of_all = get_share(180, 200)
    mean = combine_shares([get_share(2, 2)]*80 + [get_share(1, 2)]*20)
    assert mean['low'] == pytest.approx(of_all['low'], abs=.02) and mean['high'] == pytest.approx(of_all['high'], abs=.02)


def test_groups_of_several_classes_are_not_independent():
    rng = np.random.default_rng(0)
    targs, units = np.tile([0, 1], 100), np.repeat(np.arange(40), 5)
    wrong = rng.random(40)[units] < .2
    a = Answers(targs, np.where(wrong, 1 - targs, targs), np.eye(2)[targs], units, 1)
    mixed = get_balanced_accuracy(a)
    accuracy = get_metric_value(a, 'accuracy')
    assert mixed['high'] - mixed['low'] > .8*(accuracy['high'] - accuracy['low'])


@pytest.mark.parametrize('get', (get_auc_interval, get_precision_interval))
def test_one_case_tells_nothing_and_no_case_is_undefined(get):
    score = np.arange(20)[::-1]
    assert [get(np.arange(20) < 1, score, np.arange(20))[o] for o in ENDS] == [1, 0, 1]
    assert np.isnan(get(np.zeros(20, bool), score, np.arange(20))['value'])
    one_patient = np.where(np.arange(20) < 8, 0, np.arange(20))
    assert [get(np.arange(20) < 8, score, one_patient)[o] for o in ENDS] == [1, 0, 1]


@pytest.mark.parametrize('metric, least', [('auc', .84), ('average_precision', .84)])
def test_near_one_the_interval_still_contains_the_truth(metric, least):
    "20 positive of 220 images, true area .983: the bootstrap's percentiles held in .86, DeLong's logit in .88 of 500"
    truth = dict(auc=norm.cdf(3/2**.5), average_precision=.900)[metric]
    held = []
    for seed in range(40):
        ill = np.arange(220) < 20
        score = np.random.default_rng(seed).normal(size=220) + 3*ill
        get = dict(auc=get_auc_interval, average_precision=get_precision_interval)[metric]
        found = get(ill, score, np.arange(220))
        held.append(found['low'] <= truth <= found['high'])
    assert np.mean(held) >= .925


def test_the_order_of_images_changes_no_interval():
    "A class within one unit, half right: its sum of parts is 0 but for errors of computation"
    from imgclf_nb.stats.class_means import get_balanced_accuracy, get_macro_f1
    from imgclf_nb.stats.paired_tests import Answers
    for seed in range(40):
        rng = np.random.default_rng(seed)
        units = np.r_[np.zeros(21, int), np.arange(1, 10)]
        a = Answers(rng.integers(0, 10, 30), rng.integers(0, 10, 30), np.eye(10)[:1].repeat(30, 0), units)
        order = rng.permutation(30)
        b = Answers(a.targs[order], a.preds[order], a.probs, rng.permutation(10)[units][order])
        for get in (get_balanced_accuracy, get_macro_f1):
            one, other = [[get(o)[k] for k in ('value', 'low', 'high')] for o in (a, b)]
            assert np.allclose(one, other, atol=1e-6), seed
