"""What a linear head gains by ridge regression, by doubting improbable labels, and by dropping contradicting images

`.venv/bin/python benchmarks/heads.py [--sets pc_parts chest_xray] [--divisions 3] [--keep]`

Frozen features of one network at 224 pixels and of three at 256, of the images and their mirror images, as a probe has them. Every head
is fitted on four fifths of the units (duplicates, patients, videos) and judged on the rest, five times, for each division; its strength
of regularisation is chosen in the four fifths. The given or remembered test split is left out, so nothing here opens it. `dropped`: images of which an
identical file has another label are no training images; they are judged all the same.

`difference`: accuracy less that of logistic regression with all labels in full, in percentage points, paired by image and division, with
its 95 % interval over units. Into runs/bench/heads.json, and as a table.
"""
import time
from statistics import mean

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from common import FIVE, get_folder, get_parser
from imgclf_nb.base.joint_names import name_joint
from imgclf_nb.core import write_json
from imgclf_nb.data import get_items
from imgclf_nb.datasets.cards import get_card
from imgclf_nb.models.features import get_frozen_features
from imgclf_nb.models.linear_heads import get_linear_head
from imgclf_nb.splitting import get_splits
from imgclf_nb.stats.intervals import get_units
from imgclf_nb.stats.paired_tests import Answers
from kept import TITLES, keep_plain
from paired import get_difference_points

LITE = [f'tf_efficientnet_lite{i}' for i in range(3)]
NETWORKS = {'lite0, 224': (LITE[0], 224), 'lite0 to lite2, 256': (name_joint(LITE), 256)}
HEADS = {'logistic regression': dict(), 'logistic regression, doubt': dict(doubt=True),
    'logistic regression, dropped': dict(), 'ridge regression': dict(head='ridge'), 'ridge regression, doubt': dict(head='ridge', doubt=True),
    'ridge regression, dropped': dict(head='ridge')}


def read_items(dataset, quick):
    "The images outside the test split, with splits"
    items = get_splits(get_items(dataset))
    items = items[items.split != 'test'].reset_index(drop=True)
    return items.sample(min(len(items), 300), random_state=0).reset_index(drop=True) if quick else items


def see(items, dataset, arch, size):
    "Features of the images, and of their mirror images or None, as a probe of the set has them"
    recipe = get_card(dataset).recipe
    how = dict(arch=arch, size=size, resize=recipe.get('resize', 'crop'), precision='auto')
    x = get_frozen_features(items, **how)
    return x, None if recipe['policy'] == 'xray' else get_frozen_features(items, mirror=True, **how)


def find_contradicting(items):
    "Whether an identical file has another label: a boolean for each image"
    return (items.groupby('sha256').label.transform('nunique') > 1).to_numpy()


def predict(x, mirror, y, units, head, seed, left_out):
    "The class of each image by heads without its unit; those that are `left_out` train none"
    k, predicted = y.max() + 1, np.zeros(len(y), int)
    for train,rest in StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(x, y, units):
        train = train[~left_out[train]]
        flipped = None if mirror is None else mirror[train]
        w, b, _ = get_linear_head(x[train], y[train], units[train], k, mirror=flipped, **head)
        predicted[rest] = (x[rest] @ w.T + b).argmax(1)
    return predicted


def say_points(points):
    "With its interval; '' for the head that the others are compared with"
    return '{value:+.2f} ({low:+.2f} to {high:+.2f})'.format(**points) if points else ''


def get_row(dataset, network, head, answers, plain, seconds):
    "A row of the results"
    accuracy = mean(float((one.preds == one.targs).mean()) for one in answers)
    return dict(set=dataset, title=TITLES[dataset], network=network, head=head, divisions=len(answers), accuracy=round(accuracy, 4),
        difference=None if answers is plain else get_difference_points(answers, plain), seconds=round(seconds, 1),
        images=len(answers[0].targs))


def measure(items, dataset, network, divisions):
    "The rows of a set and a network"
    x, mirror = see(items, dataset, *NETWORKS[network])
    y, units = pd.factorize(items.label, sort=True)[0], get_units(items)
    contradicting = find_contradicting(items)
    rows, plain = [], None
    for name,head in HEADS.items():
        left_out = contradicting & name.endswith('dropped')
        began = time.perf_counter()
        preds = [predict(x, mirror, y, units, head, seed, left_out) for seed in range(divisions)]
        seconds = (time.perf_counter() - began)/divisions/5
        answers = [Answers(y, one, np.eye(y.max() + 1)[one], units) for one in preds]
        plain = plain or answers
        rows.append(get_row(dataset, network, name, answers, plain, seconds))
        print(rows[-1], flush=True)
    return rows


if __name__ == '__main__':
    a = get_parser(__doc__)
    a.add_argument('--sets', nargs='+', default=FIVE, choices=FIVE)
    a.add_argument('--divisions', type=int, default=3, help='into five parts')
    a = a.parse_args()
    rows = []
    for dataset in a.sets:
        items = read_items(dataset, a.quick)
        for network in list(NETWORKS)[:1 if a.quick else None]:
            new = measure(items, dataset, network, 1 if a.quick else a.divisions)
            rows += new
            write_json(get_folder(a.quick)/'heads.json', rows)
            if a.keep: keep_plain('heads', new)
    shown = [{**row, 'difference': say_points(row['difference'])} for row in rows]
    print(pd.DataFrame(shown).drop(columns=['title']).to_string(index=False))
