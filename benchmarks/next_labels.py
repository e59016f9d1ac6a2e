"""Are labels of images that the model asks for worth more than labels of random images?

`.venv/bin/python benchmarks/next_labels.py [--sets pc_parts chest_xray] [--seeds 5] [--methods random margin]`

A simulation in which a person labels what is asked for. For each seed, whole units (duplicates, patients, videos) are divided into a
pool (65 %) and images that judge. A logistic regression on frozen features starts with a few random labels of the pool; in each of
six rounds a method names more images of the pool, and the model is fitted anew. All methods of a seed start with the same labels. C
is chosen once, on the first labels. The given or remembered test split is left out, so nothing here opens it.

`ours` is `stats.next_labels.choose_next`, as `imgclf_predict --next` uses it; the others are written here. `difference`: accuracy less
that of random labels, in percentage points, mean over the six rounds, with the t interval over seeds. `needed`: labels after which a
method's mean accuracy is that of random labels at the end. Into runs/bench/next_labels.json, and as a table.
"""
import time
from statistics import mean

import numpy as np
import pandas as pd
from scipy.stats import t as student

from common import FIVE, get_folder, get_parser
from imgclf_nb.core import write_json
from imgclf_nb.data import get_items
from imgclf_nb.datasets.cards import get_card
from imgclf_nb.images.duplicates import get_blocks
from imgclf_nb.models.features import get_frozen_features
from imgclf_nb.models.logistic import choose_c, fit_logistic
from imgclf_nb.splitting import get_splits
from imgclf_nb.stats.neighbours import scale_features
from imgclf_nb.stats.next_labels import choose_next, get_scores
from kept import TITLES, keep_plain

ARCH, SIZE, ROUNDS, POOL = 'tf_efficientnet_lite0', 224, 6, .65
LABELS = dict(pc_parts=(100, 50), chest_xray=(100, 50), fruits360=(100, 50), instruments=(50, 25), cats_vs_dogs=(40, 20))  # first, a round


def take_random(probs, x, wanted, rng):
    "Random images"
    return rng.permutation(len(probs))[:wanted]


def take_margin(probs, x, wanted, rng):
    "The images with the smallest difference between the two largest probabilities"
    return np.argsort(-get_scores(probs), kind='stable')[:wanted]


def take_entropy(probs, x, wanted, rng):
    "The images with the largest entropy of their probabilities"
    return np.argsort((probs*np.log(probs.clip(1e-12))).sum(1), kind='stable')[:wanted]


def take_badge(probs, x, wanted, rng):
    "k-means++ on the gradient of the last layer, without its expansion (Ash et al. 2020)"
    a = probs.copy()
    a[np.arange(len(a)), probs.argmax(1)] -= 1
    lengths, scaled = (a*a).sum(1), scale_features(x)
    nearest, chosen = np.full(len(a), np.inf), [int(lengths.argmax())]
    while True:
        i = chosen[-1]
        distances = lengths + lengths[i] - 2*(a @ a[i])*(scaled @ scaled[i])
        nearest = np.minimum(nearest, distances.clip(0))
        nearest[chosen] = 0
        if len(chosen) == wanted: return np.array(chosen)
        chosen.append(int(rng.choice(len(a), p=nearest/nearest.sum())))


def take_spread(probs, x, wanted, rng):
    "k-center on the ten times as many most uncertain images, all with the same weight"
    some, scaled = take_margin(probs, x, 10*wanted, rng), scale_features(x)
    chosen, nearest = [0], np.full(len(some), 4.)
    while len(chosen) < wanted:
        nearest = np.minimum(nearest, 2 - 2*scaled[some] @ scaled[some[chosen[-1]]])
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return some[chosen]


def take_ours(probs, x, wanted, rng):
    "As `imgclf_predict --next`"
    return choose_next(probs, x, wanted, seed=int(rng.integers(2**32))).position.to_numpy()


METHODS = dict(random=take_random, ours=take_ours, margin=take_margin, entropy=take_entropy, badge=take_badge, spread=take_spread)
NAMES = dict(ours='uncertain and diverse (`--next`)', margin='uncertain: margin', entropy='uncertain: entropy', badge='BADGE',
    spread='k-center of uncertain ones')


def read_set(dataset, quick):
    "Features `(n, d)`, classes as numbers and units of the images outside the test split"
    items = get_splits(get_items(dataset))
    items = items[items.split != 'test'].reset_index(drop=True)
    if quick: items = items.sample(min(len(items), 400), random_state=0).reset_index(drop=True)
    card = get_card(dataset)
    resize = (card.recipe if card else {}).get('resize', 'crop')
    x = get_frozen_features(items, ARCH, SIZE, resize=resize)
    return x, pd.factorize(items.label, sort=True)[0], get_blocks(items)


def divide(units, rng):
    "Positions of the pool and of the images that judge; no unit is in both"
    names = rng.permutation(np.unique(units))
    is_pool = np.isin(units, names[:int(POOL*len(names))])
    return np.flatnonzero(is_pool), np.flatnonzero(~is_pool)


def simulate(data, methods, seed, first, step):
    "The accuracy of each method after each round, with the first labels as round 0"
    x, y, units = data
    rng = np.random.default_rng(seed)
    pool, judges = divide(units, rng)
    begin = rng.permutation(pool)[:first]
    c = choose_c(x[begin], y[begin], units[begin])
    return {name: follow(METHODS[name], data, pool, judges, begin, step, c, np.random.default_rng([seed, 1])) for name in methods}


def follow(method, data, pool, judges, begin, step, c, rng):
    "The accuracies of one method"
    x, y, _ = data
    labelled, accuracies = begin, []
    for _ in range(ROUNDS + 1):
        model = fit_logistic(x[labelled], y[labelled], c)
        accuracies.append(float((model.predict(x[judges]) == y[judges]).mean()))
        left = np.setdiff1d(pool, labelled)
        named = method(model.predict_proba(x[left]), x[left], min(step, len(left)), rng)
        labelled = np.r_[labelled, left[named]]
    return accuracies


def get_difference(ours, random):
    "Percentage points above random labels: mean over the rounds, with its t interval over seeds"
    points = 100*(np.array(ours) - random)[:, 1:].mean(1)
    half = student.ppf(.975, len(points) - 1)*points.std(ddof=1)/len(points)**.5 if len(points) > 1 else 0
    return dict(value=round(points.mean(), 2), low=round(points.mean() - half, 2), high=round(points.mean() + half, 2))


def count_needed(ours, random, first, step):
    "Labels after which the mean accuracy is that of random labels at the end; None if it never is"
    curve, goal = np.mean(ours, 0), np.mean(random, 0)[-1]
    reached = np.flatnonzero(curve >= goal)
    if not len(reached): return None
    i = int(reached[0])
    if i == 0: return first
    return round(first + step*(i - 1 + (goal - curve[i - 1])/(curve[i] - curve[i - 1])))


def decide(difference):
    "In words, whether the labels that a method asks for are worth more than random ones"
    if difference['low'] > 0: return 'yes'
    return 'no' if difference['high'] < 0 else 'not shown'


def get_row(dataset, name, found, first, step):
    "A row of the results"
    ours, random = ([one[method] for one in found] for method in (name, 'random'))
    labels, difference = first + ROUNDS*step, get_difference(ours, random)
    worth = decide(difference)
    needed = count_needed(ours, random, first, step) if worth == 'yes' else None  # else a crossing of noise
    return dict(set=dataset, title=TITLES[dataset], method=name, name=NAMES[name], seeds=len(found), first=first, labels=labels,
        start=round(mean(one[0] for one in random), 4), random=round(mean(one[-1] for one in random), 4),
        accuracy=round(mean(one[-1] for one in ours), 4), difference=difference, needed=needed,
        saved=None if needed is None else round(1 - needed/labels, 3), worth=worth)


if __name__ == '__main__':
    a = get_parser(__doc__)
    a.add_argument('--sets', nargs='+', default=FIVE, choices=FIVE)
    a.add_argument('--seeds', type=int, default=5, help='how many divisions into pool and judges')
    a.add_argument('--methods', nargs='+', default=list(METHODS), choices=list(METHODS))
    a = a.parse_args()
    methods, seeds = list(dict.fromkeys(['random', *a.methods])), 2 if a.quick else a.seeds
    path = get_folder(a.quick)/'next_labels.json'
    rows = []
    for dataset in a.sets:
        data, began = read_set(dataset, a.quick), time.time()
        first, step = (40, 10) if a.quick else LABELS[dataset]
        found = [simulate(data, methods, seed, first, step) for seed in range(seeds)]
        new = [get_row(dataset, name, found, first, step) for name in methods[1:]]
        print(f'{dataset}: {len(data[0])} images, {time.time() - began:.0f} s', flush=True)
        rows += new
        write_json(path, rows)
        if a.keep: keep_plain('next_labels', [dict(row, images=len(data[0])) for row in new])
    shown = [{**row, 'difference': '{value:+.2f} ({low:+.2f} to {high:+.2f})'.format(**row['difference'])} for row in rows]
    print(pd.DataFrame(shown).drop(columns=['title', 'name']).to_string(index=False))
