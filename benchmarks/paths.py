"""Does the fast way cost accuracy? `.venv/bin/python benchmarks/paths.py [--sets pc_parts instruments] [--seeds 0 1 2]`

Two epochs of 04 with the set's recipe, twice for each seed. Plain: every image decoded from its file in every epoch, fp32. Fast: the cache, and layout and precision as the trial chooses. Both start from the same head, with the same order and
the same draws of the augmentation. Rows `fast_path_<set>` against `plain`: accuracy_difference = fast - plain on the test images,
paired, a round is a seed; ratio = plain seconds of training / fast ones.
"""
import json, shutil
from statistics import mean

import pandas as pd

from common import get_folder, get_parser, get_row, keep_rows
from imgclf_nb.base.runs import Run
from imgclf_nb.data import get_items
from imgclf_nb.splitting import get_splits
from sets import score

PLAIN = dict(cache=False, precision='fp32')


def train(side, dataset, seed, items, quick):
    "Seconds of the epochs and accuracy on the test images"
    from imgclf_nb.base.running import run_notebook
    folder = get_folder(quick)/f'path_{side}_{dataset}_s{seed}'
    shutil.rmtree(folder, ignore_errors=True)  # an earlier run of this benchmark
    run_notebook('04_train', str(folder), quiet=True, dataset=dataset, seed=seed, epochs=1 if quick else 2, **(PLAIN if side == 'plain' else {}))
    h = pd.read_csv(folder/'history.csv')
    return dict(seconds=float(h.seconds[h.epoch > 0].sum()), accuracy=score(folder, items), way=Run(folder).record['way'])


def measure(dataset, seeds, quick):
    "The row of one set"
    items = get_splits(get_items(dataset))
    got = []
    for s in seeds:
        got.append({k: train(k, dataset, s, items, quick) for k in (('plain', 'fast') if s % 2 else ('fast', 'plain'))})
        print(json.dumps({k: {**v, 'way': v['way']['precision']} for k,v in got[-1].items()}), flush=True)
    rates = [[1/g[k]['seconds'] for g in got] for k in ('fast', 'plain')]
    diff = [g['fast']['accuracy'] - g['plain']['accuracy'] for g in got]
    row = get_row(f'fast_path_{dataset}', 'plain', *rates, accuracy=round(mean(g['fast']['accuracy'] for g in got), 4),
        accuracy_difference=round(mean(diff), 4), accuracy_differences=[round(d, 4) for d in diff])
    return {**row, 'images_per_second': None, 'their_images_per_second': None}


if __name__ == '__main__':
    a = get_parser(__doc__)
    a.add_argument('--sets', nargs='+', default=['pc_parts', 'instruments'])
    a.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    a = a.parse_args()
    for s in a.sets: keep_rows([measure(s, a.seeds, a.quick)], a, int((get_splits(get_items(s)).split == 'test').sum()))
