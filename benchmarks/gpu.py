"""Training on a CUDA device: resnet50 at 224 pixels in half precision, channels last, images a second.

`.venv/bin/python benchmarks/gpu.py [--data pc_parts] [--rounds 3] [--batch 256]`
`.venv/bin/python benchmarks/gpu.py --quick --device cpu` runs the whole way on the processor with a small model; its numbers mean nothing

Sides, each measurement in a process of its own, all from random weights, every layer trained, mean over steps of one epoch: `cache`
is ours, fed from the cache of the set's JPEG files, resident on the device or uploaded as the loader decides; `synthetic` the same
learner with one random batch that stays on the device; `fastai` the same model as its users train it (Resize, aug_transforms, to_fp16,
its default workers). An epoch shows the training images as often as it takes. Rows `gpu_resnet50_224`: the cache against the other two.
"""
import json, os, sys
from functools import partial

os.environ['CUDA_VISIBLE_DEVICES'] = '' if 'cpu' in sys.argv else os.environ.get('CUDA_VISIBLE_DEVICES') or '0'  # common.py hides GPUs from the others
from common import UNSET, ask, get_parser, get_row, interleave, keep_rows
import numpy as np, pandas as pd, torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.torch_core import TensorImage, set_seed
from fastai.vision.core import TensorCategory

from imgclf_nb.backbones import get_backbone
from imgclf_nb.base.architectures import get_expected
from imgclf_nb.datasets.cards import get_card
from imgclf_nb.base.machine import get_device, get_processor, set_allocator
from imgclf_nb.data import get_items
from imgclf_nb.models.features import get_preprocessing
from imgclf_nb.training.learner import get_learner
from imgclf_nb.training.loaders import DeviceMaker, get_dls
from imgclf_nb.splitting import get_splits
from imgclf_nb.train import split_model
from steps import Clock
from stock import get_stock_dls

SIDES, PUBLISHED = ('cache', 'synthetic', 'fastai'), dict(published_images_per_second=2500, published_on='A100')  # "about 2,500 on an A100": issue 4


def get_many(dataset, n):
    "Items with so many training images, each as often as it takes, and a few for validation"
    items = get_splits(get_items(dataset))
    train, valid = [items[items.split == s] for s in ('train', 'valid')]
    many = pd.concat([*[train]*-(-n//len(train)), valid[:8]], ignore_index=True)
    many.attrs = items.attrs
    return many


def get_cached_dls(items, pre, batch):
    "Our loaders; on a processor, too, with the images as a device would hold them"
    dls = get_dls(items, pre, 'medium', batch, 0)
    m = dls.train.maker
    if get_device() == 'cpu': dls.train.maker = DeviceMaker(m.view, pre, m.policy, 0, 'cpu', free=10**9)
    return dls


def get_synthetic_dls(classes, size, batch, n):
    "n times one random batch that stays on the device"
    device = torch.device(get_device())
    x = TensorImage(torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last))
    y = TensorCategory(torch.from_numpy(np.arange(batch) % classes).to(device))
    dls = DataLoaders(*(DataLoader([(x, y)]*k, bs=None, num_workers=0) for k in (n, 1)), device=device)
    dls.vocab = list(range(classes))
    return dls


def make_stock_learner(items, arch, model, size, batch):
    "fastai as it comes, in half precision on a GPU"
    expected = get_expected(arch)
    dls = get_stock_dls(items, [expected['mean'], expected['std']], size, batch)
    learn = Learner(dls, model, loss_func=torch.nn.CrossEntropyLoss(), metrics=accuracy)
    return learn.to_fp16() if get_device() == 'cuda' else learn


def make_own_learner(dls, model):
    "Ours in the layout and precision that are usually fastest"
    precision = 'fp16' if get_device() == 'cuda' else 'bf16'
    way = dict(layout='channels_last', precision=precision, micro=None)
    return get_learner(dls, model, way=way, splitter=split_model, wd=.01)


def make_own_dls(side, items, pre, batch, steps):
    "From the pixel cache, or images that are already there"
    if side == 'cache': return get_cached_dls(items, pre, batch)
    return get_synthetic_dls(len(pre.classes), pre.size, batch, steps)


def measure_one(side, arch, size, batch, warm, steps, dataset):
    "Images a second of one side in this process"
    set_seed(0)
    items = get_many(dataset, batch*(warm + steps))
    classes = sorted(items.label.unique())
    model = get_backbone(arch, len(classes), 'none').train()
    clock = Clock(warm + steps)
    resident = False
    if side == 'fastai':
        learn = make_stock_learner(items, arch, model, size, batch)
        learn.add_cb(clock)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-3)
    else:
        set_allocator()
        pre = get_preprocessing(arch, size, classes, get_card(dataset).resize)
        dls = make_own_dls(side, items, pre, batch, warm + steps)
        learn = make_own_learner(dls, model)
        learn.add_cb(clock)
        with learn.no_bar(), learn.no_logging(): learn.fit_all(1, 1e-3, pretrained=False)
        resident = side == 'cache' and dls.train.maker.resident is not None
    seconds = clock.times[-1] - clock.times[warm-1]
    return dict(images_per_second=batch*steps/seconds, device=get_processor(), resident=resident)


def get_job(options):
    "Network and size, and `(batch, warm, steps, dataset)`"
    if options.quick: return ('mobilenetv3_small_050', 64), (8, 1, 3, 'pc_parts_mini')
    return ('resnet50', 224), (options.batch, 10, 60, options.data)


def compare(options):
    "Measure the sides in turn, keep the rows and print the speed of ours"
    (arch, size), (batch, warm, steps, _) = get_job(options)
    more = ['--data', options.data, '--batch', batch, '--device', options.device, *['--quick']*options.quick]
    seen = {}

    def measure(side):
        seen[side] = ask('gpu.py', '--one', side, *more, env=UNSET)
        return seen[side]['images_per_second']

    measure('cache')  # fills the cache, and is not counted
    rates = interleave({side: partial(measure, side) for side in SIDES}, 1 if options.quick else options.rounds)
    own = seen['cache']
    facts = dict(device=own['device'], resident=own['resident'], batch_size=batch, **PUBLISHED)
    rows = [get_row(f'gpu_{arch}_{size}', side, rates['cache'], rates[side], **facts) for side in SIDES[1:]]
    keep_rows(rows, options, batch*steps)
    published = f"about {PUBLISHED['published_images_per_second']} on an {PUBLISHED['published_on']}"
    print(f"{rates['cache'][0]:.0f} images a second on {own['device']}; published: {published}")


if __name__ == '__main__':
    a = get_parser(__doc__, rounds=3)
    a.add_argument('--device', choices=('cuda', 'cpu'), default='cuda', help='cpu: only with --quick, to see that it works')
    a.add_argument('--data', default='pc_parts', help='a set of JPEG files')
    a.add_argument('--batch', type=int, default=256)
    a.add_argument('--one', choices=SIDES, help='measure this side here, and print JSON')
    a = a.parse_args()
    if a.device == 'cpu' and not a.quick: sys.exit('On a processor these rows would say nothing: give --quick, or leave --device out.')
    if a.device == 'cuda' and get_device() != 'cuda':
        print('There is no CUDA device here: the rows gpu_resnet50_224 stay open.')
    elif a.one:
        network, work = get_job(a)
        print(json.dumps(measure_one(a.one, *network, *work)))
    else: compare(a)
