"""From image files to normalised batches, images a second on one core: ours against six ways of others.

`.venv/bin/python benchmarks/loaders.py [--rounds 5] [--pictures 256] [--sets pc_parts cats_vs_dogs]`

All sides run in this process on one core, without loader processes, on the same images, with the allocator as the system has it
(`--mallopt`: with ours, for all of them). Others are written as their documentation does: random resized crop (their default
range), mirror, colour jitter of 0.2, normalise; fastai: Resize and aug_transforms. Each has read the images once before. Then
ours has them decoded in its cache: rows `loader_224_*`, with the policy medium. `loader_first_224_*` is its first pass, with an
empty cache. `decoding_share` is the share of the time from files that the cache saves. `loader_albumentations_*` is what the library
costs: the policy albumentations against medium, which has the same parts and ranges, both from the cache; --policies measures only that.
"""
import importlib.util, os, time

import numpy as np, torch

from common import BATCH, SETS, cold_cache, get_parser, get_row, interleave, keep_rows, pin_core
from imgclf_nb.datasets.cards import get_card
from imgclf_nb.base.machine import set_allocator
from imgclf_nb.data import get_items
from imgclf_nb.models.features import get_preprocessing
from imgclf_nb.training.loaders import get_dls
from imgclf_nb.splitting import get_splits
from others import OTHERS

ARCH, SIZE = 'tf_efficientnet_lite0', 224


def use_first_pass(items, pre):
    "Batches of ours with an empty cache"
    with cold_cache(): yield from get_dls(items, pre, 'medium', BATCH, 0, 0).train


def get_x(b):
    "The images of a batch"
    return b['x'] if isinstance(b, dict) else b[0]


def check_batch(name, x, size):
    "Stops where a batch is not what a model takes"
    if x.dtype != torch.float32 or x.shape != (BATCH, 3, size, size) or not x.min() < 0 < x.max():
        raise SystemExit(f"{name} gives {x.dtype} {tuple(x.shape)} from {x.min():.2f} to {x.max():.2f}, not normalised float32 "
            f"{(BATCH, 3, size, size)}.")


def get_rate(name, make, size, least):
    "Images a second through whole passes, until `least` seconds are over"
    n, t0 = 0, time.perf_counter()
    while n == 0 or time.perf_counter() - t0 < least:
        for b in make(): n += len(get_x(b))
    dt = time.perf_counter() - t0
    check_batch(name, get_x(b), size)
    return n/dt


def choose_images(dataset, pictures):
    "`(images, contract)`: some training images and two for validation"
    items = get_splits(get_items(dataset))
    pre = get_preprocessing(ARCH, SIZE, sorted(items.label.unique()), get_card(dataset).resize)
    train = items[items.split == 'train'].sample(frac=1, random_state=0)
    train, valid = train[:min(pictures, len(train))//BATCH*BATCH], items[items.split == 'valid'][:2]
    if train.empty: raise SystemExit(f"{dataset} has fewer than {BATCH} images for training, or --pictures is below that.")
    return items.loc[[*train.index, *valid.index]].reset_index(drop=True), pre


def measure_policies(dataset, pictures, rounds, least):
    "The row of albumentations against medium"
    few, pre = choose_images(dataset, pictures)
    loaders = {policy: get_dls(few, pre, policy, BATCH, 0, 0).train for policy in ('albumentations', 'medium')}
    sides = {policy: lambda policy=policy, dl=dl: get_rate(policy, lambda: iter(dl), SIZE, least) for policy,dl in loaders.items()}
    print(f'{dataset}: the same parts and ranges by Albumentations and by our own warp, {len(few) - 2} images a pass, one core')
    for f in sides.values(): f()  # once unmeasured: decoded
    r = interleave(sides, rounds)
    return [get_row(f'loader_albumentations_{dataset}', 'medium', r['albumentations'], r['medium'])]


def measure(dataset, pictures, rounds, least):
    "The rows of one set"
    few, pre = choose_images(dataset, pictures)
    others = dict(OTHERS)
    if importlib.util.find_spec('datasets') is None:
        del others['datasets']
        print("Hugging Face datasets is not installed (pip install -e '.[bench]'): its row is left out.")
    loaders = {k: f(few, pre) for k,f in others.items()}
    for policy in ('medium', 'strong'):
        for cache in (True, False): loaders[policy, cache] = get_dls(few, pre, policy, BATCH, 0, 0, cache=cache).train
    sides = {k if isinstance(k, str) else f"{k[0]} {'cached' if k[1] else 'from files'}": lambda v=v: iter(v) for k,v in loaders.items()}
    sides['first pass'] = lambda: use_first_pass(few, pre)
    sides = {k: lambda k=k, make=make: get_rate(k, make, SIZE, least) for k,make in sides.items()}
    print(f'{dataset}: {len(few) - 2} images a pass, one core')
    for f in sides.values(): f()  # once unmeasured: files into the system's cache, ours decoded
    r = interleave(sides, rounds)
    def row(what, against, ours, theirs, **more): return get_row(f'{what}_{dataset}', against, r[ours], r[theirs], **more)
    def share(p): return dict(decoding_share=round(float(1 - np.median(np.divide(r[f'{p} from files'], r[f'{p} cached']))), 3))
    return [*(row('loader_224', k, 'medium cached', k) for k in others), *(row('loader_first_224', k, 'first pass', k) for k in others),
        row('loader_224', 'files', 'medium cached', 'medium from files', **share('medium')),
        row('loader_strong', 'files', 'strong cached', 'strong from files', **share('strong')),
        *measure_policies(dataset, pictures, rounds, least)]


if __name__ == '__main__':
    a = get_parser(__doc__, rounds=5)
    a.add_argument('--pictures', type=int, default=256, help='a pass')
    a.add_argument('--sets', nargs='+', default=SETS)
    a.add_argument('--policies', action='store_true', help='only what the policy albumentations costs against medium')
    a.add_argument('--mallopt', action='store_true', help='our allocator setting for all sides')
    a = a.parse_args()
    if not a.mallopt: os.environ['IMGCLF_MALLOC'] = '0'
    elif not set_allocator(): raise SystemExit('The allocator of this system cannot be set.')
    pin_core()
    how = (64, 2, 0) if a.quick else (a.pictures, a.rounds, 1)
    for s in a.sets: keep_rows((measure_policies if a.policies else measure)(s, *how), a, images=how[0])
