"Coverage of the intervals of AUC and average precision, for scores that are normal in both classes"
import numpy as np
from scipy.stats import norm

from coverage import Case
from imgclf_nb.stats.intervals import resample_units
from imgclf_nb.stats.intervals import get_aucs
from imgclf_nb.stats.roc_pr import get_auc_interval, get_average_precisions, get_precision_interval

# (cases, others, effect, images per unit, correlation within a unit, units hold both classes, group)
SETTINGS = {
    '2 positive of 202': (2, 200, 2, 1, 0, False, 'single images'),
    '5 positive of 205': (5, 200, 2, 1, 0, False, 'single images'),
    '5 positive of 205, poor': (5, 200, 1, 1, 0, False, 'single images'),
    '20 positive of 220': (20, 200, 1.5, 1, 0, False, 'single images'),
    '20 positive of 220, good': (20, 200, 3, 1, 0, False, 'single images'),
    '50 positive of 1000, good': (50, 950, 3, 1, 0, False, 'single images'),
    '10 and 10': (10, 10, 2, 1, 0, False, 'single images'),
    '10 and 10, no effect': (10, 10, 0, 1, 0, False, 'single images'),
    '20 and 20, good': (20, 20, 3, 1, 0, False, 'single images'),
    '100 and 100': (100, 100, 2, 1, 0, False, 'single images'),
    '100 and 100, nearly perfect': (100, 100, 4, 1, 0, False, 'single images'),
    '20 and 20 patients, 5 images each': (20, 20, 1.5, 5, .6, False, 'groups of 5'),
    '5 and 35 patients, 5 images each, good': (5, 35, 3, 5, .8, False, 'groups of 5'),
    '6 and 34 patients, 20 images each': (6, 34, 1.5, 20, .3, False, 'groups of 20'),
    '20 patients with both classes': (10, 10, 1.5, 10, .3, True, 'groups of both classes'),
    '6 patients with both classes': (3, 3, 1.5, 20, .8, True, 'groups of both classes')}


def draw_scores(rng, positive, negative, effect, images, correlation, both, group):
    "`(truth, score, units)` of one experiment"
    patients = positive + negative
    units = np.repeat(np.arange(patients), images)
    ill = np.repeat(np.arange(patients) < positive, images)
    if both: ill = rng.random(len(units)) < positive/patients
    own = rng.normal(size=len(units))
    score = np.sqrt(correlation)*rng.normal(size=patients)[units] + np.sqrt(1 - correlation)*own
    return ill, score + effect*ill, units


def get_true_auc(setting): return float(norm.cdf(setting[2]/2**.5))


def get_true_precision(setting, n=200_000):
    "The area under the curve of the whole population: the mean precision at the positives' quantiles"
    positive, negative, effect = setting[:3]
    recall = (np.arange(n) + .5)/n
    share = positive/(positive + negative)
    false = norm.sf(effect + norm.isf(recall))
    return float((share*recall/(share*recall + (1 - share)*false)).mean())


def get_percentiles(get_replicates, sample):
    "The percentile bootstrap over units, as other programs do it"
    ill, score, units = sample
    found = get_replicates(ill, score, units, resample_units(int(units.max()) + 1, 500))
    low, high = np.nanpercentile(found[1:], [2.5, 97.5])
    return dict(low=low, high=high)


def get_delong(sample):
    "DeLong's interval without a logit, images taken as independent"
    ill, score, _ = sample
    above = (score[ill][:,None] > score[~ill]) + .5*(score[ill][:,None] == score[~ill])
    error = np.sqrt(above.mean(1).var(ddof=1)/ill.sum() + above.mean(0).var(ddof=1)/(~ill).sum())
    return dict(low=above.mean() - 1.96*error, high=above.mean() + 1.96*error)


def get_boyd(sample):
    "The logit interval of an average precision by the number of positive images (Boyd and others 2013)"
    ill, score, units = sample
    value = get_precision_interval(ill, score, units)['value']
    clipped = np.clip(value, 1e-9, 1 - 1e-9)
    half = 1.96/np.sqrt(ill.sum()*clipped*(1 - clipped))
    low, high = 1/(1 + np.exp(-(np.log(clipped/(1 - clipped)) + np.array([-half, half]))))
    return dict(low=low, high=high)


def make_draw(setting): return lambda rng: draw_scores(rng, *setting)


CASES = []
for name,setting in SETTINGS.items():
    CASES.append(Case('auc', name, make_draw(setting), get_true_auc(setting), dict(
        ours=lambda o: get_auc_interval(*o),
        percentile=lambda o: get_percentiles(get_aucs, o),
        delong=get_delong), group=setting[-1]))
    CASES.append(Case('average_precision', name, make_draw(setting), get_true_precision(setting), dict(
        ours=lambda o: get_precision_interval(*o),
        percentile=lambda o: get_percentiles(get_average_precisions, o),
        boyd=get_boyd), group=setting[-1]))
