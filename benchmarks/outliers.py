"""What the audit's search for outliers finds in sets, and how many added foreign images: `.venv/bin/python benchmarks/outliers.py SET…`

For each set: its images and findings as it is; then, for each other set, three and ten of its images are added with
random labels: how many of them come first, and are findings. `--pictures FOLDER` saves the first twelve
images of each set.
"""
import argparse, itertools
from pathlib import Path

import numpy as np, pandas as pd

from imgclf_nb.auditing.outliers import find_outliers, is_outlier, show_outliers
from imgclf_nb.data import get_items
from imgclf_nb.datasets.cards import open_set
from imgclf_nb.models.features import get_frozen_features


def read(name):
    "`(items outside a given test split, card)` of a set"
    found = open_set(name)
    return get_items(found).query("split != 'test'").reset_index(drop=True), found.card


def see(items, card):
    return get_frozen_features(items, card.recipe['arch'], card.recipe['size'], card.resize)


def add(items, card, x, other, n, seed=0):
    "How many of `n` images of another set come first, and are findings"
    added = other.sample(n, random_state=seed).assign(split='', group='', copies='', sequence='')
    labels = items.label.sample(n, random_state=seed, replace=True).to_numpy()
    both = pd.concat([items, added.assign(label=labels, file='added/' + added.file)]).reset_index(drop=True)
    found = find_outliers(both, np.r_[x, see(added, card)])
    is_added, is_finding = found.file.str.startswith('added/'), is_outlier(found)
    return dict(first=int(is_added[:n].sum()), found=int((is_added & is_finding).sum()),
        others_found=int((~is_added & is_finding).sum()))


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('sets', nargs='+')
    a.add_argument('--photos', help='a folder of other images to add')
    a.add_argument('--pictures', help='where the first images of each set are saved')
    a = a.parse_args()
    sets = {Path(name).name: read(name) for name in a.sets}
    rows, others = [], {name: items for name,(items,_) in sets.items()}
    if a.photos: others['photos'] = read(a.photos)[0]
    for name,(items,card) in sets.items():
        x = see(items, card)
        found = find_outliers(items, x)
        rows.append(dict(set=name, images=len(items), added=0, others_found=int(is_outlier(found).sum())))
        for other,n in itertools.product(others, (3, 10)):
            if other == name: continue
            rows.append(dict(set=name, images=len(items), added=n, of=other, **add(items, card, x, others[other], n)))
        if a.pictures: show_outliers(found, items).savefig(Path(a.pictures)/f'{name}.png', dpi=150)
    print(pd.DataFrame(rows).to_string(index=False, na_rep=''))
