"""Training steps on the CPU, images a second: ours against stock fastai, each measurement in a process of its own.

`.venv/bin/python benchmarks/steps.py [--rounds 3] [--models resnet18_128] [--data pc_parts]`
`.venv/bin/python benchmarks/steps.py --one SIDE ARCH SIZE [--data pc_parts]` prints one measurement as JSON

A step is what a fastai `Learner` does with a batch of 32 while it fits: forward, backward and optimizer, all cores. Every layer is
trained on either side, the statistics of batch normalisation too, with the same peak rate; 04 keeps pretrained statistics as they are,
which costs less, and is not what is measured here. Sides: `fastai` with the system's allocator, `fastai+mallopt` with ours, `ours`. Without --data the batches are fixed ones
(rows `train_*`, the median step); with it they come from each side's own loaders (`end_to_end_*`, mean over steps of one epoch):
the files are in the system's cache, and ours has been through them once, so they are decoded.
"""
import json, statistics, time
from pathlib import Path

from common import BATCH, MODELS, UNSET, ask, get_parser, get_row, interleave, keep_rows  # first: it silences a warning of fastai's import
import numpy as np, torch
from fastai.callback.core import Callback, CancelFitException
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.torch_core import TensorImage, set_seed
from fastai.vision.core import TensorCategory

from imgclf_nb.backbones import get_backbone
from imgclf_nb.base.architectures import get_expected
from imgclf_nb.base.machine import get_device, set_allocator
from imgclf_nb.data import get_items
from imgclf_nb.splitting import get_splits
from stock import get_stock_dls

SIDES, CLASSES = ('fastai', 'fastai+mallopt', 'ours'), 14


class Clock(Callback):
    "The time at the end of each batch; ends the fit after enough of them"
    order = 1000
    def __init__(self, n): self.n, self.times = n, []
    def after_batch(self):
        self.times.append(time.perf_counter())
        if len(self.times) == self.n: raise CancelFitException


def ours(arch, size, dls):
    "Our learner, and what begins its training"
    from imgclf_nb.training.learner import get_learner  # imported here: the stock sides must not know our parts
    from imgclf_nb.train import split_model
    from imgclf_nb.training.autotune import get_execution_plan
    model = get_backbone(arch, dls.c, 'none')
    learn = get_learner(dls, model, way=get_execution_plan(model, arch, size, BATCH, whole=True), splitter=split_model, wd=.01)
    return learn, lambda: learn.fit_all(1, 1e-3, pretrained=False)


def stock(arch, size, dls):
    "Stock fastai on the same model, and what begins its training"
    learn = Learner(dls, get_backbone(arch, dls.c, 'none').train(), loss_func=torch.nn.CrossEntropyLoss(), metrics=accuracy)
    def fit():
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-3)
    return learn, fit


def get_fixed_dls(side, arch, size, n):
    "Loaders of n batches, four different ones in turn, of the types and in the layout that the side's own loaders give"
    layout = torch.channels_last if side == 'ours' else torch.contiguous_format
    e, rng = get_expected(arch), np.random.default_rng(0)
    mean, std = (torch.tensor(e[k])[:, None, None] for k in ('mean', 'std'))
    def one():
        x = torch.from_numpy(rng.integers(0, 256, (BATCH, 3, size, size), np.uint8))
        x = ((x/255 - mean)/std).contiguous(memory_format=layout)
        return TensorImage(x), TensorCategory(torch.from_numpy(rng.integers(0, CLASSES, BATCH)))
    some = [one() for _ in range(4)]
    dls = DataLoaders(*(DataLoader([some[i % 4] for i in range(k)], bs=None, num_workers=0) for k in (n, 1)), device=torch.device(get_device()))
    dls.c, dls.vocab = CLASSES, list(range(CLASSES))
    return dls


def get_real_dls(side, dataset, arch, size):
    "A side's own loaders of a set, as a second epoch finds it"
    items = get_splits(get_items(dataset))
    if side == 'ours':
        from imgclf_nb.datasets.cards import get_card
        from imgclf_nb.models.features import get_preprocessing
        from imgclf_nb.training.loaders import get_dls
        pre = get_preprocessing(arch, size, sorted(items.label.unique()), get_card(dataset).resize)
        dls = get_dls(items, pre, 'medium', BATCH, 0)
        for _ in dls.train: pass
    else:
        dls = get_stock_dls(items, [get_expected(arch)[k] for k in ('mean', 'std')], size, BATCH)
        for p in items.path: Path(p).read_bytes()
    dls.c = items.label.nunique()
    return dls


def measure_one(side, arch, size, warm, steps, dataset=None):
    "Images a second of one side in this process"
    if side not in SIDES: raise SystemExit(f"There is no side {side!r}: sides are {', '.join(SIDES)}.")
    if side != 'fastai' and not set_allocator(): print('The allocator of this system cannot be set: measured as it is.')
    set_seed(0)
    dls = get_real_dls(side, dataset, arch, size) if dataset else get_fixed_dls(side, arch, size, warm + steps)
    if len(dls.train) < warm + steps: raise SystemExit(f"{dataset} has {len(dls.train)} batches, fewer than {warm} + {steps}.")
    learn, fit = (ours if side == 'ours' else stock)(arch, size, dls)
    learn.add_cb(clock := Clock(warm + steps))
    fit()
    took = np.diff(clock.times[warm-1:])
    return BATCH/(took.mean() if dataset else statistics.median(took))


def measure(model, rounds, warm, steps, dataset=None):
    "The rows of one model"
    arch, size, _ = MODELS[model]
    print(f"{arch} at {size} pixels, {f'with the pictures of {dataset}' if dataset else 'fixed batches'}, images a second")
    more = ['--data', dataset] if dataset else []
    def side(s): return ask('steps.py', '--one', s, arch, size, '--warm', warm, '--steps', steps, *more, env=UNSET)
    r = interleave({s: lambda s=s: side(s)['images_per_second'] for s in SIDES}, rounds)
    what = f"{'end_to_end' if dataset else 'train'}_{model}"
    return [get_row(what, s, r['ours'], r[s]) for s in SIDES[:2]]


if __name__ == '__main__':
    a = get_parser(__doc__, rounds=3)
    a.add_argument('--one', nargs=3, metavar=('SIDE', 'ARCH', 'SIZE'), help='measure one side here, and print JSON')
    a.add_argument('--models', nargs='+', default=list(MODELS), choices=list(MODELS))
    a.add_argument('--warm', type=int, help='steps that do not count; 3, with --data 8, so that batches made in advance are gone')
    a.add_argument('--steps', type=int, help='steps that count; 10, with --data 25')
    a.add_argument('--data', help='a set; else fixed batches')
    a = a.parse_args()
    a.warm, a.steps = a.warm or (8 if a.data else 3), a.steps or (25 if a.data else 10)
    if a.one: print(json.dumps(dict(images_per_second=measure_one(a.one[0], a.one[1], int(a.one[2]), a.warm, a.steps, a.data))))
    else:
        how = (1, 1, 2) if a.quick else (a.rounds, a.warm, a.steps)
        images = int((get_splits(get_items(a.data)).split == 'train').sum()) if a.data else 0
        for m in a.models: keep_rows(measure(m, *how, a.data), a, images)
