"""Accuracy and time on the five sets: ours (04a_probe, 04_train) against stock fastai's `fine_tune(3)`.

`.venv/bin/python benchmarks/sets.py [--sets pc_parts] [--seeds 0 1 2] [--again] [--warm]`

Same backbone, weights, size and batch size, same training, validation and test images. Stock: Resize(224), aug_transforms,
`vision_learner`, `fine_tune(3)`; its seconds run from after the imports to the end of `fine_tune`, and are kept in
stock_<set>.json, to be used again until --again. Ours: the notebook, by papermill, with an empty cache (--warm: with the user's);
the seconds of its run.json, which hold all work on the data. Rows `probe_*`, `train_*`: ratio = stock seconds / ours,
accuracy_difference = ours - stock on the test images, in shares; a round is a seed. `train_*` against `probe`: the same, fine-tuned
against the probe's run. `checkpoint_share` of a `train_*`: how much of the seconds of training went into checkpoints.
"""
import contextlib, json, shutil, sys, tempfile, time
from pathlib import Path
from statistics import mean

from common import BATCH, FIVE, UNSET, ask, cold_cache, get_folder, get_parser, get_row, keep_rows
from imgclf_nb.backbones import load_model
from imgclf_nb.base.runs import Run
from imgclf_nb.core import write_json
from imgclf_nb.data import get_items
from imgclf_nb.splitting import get_splits

ARCH, SIZE = 'tf_efficientnet_lite0', 224


def train_stock(table, seed, epochs):
    "Stock fastai on a CSV of path, label and split: seconds, and accuracy on its test images"
    import pandas as pd
    from stock import fit_stock
    t0 = time.perf_counter()
    items = pd.read_csv(table, keep_default_na=False, dtype=str)
    learn = fit_stock(items, ARCH, SIZE, BATCH, seed, epochs)
    seconds, test = time.perf_counter() - t0, items[items.split == 'test']
    with learn.no_bar(): probs = learn.get_preds(dl=learn.dls.test_dl(test))[0]
    right = [learn.dls.vocab[i] == l for i,l in zip(probs.argmax(1), test.label)]
    return dict(seconds=seconds, accuracy=mean(right))


def get_stock(dataset, items, seed, again, quick):
    "Stock's seconds and accuracy, remembered"
    path = get_folder(quick)/f'stock_{dataset}.json'
    known = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    if str(seed) in known and not again: return known[str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        items[['path', 'label', 'split']].to_csv(table := Path(folder)/'items.csv', index=False)
        known[str(seed)] = ask('sets.py', '--stock', table, '--seeds', seed, '--epochs', 1 if quick else 3, env=UNSET)
    write_json(path, known)
    return known[str(seed)]


def score(folder, items):
    "Accuracy of a run's model on the test images"
    from imgclf_nb.results.artifacts import get_predictions
    from imgclf_nb.images.preprocessing import Preprocessing
    model, card = load_model(folder)
    p = get_predictions(model, items[items.split == 'test'], Preprocessing.from_dict(card['preprocessing']), card['temperature'])
    return float((p.label == p.predicted).mean())


def run_ours(notebook, name, dataset, seed, items, warm, quick):
    "Seconds of a notebook's fresh run, and its model's accuracy on the test images"
    from imgclf_nb.base.running import run_notebook
    folder = get_folder(quick)/f'{name}_{dataset}_s{seed}'
    shutil.rmtree(folder, ignore_errors=True)  # an earlier run of this benchmark
    more = dict(epochs=1) if quick and name == 'train' else {}
    with contextlib.nullcontext() if warm else cold_cache():
        run_notebook(notebook, str(folder), quiet=True, dataset=dataset, seed=seed, **more)
    r = Run(folder).record
    kept = {} if notebook != '04_train' else dict(checkpoint_share=r['checkpoint_seconds']/max(1e-9, r['cost']['train_seconds']))
    return dict(seconds=r['seconds'], accuracy=score(folder, items), **kept)


def probe(dataset, seed, items, warm, quick):
    "Ours: the first answer"
    return run_ours('04a_probe', 'probe', dataset, seed, items, warm, quick)


def train(dataset, seed, items, warm, quick):
    "Ours: fine-tuned"
    return run_ours('04_train', 'train', dataset, seed, items, warm, quick)


def get_set_row(what, dataset, against, ours, stock):
    "A row from the results of each seed"
    rate = [1/o['seconds'] for o in ours], [1/s['seconds'] for s in stock]  # runs a second
    row = get_row(f'{what}_{dataset}', against, *rate, seconds=round(mean(o['seconds'] for o in ours), 1),
        their_seconds=round(mean(s['seconds'] for s in stock), 1), accuracy=round(mean(o['accuracy'] for o in ours), 4),
        accuracy_difference=round(mean(o['accuracy'] - s['accuracy'] for o,s in zip(ours, stock)), 4))
    share = {'checkpoint_share': round(mean(o['checkpoint_share'] for o in ours), 4)} if 'checkpoint_share' in ours[0] else {}
    return {**row, **share, 'images_per_second': None, 'their_images_per_second': None}


if __name__ == '__main__':
    a = get_parser(__doc__)
    a.add_argument('--sets', nargs='+', default=FIVE)
    a.add_argument('--seeds', nargs='+', type=int, default=[0])
    a.add_argument('--only', choices=('probe', 'train'), help='one of the two')
    a.add_argument('--again', action='store_true', help='measure stock anew')
    a.add_argument('--warm', action='store_true', help="ours with the user's cache, not an empty one")
    a.add_argument('--stock', help='train stock on this CSV here, and print JSON')
    a.add_argument('--epochs', type=int, default=3, help='of stock')
    a = a.parse_args()
    if a.stock: print(json.dumps(train_stock(a.stock, a.seeds[0], a.epochs))); sys.exit()
    for s in a.sets:
        items = get_splits(get_items(s))
        stock = [get_stock(s, items, seed, a.again, a.quick) for seed in a.seeds]
        print(f'{s}: stock {stock}')
        got = {}
        for f in (probe, train):
            if a.only and f.__name__ != a.only: continue
            got[f.__name__] = [f(s, seed, items, a.warm, a.quick) for seed in a.seeds]
            keep_rows([get_set_row(f.__name__, s, 'fastai', got[f.__name__], stock)], a, len(items))
        if len(got) == 2: keep_rows([get_set_row('train', s, 'probe', got['train'], got['probe'])], a, len(items))
