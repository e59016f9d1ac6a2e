"""Accuracy, sensitivity, specificity, recall, coverage …: shares of images, single or in groups"""
from functools import lru_cache, partial
from itertools import product

import numpy as np
from scipy.stats import beta, t

from coverage import Case
from groups import KINDS, draw_hits, draw_sizes, spread
from imgclf_nb.stats.intervals import get_share, get_unit_share

PS = (.5, .9, .97, .99, 1.)


def once(method):
    "A method of `(hit, units)` from one of sizes and hits of groups, which is asked once for the same groups"
    known = lru_cache(500_000)(lambda groups: method(*np.array(groups).T))
    def find(data):
        hit, units = data
        return known(tuple(sorted(zip(np.bincount(units).tolist(), np.bincount(units, hit).astype(int).tolist()))))
    return find


@once
def use_ours(sizes, hits):
    hit, units = spread(sizes, hits)
    return get_unit_share(hit, np.ones(len(hit), bool), units)


@once
def use_exact(sizes, hits):
    return get_share(hits.sum(), sizes.sum(), method='exact')


def widen(p, n, z):
    "Wilson's interval for n effective images"
    scale = 1 + z*z/n
    middle = (p + z*z/2/n)/scale
    half = z/scale*(p*(1 - p)/n + z*z/4/n**2)**.5
    return dict(low=middle - half, high=middle + half)


def find_exact(hits, n):
    "Clopper and Pearson's interval, also for numbers that are not whole"
    low = beta.ppf(.025, hits, n - hits + 1) if hits > 0 else 0.
    high = beta.ppf(.975, hits + 1, n - hits) if hits < n else 1.
    return dict(low=low, high=high)


@once
def use_before(sizes, hits):
    "What this project did before: between-group variance, Student's t; exact for so many groups at 0 and 1"
    k, n = len(sizes), sizes.sum()
    p = hits.sum()/n
    if p in (0, 1): return find_exact(k*p, k)
    variance = k/(k - 1)*((hits - p*sizes)**2).sum()/n**2
    return widen(p, min(n, p*(1 - p)/max(1e-12, variance)), t.ppf(.975, k - 1))


@once
def use_jackknife(sizes, hits):
    "Leave-one-group-out residuals with Kish's degrees of freedom"
    n = sizes.sum()
    p, kish = hits.sum()/n, n**2/(sizes**2).sum()
    if p in (0, 1): return find_exact(kish*p, kish)
    variance = (((hits - p*sizes)/(1 - sizes/n))**2).sum()/n**2
    return widen(p, min(n, p*(1 - p)/max(1e-12, variance)), t.ppf(.975, max(kish - 1, .5)))


@once
def use_korn_graubard(sizes, hits):
    "Clopper and Pearson's interval at the effective size, corrected by Student's t (Korn and Graubard 1998)"
    n = sizes.sum()
    p, kish = hits.sum()/n, n**2/(sizes**2).sum()
    if p in (0, 1): return find_exact(kish*p, kish)
    variance = (((hits - p*sizes)/(1 - sizes/n))**2).sum()/n**2
    effective = min(n, p*(1 - p)/max(1e-12, variance))*(t.ppf(.975, n - 1)/t.ppf(.975, max(kish - 1, .5)))**2
    return find_exact(p*effective, effective)


SINGLE = dict(ours=use_ours, exact=use_exact)
GROUPED = {'ours': use_ours, 'before': use_before, 'jackknife': use_jackknife, 'Korn–Graubard': use_korn_graubard}


def draw_single(rng, n, p):
    return rng.random(n) < p, np.arange(n)


def draw_grouped(rng, kind, k, p, icc):
    sizes = draw_sizes(kind, k, rng)
    return spread(sizes, draw_hits(sizes, p, icc, rng))


def lower_large(sizes, p):
    "The larger a group, the lower its accuracy"
    return np.clip(p - .5*p*(1 - p)*(np.log(sizes) - np.log(5)), .02, .999)


def draw_telling(rng, k, p, icc):
    sizes = draw_sizes('log-normal groups', k, rng)
    return spread(sizes, draw_hits(sizes, lower_large(sizes, p), icc, rng))


def get_telling_truth(p):
    "The accuracy of all images of a million such groups"
    sizes = draw_sizes('log-normal groups', 1_000_000, np.random.default_rng(1))
    return float((sizes*lower_large(sizes, p)).sum()/sizes.sum())


CASES = [Case('a share', f'{n} images, true share {p:g}', partial(draw_single, n=n, p=p), p, SINGLE, 2000, 'single images')
    for n,p in product((20, 60, 200, 1000), PS)]
CASES += [Case('a share', f'{k} {kind}, intraclass correlation {icc:g}, true share {p:g}',
        partial(draw_grouped, kind=kind, k=k, p=p, icc=icc), p, GROUPED, 2000, kind)
    for kind,k,icc,p in product(KINDS, (6, 10, 20, 40), (0, .3, .8), PS)]
CASES += [Case('a share', f'{k} log-normal groups, large ones worse, intraclass correlation {icc:g}, share {p:g} of groups of 5',
        partial(draw_telling, k=k, p=p, icc=icc), get_telling_truth(p), GROUPED, 2000, 'large groups are worse')
    for k,icc,p in product((10, 20, 40), (.3, .8), (.5, .8, .9))]
