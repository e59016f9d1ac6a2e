"What is guaranteed of new images is kept: abstention, a wanted sensitivity, prediction sets, slices; and what is not guaranteed says so"
import json, math, warnings

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binom, binomtest, fisher_exact

from imgclf_nb.core import UserError
from imgclf_nb.reporting.facts import collect, get_example
from imgclf_nb.reporting.model_card import make_card
from imgclf_nb.reporting.result_sections import describe_abstention, describe_operating_point, describe_slices
from imgclf_nb.results.metrics import calibrate
from imgclf_nb.results.operating import choose_operating_point, evaluate_abstention, evaluate_prediction_sets
from imgclf_nb.stats.abstention import choose_abstention, get_risk_coverage, get_selective_risk
from imgclf_nb.stats.calibration import set_temperature
from imgclf_nb.stats.guarantees import count_allowed_errors, get_needed_units
from imgclf_nb.stats.paired_tests import Answers
from imgclf_nb.stats.slices import find_slices
from imgclf_nb.stats.thresholds import choose_threshold

few = settings(max_examples=20, derandomize=True, deadline=None)


@few
@given(st.integers(1, 400), st.sampled_from([.001, .02, .05, .3, .9]), st.sampled_from([.5, .9, .95, .9999]))
def test_allowed_errors_are_those_of_the_exact_bound(n, error, guarantee):
    allowed = count_allowed_errors(n, error, guarantee)
    bound = lambda k: binomtest(k, n, alternative='less').proportion_ci(guarantee, 'exact').high
    if allowed >= 0: assert bound(allowed) <= error + 1e-9
    if allowed + 1 < n: assert bound(allowed + 1) > error - 1e-9
    assert (allowed >= 0) == (n >= get_needed_units(error, guarantee))


@few
@given(st.integers(0, 2**32 - 1), st.sampled_from([5, 59, 60, 200, 700]), st.sampled_from([1, 2, 8]), st.sampled_from([.02, .05, .2]))
def test_what_is_answered_passes_the_exact_test_and_files_have_no_order(seed, n, digits, wanted):
    "Whatever the confidences, tied or not, the errors among the answers are as few as the exact bound allows"
    rng = np.random.default_rng(seed)
    confidence = rng.beta(6, .5, n).round(digits)
    right, units = rng.random(n) < confidence**.3, np.arange(n)
    threshold = choose_abstention(confidence, right, units, wanted)
    o = rng.permutation(n)
    curve, same = [get_risk_coverage(confidence[k], right[k], units, points=6) for k in (slice(None), o)]
    pd.testing.assert_frame_equal(curve, same)
    assert set(curve.threshold) <= set(confidence) and curve.coverage.is_monotonic_increasing and curve.coverage.iloc[-1] == 1
    if threshold is None: return
    answered = confidence >= threshold
    assert binom.cdf((~right)[answered].sum(), answered.sum(), wanted) <= .05 + 1e-9
    assert answered.sum() >= get_needed_units(wanted, .95) and threshold in confidence


def test_the_exact_test_is_never_laxer_than_mapies():
    "MAPIE's p-value for one threshold is Hoeffding and Bentkus's: from ours to e times ours"
    from mapie.risk_control import BinaryClassificationController
    rng = np.random.default_rng(0)
    confidence = rng.uniform(.5, 1, 800)
    right = rng.random(800) < confidence**.15
    thresholds = np.linspace(.5, .95, 10)
    theirs = BinaryClassificationController(lambda x: np.c_[1 - x[:,0], x[:,0]], 'precision', target_level=.95, confidence_level=.95,
        list_predict_params=thresholds, fwer_method='bonferroni')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        theirs.calibrate(confidence[:,None], right.astype(int))
    ours = np.array([binom.cdf((~right & (confidence >= t)).sum(), (confidence >= t).sum(), .05) for t in thresholds])
    assert (theirs.p_values.ravel() >= ours - 1e-9).all() and (theirs.p_values.ravel() <= math.e*ours + 1e-9).all()


def test_more_is_answered_than_by_a_correction_for_all_thresholds():
    "Ten thresholds with Bonferroni's correction, as MAPIE's controller tries them, answer fewer images on average"
    answered, at_most = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(.5, 1, 400)
        right = rng.random(400) < confidence**.15
        threshold = choose_abstention(confidence, right, np.arange(400), .05)
        answered.append(0 if threshold is None else (confidence >= threshold).mean())
        above = [confidence >= t for t in np.linspace(.5, .95, 10)]
        at_most.append(max([o.mean() for o in above if binom.cdf((~right & o).sum(), o.sum(), .05) <= .005], default=0))
    assert np.mean(answered) > np.mean(at_most) > .1


def simulate(rng, n, each=1):
    "Overconfident answers of two classes: the truth of an image follows half of its logit; images of a group are alike"
    units = np.repeat(np.arange(n), each)
    z = rng.normal(.5, 3, n)[units] + .5*rng.normal(size=n*each)
    targs = (rng.random(n*each) < 1/(1 + np.exp(-z))).astype(int)
    p = 1/(1 + np.exp(-2*z))
    return Answers(targs, (p > .5).astype(int), np.c_[1 - p, p], units, 1)


@pytest.mark.parametrize('n, each', [(150, 1), (130, 3)])
def test_guarantees_hold_after_calibration_as_05_does_it(n, each, times=6):
    "The temperature is fitted to the same images; benchmarks/coverages/decisions.py tries it more often"
    world, broken, given = simulate(np.random.default_rng(10**6), 20_000), np.zeros(2), np.zeros(2)
    ill = world.targs == 1
    for seed in range(times):
        raw = simulate(np.random.default_rng(seed), n, each)
        own = np.ones(len(raw.targs), bool)
        t, valid = calibrate(raw, own)
        probs = set_temperature(world.probs, t)
        threshold = evaluate_abstention(valid, world.take(np.arange(len(ill)) < 50), .1)[0]['threshold']
        answered = probs.max(1) >= (2 if threshold is None else threshold)
        wrong = (world.preds != world.targs)[answered].mean() if answered.any() else 0
        point = choose_operating_point(dict(valid=valid), own, ['FINE', 'ILL'], dict(sensitivity=.9))[0]
        sensitivity = (probs[ill, 1] >= point['threshold']).mean()
        broken += [wrong > .1, sensitivity < .9]
        given += [threshold is not None, point['basis'] == 'guaranteed']
    assert (given > [0, times - 2]).all() and (broken <= 1).all(), (broken, given)


def test_one_wrong_of_a_hundred_ends_at_wilsons_limit():
    found = get_selective_risk(np.full(100, .9), np.arange(100) > 0, .5, np.arange(100))
    assert found['error']['high'] == pytest.approx(.0545, abs=1e-4) and found['answered']['low'] == pytest.approx(.963, abs=1e-3)
    none = get_selective_risk(np.full(100, .9), np.arange(100) > 0, None, np.arange(100))
    assert none['answered']['value'] == 0 and np.isnan(none['error']['value'])


@pytest.mark.parametrize('n, wanted, says', [
    (60, .95, 'guaranteed'), (58, .95, 'too few images'), (40, .95, 'too few images'), (1, .5, 'too few images'), (5, .5, 'guaranteed')])
def test_the_rule_says_what_it_is(n, wanted, says):
    truth, p = np.r_[np.ones(n, bool), False], np.r_[np.linspace(.2, .9, n), .1]
    point = choose_threshold(truth, p, sensitivity=wanted)
    assert point['basis'] == says and (p[:n] >= point['threshold']).mean() >= wanted
    assert point['rule'].startswith(f'sensitivity of {wanted:g} or more, with a confidence of')
    assert (f'at least {get_needed_units(1 - wanted, .95)} are needed' in point['note']) == (says != 'guaranteed')
    if says != 'guaranteed': assert point['confidence'] == pytest.approx(1 - wanted**n) and point['rule'].endswith('only')
    average = choose_threshold(truth, p, sensitivity=wanted, guarantee=0)
    assert average['rule'] == f'sensitivity of {wanted:g} or more on average' and average['confidence'] is None


def test_specificity_is_the_mirror_of_sensitivity():
    rng = np.random.default_rng(0)
    truth, p = rng.random(400) < .5, rng.random(400).round(2)
    one, other = choose_threshold(truth, p, sensitivity=.9), choose_threshold(~truth, 1 - p, specificity=.9)
    assert (p >= one['threshold']).sum() == (1 - p < other['threshold']).sum()


def test_old_runs_have_a_card_without_new_entries():
    record, model = get_example()
    record = json.loads(json.dumps(record))
    for entry in (record['operating_point'], record['doubt']['rejection'], record['doubt']['sets']):
        for key in ('basis', 'confidence', 'exchangeable', 'why', 'guarantee', 'units', 'needed', 'unit', 'least', 'by_group'): entry.pop(key, None)
    record.pop('label_ceilings')
    for s in record['slices']: s.pop('p_raw', None)
    card = make_card(record, model)
    assert 'None' not in card and 'not measured' not in card and '(wanted: at most 2.0 %).' in card
    for text in (describe_abstention, describe_operating_point, describe_slices): assert text(collect(record, model))


@pytest.mark.parametrize('units, says', [(12, 'At least 149 images, or groups where images come in groups, all correct, are needed for it, and there are 12.'), (400, '')])
def test_more_images_are_asked_for_only_where_they_are_too_few(units, says):
    record, model = get_example()
    rejection = dict(wanted_error=.02, guarantee=.95, threshold=None, units=units, needed=get_needed_units(.02, .95))
    text = describe_abstention(collect(record | dict(doubt=dict(rejection=rejection)), model))
    assert says in text and ('needed' in text) == bool(says)


@pytest.mark.parametrize('odd', ['x', 3, [1], {}, None, {'threshold': .5, 'basis': [1], 'exchangeable': 'x', 'guarantee': 'x', 'unit': {}}])
def test_entries_of_somebody_else_are_no_crash(odd):
    record, model = get_example()
    assert make_card(record | dict(operating_point=odd, doubt=dict(rejection=odd, sets=odd)), model)
    assert make_card(record | dict(doubt=odd, label_ceilings=odd), model)


def make_sets(rng, sizes, p_group):
    "Answers of two classes whose sets hold the class where the true one gets .9, by group"
    units = np.repeat(np.arange(len(sizes)), sizes)
    held = p_group[units] > rng.random(len(units))
    p = np.where(held, .9, .02) + rng.random(len(units))*.01
    return Answers(np.zeros(len(units), int), (p < .5).astype(int), np.c_[p, 1 - p], units, 1)


def test_sets_are_measured_for_the_unit_of_the_guarantee():
    "A giant group of hard images: 90 % of groups, and far fewer images, have the class in their set"
    rng = np.random.default_rng(0)
    sizes = np.r_[[300], np.full(60, 2)]
    calibrating, asked = make_sets(rng, np.full(60, 3), np.full(60, .95)), make_sets(rng, sizes, np.r_[0., np.full(60, .95)])
    sets, _ = evaluate_prediction_sets(asked, calibrating, ['a', 'b'], .9, 200)
    assert sets['unit'] == 'group' and sets['reached']['value'] < .35 and sets['by_group']['value'] > .85
    assert sets['by_group']['low'] < sets['by_group']['value'] < sets['by_group']['high'] <= 1 and .75 < sets['least'] < .9
    text = describe_abstention(collect(dict(doubt=dict(sets=sets | dict(exchangeable=True, note=''))), {}))
    assert 'nothing is guaranteed for this share' in text and text.index('each group counted once') < text.index('Of all images')
    single, _ = evaluate_prediction_sets(make_sets(rng, np.ones(90, int), np.full(90, .95)), make_sets(rng, np.ones(60, int), np.full(60, .95)), ['a', 'b'], .9, 200)
    assert single['unit'] == 'image' and single['by_group'] == single['reached']


@pytest.mark.parametrize('kind', ['giant', 'pairs', 'one or eight'])
def test_no_slice_is_found_where_all_are_equal(kind):
    "At most 5 of 100, and chance; random signs of groups gave .11 to .23"
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sizes = dict(giant=np.r_[180, rng.integers(1, 5, 39)], pairs=rng.choice([1, 1, 1, 2], 100))
        sizes = sizes.get(kind, rng.choice([1, 1, 8], 60))
        units = np.repeat(np.arange(len(sizes)), sizes)
        hard = rng.beta(.9*2.3, .1*2.3, len(sizes))
        kinds = pd.DataFrame(dict(site=rng.choice(list('pqrs'), len(sizes))[units], size=np.where(sizes > 1, 'many', 'alone')[units],
            camera=rng.choice(list('uvw'), len(units))))
        found += find_slices(kinds, rng.random(len(units)) < hard[units], units, shuffles=199).worse.any()
    assert found <= 6, found


def test_a_bad_slice_is_found_between_groups_and_within_them():
    rng = np.random.default_rng(0)
    units, camera = np.repeat(np.arange(40), 10), np.tile(list('ab'), 200)
    site = np.array(['p', 'q'])[units % 2]
    hard = rng.beta(4, 1, 40)[units]
    within = find_slices(pd.DataFrame(dict(camera=camera)), rng.random(400) < np.where(camera == 'a', hard, hard*.75), units)
    between = find_slices(pd.DataFrame(dict(site=site)), rng.random(400) < np.where(site == 'p', hard, hard*.6), units)
    assert within.iloc[0].worse and within.value[0] == 'b' and between.iloc[0].worse and between.value[0] == 'q'
    assert (within.p >= within.p_raw).all() and within.columns.tolist()[-3:] == ['p', 'p_raw', 'worse']


@pytest.mark.parametrize('units', [np.zeros(30, int), np.arange(30), np.arange(30)//29, np.arange(30)*7])
@pytest.mark.parametrize('right', [0, 1, 15, 29, 30])
def test_slices_of_any_small_data_are_numbers(units, right):
    correct = np.arange(30) < right
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        table = find_slices(pd.DataFrame(dict(a=np.array(list('xyz'))[np.arange(30) % 3], b=np.array(list('uv'))[np.arange(30)//15])), correct, units, shuffles=99)
    assert len(table) == 5 and table.p.between(0, 1).all() and table.p_raw.between(0, 1).all()
    if len(set(units)) == 30:
        row = table[(table.slice == 'b') & (table.value == 'v')].iloc[0]
        assert row.p_raw == pytest.approx(fisher_exact([[(~correct)[15:].sum(), correct[15:].sum()], [(~correct)[:15].sum(), correct[:15].sum()]], 'greater').pvalue)
