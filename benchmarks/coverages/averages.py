"Coverage of the intervals of balanced accuracy, macro F1, log loss and Brier score, and of means over seeds"
from functools import partial

import numpy as np
from scipy.stats import norm

from coverage import Case
from imgclf_nb.stats.contributions import get_image_values
from imgclf_nb.stats.intervals import get_confusions, get_scores, get_share, resample_units
from imgclf_nb.stats.metric_values import get_metric_value, get_value
from imgclf_nb.stats.paired_tests import Answers

# (images of each class, recall of each class, images per unit, correlation within a unit, units hold all classes, group)
CLASSES = {
    '2 rare of 202': ([200, 2], [.97, .8], 1, 0, False, 'single images'),
    '5 rare of 205': ([200, 5], [.97, .8], 1, 0, False, 'single images'),
    '20 rare of 220': ([200, 20], [.97, .8], 1, 0, False, 'single images'),
    '60 and 60, .99': ([60, 60], [.99, .99], 1, 0, False, 'single images'),
    '10 and 10, .5': ([10, 10], [.5, .5], 1, 0, False, 'single images'),
    '500 and 500, .97': ([500, 500], [.97, .97], 1, 0, False, 'single images'),
    '10 classes of 6, .9': ([6]*10, [.9]*10, 1, 0, False, 'single images'),
    '10 classes of 20, .99': ([20]*10, [.99]*10, 1, 0, False, 'single images'),
    '9 classes of 100 and one of 2': ([100]*9 + [2], [.97]*9 + [.5], 1, 0, False, 'single images'),
    '10 classes of 50, half of them hard': ([50]*10, [1.]*5 + [.6]*5, 1, 0, False, 'single images'),
    '131 classes of 2, .9': ([2]*131, [.9]*131, 1, 0, False, 'single images'),
    '131 classes of 5, .99': ([5]*131, [.99]*131, 1, 0, False, 'single images'),
    '131 classes of 5, a quarter hard': ([5]*131, [1.]*100 + [.5]*31, 1, 0, False, 'single images'),
    '20 and 20 patients of one class': ([100, 100], [.9, .8], 5, .3, False, 'groups of 5'),
    '10 and 10 patients of one class, .97': ([200, 200], [.97, .97], 20, .3, False, 'groups of 20'),
    '40 patients with both classes': ([100, 100], [.9, .9], 5, .8, True, 'groups of both classes'),
    '40 patients with both classes, .99': ([100, 100], [.99, .99], 5, .8, True, 'groups of both classes'),
    '10 patients with 10 classes': ([20]*10, [.9]*10, 20, .3, True, 'groups of all classes')}
# (images, images per unit, correlation, mean logit, its deviation, true temperature, classes, group)
LOSSES = {
    '20 images': (20, 1, 0, 2, 1.5, 1, 2, 'single images'),
    '60 images, sure': (60, 1, 0, 5, 1.5, 1, 2, 'single images'),
    '60 images, overconfident': (60, 1, 0, 5, 1.5, 2, 2, 'single images'),
    '200 images, sure': (200, 1, 0, 5, 1.5, 1, 2, 'single images'),
    '200 images, very overconfident': (200, 1, 0, 4, 2, 3, 2, 'single images'),
    '1000 images': (1000, 1, 0, 4, 2, 2, 2, 'single images'),
    '200 images, unsure': (200, 1, 0, 0, .5, 1, 2, 'single images'),
    '200 images of 10 classes': (200, 1, 0, 4, 1, 1, 10, 'single images'),
    '60 images of 131 classes': (60, 1, 0, 7, 1.5, 1, 131, 'single images'),
    '20 patients': (100, 5, .5, 2, 1.5, 1, 2, 'groups of 5'),
    '6 patients': (120, 20, .3, 3, 1.5, 1.5, 2, 'groups of 20'),
    '40 patients, alike': (800, 20, .8, 3, 1.5, 1, 2, 'groups of 20')}
# (images, accuracy, standard deviation of seeds, seeds, images that are easy or hard for all seeds)
SEEDS = {
    '2 seeds, 68 images': (68, .97, 0., 2, .8),
    '2 seeds, 1000 images': (1000, .9, .005, 2, .8),
    '2 seeds that differ': (1000, .9, .02, 2, .8),
    '3 seeds, 68 images': (68, .97, .005, 3, .8),
    '3 seeds that differ': (1000, .9, .02, 3, .8),
    '3 seeds, images apart': (200, .9, 0., 3, .1),
    '5 seeds': (1000, .9, .005, 5, .8),
    '5 seeds that differ': (1000, .9, .02, 5, .5)}


def draw_common(rng, units, correlation):
    "Standard normal numbers, correlated within units"
    whole, own = rng.normal(size=units.max() + 1), rng.normal(size=len(units))
    return np.sqrt(correlation)*whole[units] + np.sqrt(1 - correlation)*own


def draw_classes(rng, sizes, recalls, images, correlation, both, group):
    "`Answers` with these recalls; a wrong image is predicted as any other class"
    targs = np.repeat(np.arange(len(sizes)), sizes)
    if both: targs = rng.permutation(targs)
    units = np.arange(len(targs))//images  # classes are multiples of whole units
    right = norm.cdf(draw_common(rng, units, correlation)) < np.array(recalls)[targs]
    other = (targs + rng.integers(1, len(sizes), len(targs)))%len(sizes)
    preds = np.where(right, targs, other)
    return Answers(targs, preds, np.eye(len(sizes))[preds], units)


def get_true_f1(sizes, recalls):
    "Macro F1 of endlessly many images in these proportions"
    sizes, recalls = np.array(sizes, float), np.array(recalls)
    wrong = sizes*(1 - recalls)
    predicted = sizes*recalls + (wrong.sum() - wrong)/(len(sizes) - 1)
    return float((2*sizes*recalls/(sizes + predicted)).mean())


def bootstrap_classes(metric, a):
    "The percentile bootstrap over units"
    counts = resample_units(int(a.units.max()) + 1, 300)
    found = get_scores(get_confusions(a.targs, a.preds, a.units, a.probs.shape[1], counts))[metric]
    low, high = np.nanpercentile(found[1:], [2.5, 97.5])
    return dict(low=low, high=high)


def add_up(a):
    "Balanced accuracy by Wilson's intervals of the recalls, as if independent (MOVER; Zou and Donner 2008)"
    right = a.targs == a.preds
    shares = [get_share(right[a.targs == c].sum(), (a.targs == c).sum()) for c in np.unique(a.targs)]
    value, low, high = np.array([[o[k] for o in shares] for k in ('value', 'low', 'high')])
    return dict(low=value.mean() - np.sqrt(((value - low)**2).sum())/len(value),
        high=value.mean() + np.sqrt(((high - value)**2).sum())/len(value))


def draw_losses(rng, n, images, correlation, mean, spread, temperature, k, group):
    "`Answers` whose probabilities are those of the truth at another temperature"
    units = np.arange(n)//images
    logits = rng.normal(size=(n, k))*(k > 2)
    logits[np.arange(n), rng.integers(0, k, n)] += mean + spread*draw_common(rng, units, correlation)
    claimed, true = [np.exp(z - z.max(1, keepdims=True)) for z in (logits, logits/temperature)]
    claimed, true = [o/o.sum(1, keepdims=True) for o in (claimed, true)]
    level = norm.cdf(draw_common(rng, units, correlation))
    order = (-true).argsort(1)
    place = (np.take_along_axis(true, order, 1).cumsum(1) < level[:,None]).sum(1).clip(max=k - 1)
    return Answers(order[np.arange(n), place], claimed.argmax(1), claimed, units)


def get_true_loss(metric, setting):
    "The mean of 100,000 values, or fewer for many classes"
    n = 100_000 if setting[6] < 100 else 20_000
    images = draw_losses(np.random.default_rng(1), n, 1, 0, *setting[3:])
    return float(get_image_values(images, metric).mean())


def use_t(metric, a):
    "Student's t over the sums of units"
    loss = get_image_values(a, metric)
    sums = np.bincount(a.units, loss - loss.mean())
    k = len(sums)
    from scipy.stats import t
    half = t.ppf(.975, k - 1)*np.sqrt(k/(k - 1)*(sums**2).sum())/len(loss)
    return dict(low=loss.mean() - half, high=loss.mean() + half)


def draw_seeds(rng, n, accuracy, spread, seeds, alike):
    "`Answers` of each seed for the same images"
    common, targs = rng.normal(size=n), np.zeros(n, int)
    found = []
    for _ in range(seeds):
        hard = np.sqrt(alike)*common + np.sqrt(1 - alike)*rng.normal(size=n)
        right = norm.cdf(hard) < np.clip(accuracy + spread*rng.normal(), 0, 1)
        preds = np.where(right, 0, 1)
        found.append(Answers(targs, preds, np.eye(2)[preds], np.arange(n), 1))
    return found


def get_one_seed(found):
    "The interval of the first seed alone"
    return get_metric_value(found[0], 'accuracy')


def use_seeds_alone(found):
    "Student's t over the values of seeds, which ignores that the images are the same"
    from scipy.stats import t
    values = [(o.targs == o.preds).mean() for o in found]
    half = t.ppf(.975, len(values) - 1)*np.std(values, ddof=1)/len(values)**.5
    return dict(low=np.mean(values) - half, high=np.mean(values) + half)


def make_draw(draw, setting): return lambda rng: draw(rng, *setting)


CASES = []
for name,o in CLASSES.items():
    draw = make_draw(draw_classes, o)
    CASES.append(Case('balanced_accuracy', name, draw, float(np.mean(o[1])), dict(
        ours=partial(get_metric_value, metric='balanced_accuracy'),
        percentile=partial(bootstrap_classes, 'balanced_accuracy'), mover=add_up), group=o[-1]))
    CASES.append(Case('macro_f1', name, draw, get_true_f1(*o[:2]), dict(
        ours=partial(get_metric_value, metric='macro_f1'),
        percentile=partial(bootstrap_classes, 'macro_f1')), group=o[-1]))
for name,o in LOSSES.items():
    for metric in ('log_loss', 'brier'):
        CASES.append(Case(metric, name, make_draw(draw_losses, o), get_true_loss(metric, o), dict(
            ours=partial(get_metric_value, metric=metric), t=partial(use_t, metric)),
            group=o[-1], span=34 if metric == 'log_loss' else 1))
for name,o in SEEDS.items():
    CASES.append(Case('accuracy over seeds', name, make_draw(draw_seeds, o), o[1], dict(
        ours=get_value, one_seed=get_one_seed, seeds_alone=use_seeds_alone), group=f'{o[3]} seeds'))
