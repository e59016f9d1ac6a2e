"""Decisions: the share answered and its errors, thresholds with a guarantee, prediction sets, and slices

A `Case` is an interval that must contain the truth. A `Rate` is something that may happen in 5 of 100 experiments: a guarantee
that is given and broken, or a slice that is called worse although all are equal. `ours` is what users see; the others are
the rule without a guarantee, plain counting, and the tests that came before. All true values are exact."""
from functools import cache, partial

import numpy as np, pandas as pd
from scipy.stats import norm

from coverage import Case, Rate
from groups import draw_hits, draw_sizes, spread
from imgclf_nb.results.metrics import calibrate
from imgclf_nb.stats.abstention import check_prediction_sets, choose_abstention, get_least_coverage
from imgclf_nb.stats.abstention import get_prediction_sets, get_selective_risk
from imgclf_nb.stats.calibration import set_temperature
from imgclf_nb.stats.intervals import get_interval, resample_units
from imgclf_nb.stats.paired_tests import Answers, correct
from imgclf_nb.stats.slices import find_slices
from imgclf_nb.stats.thresholds import choose_threshold


def get_sizes(kind, k, rng):
    "Number of images in each of k groups"
    return np.ones(k, int) if kind == 'single images' else draw_sizes(kind, k, rng)


# ---- the share answered, and the errors among the answers
def draw_answers(rng, kind, k, answered, error, icc):
    "`(confidence, right, units)`: .9 for a share of the images, .3 for the rest; errors among the first"
    sizes = get_sizes(kind, k, rng)
    sure, units = spread(sizes, draw_hits(sizes, answered, icc, rng))
    right, _ = spread(sizes, draw_hits(sizes, 1 - error, icc, rng))
    shuffled = np.lexsort((rng.random(len(units)), units))  # errors and answers are independent inside a group
    return np.where(sure, .9, .3), right[shuffled], units


def ask_ours(data, what):
    confidence, right, units = data
    return get_selective_risk(confidence, right, .5, units)[what]


def ask_percentiles(data, what):
    "The percentiles of resampled groups, as they were before"
    confidence, right, units = data
    sure = confidence > .5
    counts = resample_units(units.max() + 1, 500).astype(float)
    count = lambda of: counts@np.bincount(units[of], minlength=counts.shape[1])
    hits, of = (sure, sure | True) if what == 'answered' else (sure & ~right, sure)
    with np.errstate(all='ignore'): found = count(hits)/count(of)
    return get_interval(found, units.max() + 1)


ANSWERS = [('single images', 100, .7, .01, 0), ('single images', 60, .9, .05, 0), ('single images', 1000, .5, .03, 0),
    ('groups of 5', 20, .7, .05, .3), ('groups of 20', 10, .7, .05, .3), ('groups of 1 to 8', 40, .9, .05, .3),
    ('log-normal groups', 40, .7, .1, .3), ('one giant group', 40, .7, .1, .3), ('one giant group', 10, .7, .1, .8)]
CASES = [Case('the share answered' if what == 'answered' else 'the error among the answers',
    f'{k} {kind}, {answered:g} answered with an error of {error:g}, intraclass correlation {icc:g}',
    partial(draw_answers, kind=kind, k=k, answered=answered, error=error, icc=icc), answered if what == 'answered' else error,
    dict(ours=partial(ask_ours, what=what), percentiles=partial(ask_percentiles, what=what)), 500, kind)
    for kind,k,answered,error,icc in ANSWERS for what in ('answered', 'error')]


# ---- the abstention threshold: is the error among new images higher than wanted?
def get_power_error(threshold, power):
    "True error above a threshold, if the confidence is uniform from .5 to 1 and the accuracy is confidence**power"
    return 1 - (1 - threshold**(power + 1))/(power + 1)/(1 - threshold)


def draw_confidence(rng, kind, k, power, icc):
    "`(confidence, right, units)`: images of one group share their confidence, and their correctness by `icc`"
    sizes = get_sizes(kind, k, rng)
    confidence = rng.uniform(.5, 1, k)
    right, units = spread(sizes, draw_hits(sizes, confidence**power, icc, rng))
    return confidence[units], right, units


def breaks_error(data, power, wanted, guarantee):
    threshold = choose_abstention(*data, wanted, guarantee)
    return threshold is not None and get_power_error(threshold, power) > wanted


CONFIDENCES = [(kind, k, power, icc, wanted) for kind,k,icc in (('single images', 60, 0), ('single images', 200, 0), ('single images', 1000, 0),
    ('groups of 5', 200, .3), ('groups of 1 to 8', 100, .8), ('one giant group', 100, .3), ('log-normal groups', 300, 0))
    for power,wanted in ((.4, .05), (.15, .05), (1, .2))]
CASES += [Rate('the error among the answers is higher than guaranteed',
    f'{k} {kind}, accuracy = confidence^{power:g}, intraclass correlation {icc:g}, wanted {wanted:g}',
    partial(draw_confidence, kind=kind, k=k, power=power, icc=icc), .05,
    dict(ours=partial(breaks_error, power=power, wanted=wanted, guarantee=.95), estimate=partial(breaks_error, power=power, wanted=wanted, guarantee=0)),
    1000, kind) for kind,k,power,icc,wanted in CONFIDENCES]


# ---- the threshold for a wanted sensitivity: is that among new images lower?
def draw_scores(rng, kind, k, alike):
    "`(scores, units)` of positive images; `alike` is the correlation inside a group, all are standard normal"
    sizes = get_sizes(kind, k, rng)
    units = np.repeat(np.arange(k), sizes)
    return alike**.5*rng.normal(size=k)[units] + (1 - alike)**.5*rng.normal(size=len(units)), units


def breaks_sensitivity(data, wanted, guarantee):
    scores, units = data
    truth = np.r_[np.ones(len(scores), bool), False]
    point = choose_threshold(truth, np.r_[scores, -9.], sensitivity=wanted, units=np.r_[units, units.max() + 1], guarantee=guarantee)
    promised = point['basis'] == ('guaranteed' if guarantee else 'on average')
    return promised and norm.sf(point['threshold']) < wanted


SCORES = [(kind, k, alike, wanted) for kind,k,alike in (('single images', 60, 0), ('single images', 100, 0), ('single images', 1000, 0),
    ('groups of 5', 60, .8), ('groups of 20', 60, .3), ('groups of 1 to 8', 150, .5), ('one giant group', 80, .3), ('log-normal groups', 100, .8))
    for wanted in (.9, .95)]
CASES += [Rate('the sensitivity is lower than guaranteed', f'{k} {kind} of positives, correlation {alike:g}, wanted {wanted:g}',
    partial(draw_scores, kind=kind, k=k, alike=alike), .05,
    dict(ours=partial(breaks_sensitivity, wanted=wanted, guarantee=.95), average=partial(breaks_sensitivity, wanted=wanted, guarantee=0)),
    1000, kind) for kind,k,alike,wanted in SCORES]


# ---- both, as 05 does it: the temperature is fitted to the same images
def draw_raw(rng, n, each):
    "Overconfident answers of two classes, of n groups: the truth of an image follows half of its logit"
    units = np.repeat(np.arange(n), each)
    z = rng.normal(.5, 3, n)[units] + .5*rng.normal(size=n*each)
    p = 1/(1 + np.exp(-2*z))
    return Answers((rng.random(n*each) < 1/(1 + np.exp(-z))).astype(int), (p > .5).astype(int), np.c_[1 - p, p], units, 1)


@cache
def get_world():
    "Many new images"
    return draw_raw(np.random.default_rng(1), 50_000, 1)


def breaks_after_calibration(raw, what):
    "Is the error among the answers higher, or the sensitivity lower, than guaranteed?"
    world, own = get_world(), np.ones(len(raw.targs), bool)
    t, valid = calibrate(raw, own)
    probs = set_temperature(world.probs, t)
    if what == 'error':
        threshold = choose_abstention(valid.probs.max(1), valid.preds == valid.targs, valid.units, .1)
        answered = probs.max(1) >= (2 if threshold is None else threshold)
        return answered.any() and (world.preds != world.targs)[answered].mean() > .1
    point = choose_threshold(valid.targs == 1, valid.probs[:,1], sensitivity=.9, units=valid.units)
    return point['basis'] == 'guaranteed' and (probs[world.targs == 1, 1] >= point['threshold']).mean() < .9


CASES += [Rate('a guarantee is broken after calibration', f'{what}, {n} {kind}', partial(draw_raw, n=n, each=each), .05,
    dict(ours=partial(breaks_after_calibration, what=what)), 500, kind)
    for n,each,kind in ((150, 1, 'single images'), (130, 3, 'groups of 3'), (400, 1, 'single images')) for what in ('error', 'sensitivity')]


# ---- prediction sets: the interval of the coverage by group, and what a single run reaches at least
def draw_held(rng, kind, k, p, icc):
    "`(sets, targs, units)`: the set of an image holds its class with probability p"
    sizes = get_sizes(kind, k, rng)
    held, units = spread(sizes, draw_hits(sizes, p, icc, rng))
    return np.c_[held, np.ones(len(held), bool)], np.zeros(len(held), int), units


def get_group_coverage(data):
    sets, targs, units = data
    return check_prediction_sets(sets, targs, units, resample_units(units.max() + 1, 2))['by_group']


def get_group_percentiles(data):
    "The percentiles of resampled groups, as they were before"
    sets, targs, units = data
    counts = resample_units(units.max() + 1, 500).astype(float)
    shares = np.bincount(units, sets[:,0])/np.bincount(units)
    return get_interval(counts@shares/counts.sum(1), len(shares))


HELD = [('single images', 100, .9, 0), ('groups of 5', 20, .9, .3), ('groups of 20', 10, .9, .3), ('groups of 1 to 8', 20, .9, .3),
    ('groups of 1 to 8', 60, .97, 0), ('log-normal groups', 40, .9, .8), ('one giant group', 20, .9, .3), ('one giant group', 40, .97, 0)]
CASES += [Case('the coverage of prediction sets by group', f'{k} {kind}, true coverage {p:g}, intraclass correlation {icc:g}',
    partial(draw_held, kind=kind, k=k, p=p, icc=icc), p, dict(ours=get_group_coverage, percentiles=get_group_percentiles), 500, kind)
    for kind,k,p,icc in HELD]


def draw_known(rng, k):
    "The probability that the model gives to the true class of k images, uniform from 0 to 1"
    return rng.random(k)


def misses_least(true_probability, wanted):
    "Is the coverage among new images, of three classes, lower than a single run reaches at least?"
    k = len(true_probability)
    known = np.c_[true_probability, np.repeat((1 - true_probability)[:,None]/2, 2, 1)]
    new = (np.arange(500) + .5)/500
    asked = np.c_[new, np.repeat((1 - new)[:,None]/2, 2, 1)]
    sets = get_prediction_sets(asked, known, np.zeros(k, int), np.arange(k), wanted)
    return (new[sets[:,0]].size + 1)/500 < get_least_coverage(k, wanted)  # + 1: the grid of new images is coarse


CASES += [Rate('the coverage of a single run is lower than stated', f'{k} images set the limit, wanted {wanted:g}', partial(draw_known, k=k), .05,
    dict(ours=partial(misses_least, wanted=wanted)), 500, 'single images') for k in (20, 60, 200) for wanted in (.8, .9)]


# ---- slices: is one called worse although all are equal?
def draw_slices(rng, kind, k, p, icc):
    "`(kinds, right, units)`: seven ways to divide images, by group, by image, by the size of the group, and between"
    sizes = get_sizes(kind, k, rng)
    right, units = spread(sizes, draw_hits(sizes, p, icc, rng))
    n = len(units)
    right = right[np.lexsort((rng.random(n), units))]
    light = rng.normal(size=k)[units] + .7*rng.normal(size=n)
    size = np.select([sizes == 1, sizes < 4], ['alone', '2 or 3'], '4 or more')
    return pd.DataFrame(dict(a=rng.choice(list('xy'), k)[units], site=rng.choice(list('pqrs'), k)[units], size=size[units],
        camera=rng.choice(list('uvw'), n), rare=rng.choice(list('xy'), n, p=[.1, .9]),
        light=np.array(['dark', 'middle', 'bright'])[np.argsort(np.argsort(light))*3//n])), right, units


def finds_slice(data):
    return find_slices(*data, shuffles=1999).worse.any()


def flip_signs(inside, wrong, units, flips=1999):
    "One-sided p-values by random signs of groups, as they were before"
    excess = (inside - inside.mean(0))*(wrong - wrong.mean())[:,None]
    sums = pd.DataFrame(excess).groupby(units).sum().to_numpy()
    signs = np.random.default_rng(0).integers(0, 2, (flips, len(sums)))*2. - 1
    return (1 + (signs@sums >= sums.sum(0) - 1e-9).sum(0))/(1 + flips)


def finds_slice_by_signs(data):
    kinds, right, units = data
    inside = [(kinds[c] == v).to_numpy() for c in kinds for v in kinds[c].unique()]
    inside = np.stack([o for o in inside if 5 <= o.sum() < len(o)], 1)
    return (correct(flip_signs(inside, ~right, units)) < .05).any()


SLICES = [('single images', 200, .9, 0), ('groups of 5', 40, .9, .8), ('groups of 20', 10, .9, .3), ('groups of 20', 40, .7, 0),
    ('groups of 1 to 8', 20, .9, 0), ('groups of 1 to 8', 40, .7, .3), ('groups of 1 to 8', 100, .9, .3), ('log-normal groups', 40, .8, .3),
    ('log-normal groups', 40, .8, 0), ('one giant group', 10, .7, .3), ('one giant group', 20, .7, .8), ('one giant group', 40, .9, .3), ('one giant group', 40, .9, 0)]
CASES += [Rate('a slice is called worse although all are equal', f'{k} {kind}, accuracy {p:g}, intraclass correlation {icc:g}',
    partial(draw_slices, kind=kind, k=k, p=p, icc=icc), .05, dict(ours=finds_slice, signs=finds_slice_by_signs), 400, kind)
    for kind,k,p,icc in SLICES]
