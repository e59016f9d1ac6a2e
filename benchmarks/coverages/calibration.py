"Coverage of the interval of the expected calibration error"
import numpy as np
from scipy.stats import norm

from coverage import Case
from imgclf_nb.stats.calibration import get_ece, get_edges
from imgclf_nb.stats.intervals import resample_units

# (images, images per unit, correlation within a unit, mean logit, its deviation, true temperature or probability, group)
SETTINGS = {
    '20 sure images, calibrated': (20, 1, 0, 6.9, 0, .999, 'single images'),
    '20 sure images, truly .95': (20, 1, 0, 6.9, 0, .95, 'single images'),
    '100 images at .98, calibrated': (100, 1, 0, 3.9, 0, .98, 'single images'),
    '100 images at .98, truly .93': (100, 1, 0, 3.9, 0, .93, 'single images'),
    '60 images at .9, truly .97': (60, 1, 0, 2.2, 0, .97, 'single images'),
    '20 images': (20, 1, 0, 1, 1.5, 1.5, 'single images'),
    '60 images, calibrated': (60, 1, 0, 4, 1, 1., 'single images'),
    '200 images, calibrated': (200, 1, 0, 1, 1.5, 1., 'single images'),
    '200 images, underconfident': (200, 1, 0, 1, 1.5, .5, 'single images'),
    '200 sure images, calibrated': (200, 1, 0, 5, 1.5, 1., 'single images'),
    '200 sure images, overconfident': (200, 1, 0, 5, 1.5, 1.5, 'single images'),
    '200 sure images, very overconfident': (200, 1, 0, 5, 1.5, 3., 'single images'),
    '1000 images, calibrated': (1000, 1, 0, 4, 1.5, 1., 'single images'),
    '1000 images, overconfident': (1000, 1, 0, 4, 1.5, 2., 'single images'),
    '20 patients, overconfident': (100, 5, .5, 3, 1.5, 1.5, 'groups of 5'),
    '40 patients, overconfident': (200, 5, .3, 3, 1.5, 2., 'groups of 5'),
    '20 patients of 20': (400, 20, .5, 3, 1.5, 1.5, 'groups of 20'),
    '20 patients of 20, calibrated': (400, 20, .8, 4, 1.5, 1., 'groups of 20')}


def draw_common(rng, units, correlation):
    "Standard normal numbers, correlated within units"
    whole, own = rng.normal(size=units.max() + 1), rng.normal(size=len(units))
    return np.sqrt(correlation)*whole[units] + np.sqrt(1 - correlation)*own


def draw_claims(rng, n, images, correlation, mean, spread, truth, group):
    "`(claimed probability, true probability, units)`: a truth below 1 is it, others are a temperature"
    units = np.arange(n)//images
    logit = np.abs(mean + spread*draw_common(rng, units, correlation))
    claimed = 1/(1 + np.exp(-logit))
    true = np.full(n, truth) if spread == 0 else 1/(1 + np.exp(-logit/truth))
    return claimed, true, units


def draw(rng, setting):
    "`(probabilities, true classes, units)`"
    claimed, true, units = draw_claims(rng, *setting)
    right = norm.cdf(draw_common(rng, units, setting[2])) < true
    return np.c_[1 - claimed, claimed], right*1, units


def get_true_error(setting):
    "Mean difference between claimed and true probability of 100,000 images"
    claimed, true, _ = draw_claims(np.random.default_rng(1), 100_000, 1, 0, *setting[3:])
    return float(np.abs(claimed - true).mean())


def get_ours(sample):
    "What users see, from fewer resamples"
    return get_ece(*sample, resample_units(int(sample[2].max()) + 1, 300))


def get_percentiles(sample):
    "The percentile bootstrap of the plain error"
    probs, targs, units = sample
    confidence, right = probs.max(1), probs.argmax(1) == targs
    edges, rng, found = get_edges(confidence), np.random.default_rng(0), []
    rows = [np.flatnonzero(units == u) for u in range(units.max() + 1)]
    bins, gap = np.searchsorted(edges, confidence), right - confidence
    for _ in range(100):
        keep = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        found.append(np.abs(np.bincount(bins[keep], gap[keep])).sum()/len(keep))
    return dict(zip(('low', 'high'), np.percentile(found, [2.5, 97.5])))


def make_draw(setting): return lambda rng: draw(rng, setting)


CASES = [Case('ece', name, make_draw(o), get_true_error(o), dict(ours=get_ours, percentile=get_percentiles), group=o[-1])
    for name,o in SETTINGS.items()]
