"""Which of two models loses less of its own accuracy on corrupted images: the difference of their drops"""
from functools import partial
from statistics import NormalDist

import numpy as np

from coverage import Case
from groups import draw_sizes
from imgclf_nb.stats.intervals import resample_units
from imgclf_nb.stats.paired_drops import compare_drops, get_drop_replicates

KEYS = [('clean', 0), ('blur', 1), ('blur', 2), ('noise', 1)]
STURDY, FRAGILE = (.9, .75, .6, .7), (.8, .5, .3, .4)  # accuracy by key
SURE = (.99, .98, .96, .97)


def cut(share):
    "The quantile below which this share of the normal distribution lies"
    return -9. if share == 0 else 9. if share == 1 else NormalDist().inv_cdf(share)


def draw(rng, sizes, icc, a, b, seeds):
    "`(hits of a, hits of b, units)`: images of a group are alike, and an image is as hard for both models"
    units = np.repeat(np.arange(len(sizes)), sizes)
    hard = np.sqrt(icc)*rng.normal(size=len(sizes))[units] + np.sqrt(.9 - icc)*rng.normal(size=len(units))*(icc < .9)
    models = []
    for accuracies in (a, b):
        for _ in range(seeds):
            own = rng.normal(size=(len(KEYS), len(units)))*np.sqrt(.1)
            models.append({key: hard + noise < cut(p) for key,p,noise in zip(KEYS, accuracies, own)})
    return models[:seeds], models[seeds:], units


def draw_single(rng, n, icc=0., **more): return draw(rng, np.ones(n, int), icc, **more)


def draw_grouped(rng, kind, k, icc, **more): return draw(rng, draw_sizes(kind, k, rng), icc, **more)


def use_ours(data):
    a, b, units = data
    found = compare_drops(a, b, units, draws=500)
    if np.isnan(found['drop_low']): return dict(low=-np.inf, high=np.inf)  # said in words
    return dict(low=found['drop_low'], high=found['drop_high'])


def use_percentile(data):
    "The bootstrap over units, seeds as they are"
    a, b, units = data
    counts = resample_units(int(units.max()) + 1, 500)
    d = (get_drop_replicates(a, KEYS[1:], units, counts) - get_drop_replicates(b, KEYS[1:], units, counts)).mean(0)
    low, high = np.nanpercentile(d[1:], [2.5, 97.5])
    return dict(low=low, high=high)


def get_drop(accuracies): return 1 - np.mean(accuracies[1:])/accuracies[0]


def make_case(setting, group, draw_one, a=STURDY, b=FRAGILE, seeds=1, **more):
    "An experiment with its true difference"
    draw_data = partial(draw_one, a=a, b=b, seeds=seeds, **more)
    return Case('difference of drops', setting, draw_data, float(get_drop(a) - get_drop(b)),
        dict(ours=use_ours, percentile=use_percentile), 500, group, span=2.)


CASES = [
    *(make_case(f'{n} images', 'single images', draw_single, n=n) for n in (20, 60, 200, 1000)),
    *(make_case(f'{n} images, both nearly always right', 'single images', draw_single, a=SURE, b=SURE, n=n) for n in (60, 200)),
    make_case('200 images, a drop of nothing', 'single images', draw_single, a=(.9,)*4, b=(.9,)*4, n=200),
    *(make_case(f'60 images, {seeds} seeds', 'seeds', draw_single, seeds=seeds, n=60) for seeds in (2, 5)),
    *(make_case(f'{k} {kind}, half of the variance between groups', kind, draw_grouped, kind=kind, k=k, icc=.5)
        for kind,k in (('groups of 5', 20), ('groups of 20', 6), ('groups of 20', 10), ('groups of 20', 40), ('groups of 1 to 8', 40),
            ('log-normal groups', 20), ('log-normal groups', 40), ('one giant group', 10), ('one giant group', 40)))]
