"""The difference in accuracy of two models on the same images, single or several X-rays a patient, one seed or several"""
from functools import partial

import numpy as np

from coverage import Case
from imgclf_nb.stats.paired_tests import get_difference, simulate_answers

SETTINGS = {  # patients, most X-rays of each, true difference, seeds, share on which the models differ, how alike a patient's are
    '60 images, equal models': dict(patients=60, most=1),
    '200 images, equal models that rarely differ': dict(patients=200, most=1, disagree=.03),
    '200 images, 5 points better': dict(patients=200, most=1, better=.05),
    '1000 images, 2 points better': dict(patients=1000, most=1, better=.02),
    '10 patients, equal models': dict(patients=10),
    '20 patients, equal models': dict(patients=20),
    '60 patients, equal models': dict(patients=60),
    '60 patients, 5 points better': dict(patients=60, better=.05),
    '60 patients, equal models that rarely differ': dict(patients=60, disagree=.03),
    '200 patients, 5 points better': dict(patients=200, better=.05),
    '60 patients, 2 seeds that differ': dict(patients=60, seeds=2, spread=.02),
    '60 patients, 3 seeds that differ': dict(patients=60, seeds=3, spread=.02),
    '60 patients, 5 seeds that differ': dict(patients=60, seeds=5, spread=.02),
    '200 images, 5 seeds, 3 points better': dict(patients=200, most=1, seeds=5, spread=.01, better=.03)}


def draw(rng, setting): return simulate_answers(rng, **setting)


def get_ours(models):
    "What users see, from fewer resamples"
    return get_difference(*models, draws=400)


def assume_independent(models):
    "The mean of the images' differences and its standard error, over all seeds and images as if they were independent"
    x = np.concatenate([(p.preds == p.targs)*1. - (q.preds == q.targs) for p,q in zip(*models)])
    half = 1.96*x.std(ddof=1)/len(x)**.5
    return dict(low=x.mean() - half, high=x.mean() + half)


CASES = [Case('difference of accuracies', name, partial(draw, setting=o), o.get('better', 0.),
    dict(ours=get_ours, independent=assume_independent), 500, 'patients' if o.get('most') != 1 else 'single images', span=2)
    for name,o in SETTINGS.items()]
