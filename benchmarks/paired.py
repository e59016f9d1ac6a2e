"""Accuracy, and paired differences of accuracy, over images and seeds: used by minutes.py, options.py and heads.py"""
import numpy as np

from imgclf_nb.stats.intervals import get_unit_share, resample_units
from imgclf_nb.stats.paired_tests import compare_answers, get_bounds, get_replicates


def get_accuracy(answers):
    "`value, low, high` over units, and over seeds where there are several"
    if len(answers) == 1:
        right = answers[0].preds == answers[0].targs
        return get_unit_share(right, np.ones(len(right), bool), answers[0].units)
    n = int(answers[0].units.max()) + 1
    counts = resample_units(n)
    return get_bounds(np.stack([get_replicates(o, 'accuracy', counts) for o in answers]), n)


def get_difference_points(ours, theirs):
    "Percentage points of accuracy by which ours is better, paired by image and seed"
    found = compare_answers(ours, theirs)
    points = {key: round(100*found[key], 2) for key in ('difference', 'low', 'high')}
    return dict(value=points.pop('difference'), **points)
