"""What each option of 04 does to the validation loss and to the time: `.venv/bin/python benchmarks/options.py [--sets pc_parts] [--seeds 0]`

Base: three epochs over all layers with the policy medium and without options; then each option alone. Measured is the best epoch before
the blend. `loss_difference` and `accuracy_difference` are the option's minus the base's, paired by seed, on the same validation
images; `time` is the option's seconds of training over the base's. Into runs/bench/options.json, and as a table.
"""
import json, shutil
from statistics import mean

import pandas as pd

from common import get_folder, get_parser
from kept import TITLES, keep_plain
from imgclf_nb.base.runs import Run
from imgclf_nb.data import get_items
from imgclf_nb.core import write_json
from imgclf_nb.base.running import run_notebook

BASE = dict(epochs=3, lr=3e-4, policy='medium', layers='all', ema=0., mixup=0., label_smoothing=0., patience=100)
OPTIONS = dict(base={}, late=dict(layers='late'), strong=dict(policy='strong'), ema=dict(ema=.98), mixup=dict(mixup=.3), cutmix=dict(cutmix=1.),
    label_smoothing=dict(label_smoothing=.1), clip=dict(clip=1.), progressive=dict(progressive=True), class_weights=dict(class_weights=True),
    fp32=dict(precision='fp32'), compile=dict(compile=True))


def train(name, dataset, seed, quick):
    "Loss, accuracy and seconds of the best epoch of one training"
    folder = get_folder(quick)/f'option_{name}_{dataset}_s{seed}'
    shutil.rmtree(folder, ignore_errors=True)  # an earlier run of this benchmark
    run_notebook('04_train', str(folder), quiet=True, dataset=dataset, seed=seed, **{**BASE, **OPTIONS[name], **(dict(epochs=1) if quick else {})})
    r, h = Run(folder).record, pd.read_csv(folder/'history.csv')
    last = next(b for b in r['blend'] if b['share'] == 1)  # the loss without smoothing
    return dict(valid_loss=last['valid_loss'], accuracy=last['accuracy'], seconds=float(h.seconds[h.epoch > 0].sum()))


if __name__ == '__main__':
    a = get_parser(__doc__)
    a.add_argument('--sets', nargs='+', default=['pc_parts'])
    a.add_argument('--seeds', nargs='+', type=int, default=[0])
    a.add_argument('--only', nargs='+', default=list(OPTIONS), choices=list(OPTIONS))
    a = a.parse_args()
    path = get_folder(a.quick)/'options.json'
    rows = json.loads(path.read_text(encoding='utf-8')) if path.exists() else []
    for s in a.sets:
        base = None
        for name in dict.fromkeys(['base', *a.only]):
            got = [train(name, s, seed, a.quick) for seed in a.seeds]
            base = base or got
            row = dict(set=s, option=name, seeds=len(got), valid_loss=round(mean(g['valid_loss'] for g in got), 4),
                loss_difference=round(mean(g['valid_loss'] - b['valid_loss'] for g,b in zip(got, base)), 4),
                accuracy_difference=round(mean(g['accuracy'] - b['accuracy'] for g,b in zip(got, base)), 4),
                time=round(mean(g['seconds']/b['seconds'] for g,b in zip(got, base)), 2))
            rows = [r for r in rows if (r['set'], r['option']) != (s, name)] + [row]
            write_json(path, rows)
            print(' '.join(f'{k} {v}' for k,v in row.items()), flush=True)
            if a.keep: keep_plain('options', [dict(row, title=TITLES.get(s, s), images=len(get_items(s)))])
    print(pd.DataFrame(rows).to_string(index=False))
