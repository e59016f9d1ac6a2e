"""How much memory a training step needs, and how fast it is: `.venv/bin/python benchmarks/training_memory.py [--rounds 3]`

`.venv/bin/python benchmarks/training_memory.py --one SIDE ARCH SIZE` prints one measurement as JSON

Every layer is trained on fixed batches of 32 at 224 pixels, all cores, each measurement in a process of its own. `ours` is what 04
does with `layers=all` and pretrained weights: it keeps the statistics of batch normalisation, sets the allocator, and tries execution
plans first (the cache is empty), which counts. `default` is ours with the system's allocator (IMGCLF_MALLOC=0). Row `peak_memory_*`:
ratio = our peak of the resident memory over theirs, whole process; `speed` = our images a second over theirs.
"""
import json, resource, statistics

import numpy as np

from common import BATCH, MODELS, UNSET, ask, cold_cache, get_parser, keep_rows
from steps import Clock, get_fixed_dls, stock
from imgclf_nb.backbones import get_backbone
from imgclf_nb.base.machine import set_allocator

SIZE = 224
SIDES = dict(fastai={}, default=dict(IMGCLF_MALLOC='0'), ours=dict(IMGCLF_MALLOC='1'))


def train_as_04(arch, size, dls):
    "Our learner with the plan that 04 would take, and what begins its training"
    from imgclf_nb.train import split_model
    from imgclf_nb.training.autotune import get_execution_plan
    from imgclf_nb.training.learner import get_learner
    set_allocator()
    model = get_backbone(arch, dls.c, 'none')
    learn = get_learner(dls, model, way=get_execution_plan(model, arch, size, BATCH), splitter=split_model, wd=.01)
    return learn, lambda: learn.fit_all(1, 1e-3, pretrained=True)


def measure_one(side, arch, size, warm, steps):
    "Peak of the resident memory in MB, images a second, and the images in a pass, of one side in this process"
    dls = get_fixed_dls('fastai' if side == 'fastai' else 'ours', arch, size, warm + steps)
    learn, fit = (stock if side == 'fastai' else train_as_04)(arch, size, dls)
    clock = Clock(warm + steps)
    learn.add_cb(clock)
    fit()
    seconds = statistics.median(np.diff(clock.times[warm-1:]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
    return dict(peak_mb=round(peak), images_per_second=round(BATCH/seconds, 2), micro=getattr(learn, 'micro', None) or BATCH)


def ask_side(side, arch, size, warm, steps):
    "One measurement in a fresh process with an empty cache"
    with cold_cache():
        return ask('training_memory.py', '--one', side, arch, size, '--warm', warm, '--steps', steps, env={**UNSET, **SIDES[side]})


def get_memory_row(model, against, ours, theirs):
    "A row from the paired rounds of two sides"
    ratios = [a['peak_mb']/b['peak_mb'] for a,b in zip(ours, theirs, strict=True)]
    speeds = [a['images_per_second']/b['images_per_second'] for a,b in zip(ours, theirs, strict=True)]
    return dict(what=f'peak_memory_{model}', against=against, ratio=round(statistics.median(ratios), 3), low=round(min(ratios), 3),
        high=round(max(ratios), 3), rounds=len(ratios), speed=round(statistics.median(speeds), 2),
        megabytes=max(o['peak_mb'] for o in ours), their_megabytes=max(o['peak_mb'] for o in theirs), micro=ours[-1]['micro'],
        images_per_second=None)


def measure(model, rounds, warm, steps):
    "The rows of one model"
    arch = MODELS[model][0]
    got = {side: [] for side in SIDES}
    for i in range(rounds):
        for side in [*SIDES][i % 3:] + [*SIDES][:i % 3]:
            got[side].append(ask_side(side, arch, SIZE, warm, steps))
            print(f'  round {i+1} of {rounds}: {side} {got[side][-1]}', flush=True)
    pairs = (('', 'fastai', 'ours'), ('_default', 'fastai', 'default'))
    return [get_memory_row(model + name, theirs, got[ours], got[theirs]) for name,theirs,ours in pairs]


if __name__ == '__main__':
    a = get_parser(__doc__, rounds=3)
    a.add_argument('--one', nargs=3, metavar=('SIDE', 'ARCH', 'SIZE'), help='measure one side here, and print JSON')
    a.add_argument('--models', nargs='+', default=['lite0_224'], choices=list(MODELS))
    a.add_argument('--warm', type=int, default=2, help='steps that do not count')
    a.add_argument('--steps', type=int, default=6, help='steps that count')
    a = a.parse_args()
    if a.one: print(json.dumps(measure_one(a.one[0], a.one[1], int(a.one[2]), a.warm, a.steps)))
    else:
        how = (1, 1, 2) if a.quick else (a.rounds, a.warm, a.steps)
        for m in a.models: keep_rows(measure(m, *how), a)
