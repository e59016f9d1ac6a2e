"""What the evaluation of many predictions takes, part by part: 25,000 of 2 classes and 22,688 of 131, 2,000 resamples each.

.venv/bin/python benchmarks/evaluation.py [--draws 2000] [--keep]
"""
import argparse, time
from dataclasses import replace

import numpy as np, pandas as pd

from imgclf_nb.stats.calibration import decompose_brier, plot_reliability, set_temperature
from imgclf_nb.stats.thresholds import estimate_prior, get_net_benefit, get_own_prior
from imgclf_nb.stats.thresholds import get_predictive_values, plot_predictive_values, shift_prior
from imgclf_nb.stats.abstention import check_prediction_sets, choose_abstention, get_selective_risk, get_risk_coverage
from imgclf_nb.stats.abstention import get_prediction_sets
from imgclf_nb.evaluation import plot_confusion
from imgclf_nb.stats.intervals import resample_units
from imgclf_nb.stats.paired_tests import Answers, get_difference
from imgclf_nb.stats.roc_pr import plot_roc_pr
from imgclf_nb.results.class_metrics import get_class_table
from imgclf_nb.results.metrics import calibrate, get_metrics, summarise_evaluation
from imgclf_nb.results.operating import get_decision_table, get_positive_predictions, get_rates
from kept import keep_plain


def make(n, k, seed):
    "Answers of a good model that is twice as sure as it may be"
    rng = np.random.default_rng(seed)
    targs = rng.integers(0, k, n)
    z = rng.normal(0, 1, (n, k)); z[np.arange(n), targs] += 3 if k == 2 else 5
    p = set_temperature(np.exp(z)/np.exp(z).sum(1, keepdims=True), .5)
    return Answers(targs, p.argmax(1), p, np.arange(n), 1 if k == 2 else None)


def evaluate(n, k, draws):
    "The parts of 05 that need no images, with the seconds of each; validation is a fifth of the test"
    classes, spent = [f"class {i}" for i in range(k)], {}
    raw, valid = make(n, k, 0), make(n//5, k, 1)
    frame = pd.DataFrame({'label': np.array(classes)[raw.targs], 'predicted': np.array(classes)[raw.preds], **{f'p_{c}': p for c,p in zip(classes, raw.probs.T)}})
    t = last = time.perf_counter()
    def tick(name):
        nonlocal last
        spent[name], last = time.perf_counter() - last, time.perf_counter()
    own = np.arange(len(valid.targs)) % 2 == 0
    temperature, done = calibrate(valid, own)
    point, alarm = get_positive_predictions(done, own, classes, miss_cost=20.) if k == 2 else (None, None)
    a = replace(raw, probs=set_temperature(raw.probs, temperature)); tick('temperature and threshold')
    alarm = a.probs[:,1] >= point['threshold'] if point else None
    m = get_metrics(a, raw, alarm, draws); tick('metrics')
    counts = resample_units(n, draws)
    get_class_table(a, classes); plot_confusion(frame, classes); tick('classes')
    plot_roc_pr(a.targs, a.probs, a.units, classes, classes[1] if point else None); tick('curves with bands')
    plot_reliability(dict(before=raw.probs, after=a.probs), a.targs, a.units); decompose_brier(a.probs, a.targs); tick('calibration')
    if point:
        get_decision_table(a, alarm, classes); plot_predictive_values(*get_rates(a, alarm, draws), .5)
        get_net_benefit(a.targs == 1, a.probs[:,1], a.units, counts[:301]); get_predictive_values(.9, .9, .1); tick('decisions')
    share = np.bincount(valid.targs, minlength=k)/len(valid.targs)
    holds = get_own_prior(done.probs, share)
    get_difference([replace(a, probs=shift_prior(a.probs, holds, estimate_prior(a.probs, holds)))], [a], 'log_loss', draws); tick('other mixtures')
    reject = choose_abstention(done.probs[own].max(1), (done.preds == done.targs)[own], done.units[own], .05)
    get_selective_risk(a.probs.max(1), a.preds == a.targs, reject, a.units)
    get_risk_coverage(a.probs.max(1), a.preds == a.targs, a.units)
    check_prediction_sets(get_prediction_sets(raw.probs, valid.probs[own], valid.targs[own], valid.units[own]), a.targs, a.units, counts); tick('doubt')
    says = summarise_evaluation(m, 'test', a, classes, point, 1.)
    return spent | dict(total=time.perf_counter() - t), says


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--draws', type=int, default=2000, help='resamples')
    a.add_argument('--keep', action='store_true', help='also into benchmarks/results/costs.json')
    a = a.parse_args()
    sizes = {f'{n:,} × {k}': (n, k) for n,k in ((25_000, 2), (22_688, 131))}
    rows = {name: evaluate(*size, a.draws)[0] for name,size in sizes.items()}
    print(f'seconds, {a.draws} resamples')
    print(pd.DataFrame(rows).round(1).to_string())
    if a.keep: keep_plain('costs', [dict(what=f'evaluation without images, {name}, {a.draws:,} resamples',
        seconds=round(spent['total'], 1), images=sizes[name][0]) for name,spent in rows.items()])
