"""Coverage of differences: what a careless split leaks, the shift to a given test, the drop on corrupted images

The data of one experiment are drawn as the chapters measure them. A model's answers are alike in two ways: images of a block
share their difficulty and their gain, and an image gets nearly the same answers in all repetitions. All true values are exact."""
from dataclasses import dataclass

import numpy as np, pandas as pd

from coverage import Case
from imgclf_nb.leakage import get_leakage
from imgclf_nb.stats.intervals import resample_units

REPEATS = 10
SIZES = {  # blocks: the number of images in each
    'single images': lambda k, rng: np.ones(k, int),
    'blocks of 5': lambda k, rng: np.full(k, 5),
    'blocks of 20': lambda k, rng: np.full(k, 20),
    'blocks of 1-8': lambda k, rng: rng.integers(1, 9, k),
    'log-normal blocks': lambda k, rng: np.maximum(1, rng.lognormal(1.5, 1, k).round().astype(int)),
    'one giant block': lambda k, rng: np.r_[int(7*(k - 1)/3*5), np.full(k - 1, 5)]}


def draw_beta(rng, mean, alike, k):
    "A probability for each block: the mean, and a correlation of `alike` between its images"
    if not alike or mean in (0, 1): return np.full(k, mean)
    scale = 1/alike - 1
    return rng.beta(mean*scale, (1 - mean)*scale, k)


@dataclass
class Leak:
    "What determines a bill: the truth is `(1 - accuracy)·gain - accuracy·loss`"
    kind:str = 'blocks of 1-8'
    k:int = 120
    accuracy:float = .9  # of the clean probe
    leak:float = 0.      # true, a share
    loss:float = .005    # share of correct images that the naive probe loses
    alike:float = .3     # correlation inside a block
    repeats:int = REPEATS
    same:float = .9      # share of images whose answers do not depend on the repetition

    def gain(self): return (self.leak + self.accuracy*self.loss)/(1 - self.accuracy)


def draw_tests(s, rng):
    "Which block and image is tested in which repetition: a fifth of the blocks, half of their images"
    sizes = SIZES[s.kind](s.k, rng)
    starts = np.r_[0, sizes.cumsum()]
    rows = []
    for repeat in range(s.repeats):
        for block in rng.choice(s.k, max(1, round(s.k/5)), replace=False):
            tested = rng.choice(sizes[block], max(1, sizes[block]//2), replace=False)
            rows.append(np.c_[np.full(len(tested), repeat), np.full(len(tested), block), starts[block] + tested])
    return sizes, np.concatenate(rows)


def draw_kept(rng, s, probability, tests, n):
    "A bool for each test: drawn once for an image, and in a tenth of the tests again"
    image = tests[:, 2]
    once = rng.random(n)[image]
    again = rng.random(len(tests))
    return np.where(rng.random(len(tests)) < s.same, once, again) < probability


def draw_leak(s):
    "A function that draws the rows of `measure_leakage`"
    def draw(rng):
        sizes, tests = draw_tests(s, rng)
        blocks, n = tests[:, 1], sizes.sum()
        easy, gain = draw_beta(rng, s.accuracy, s.alike, s.k), draw_beta(rng, min(1, s.gain()), s.alike, s.k)
        clean = draw_kept(rng, s, easy[blocks], tests, n)
        gains, loses = draw_kept(rng, s, gain[blocks], tests, n), draw_kept(rng, s, s.loss, tests, n)
        naive = np.where(clean, ~loses, gains)
        return pd.DataFrame(dict(repeat=tests[:, 0], block=blocks, label='a', twins=s.kind != 'single images', naive=naive, clean=clean))
    return draw


def resample_blocks(rows, draws=500):
    "The percentile interval over blocks and repetitions, as it was before"
    block, repeat = pd.factorize(rows.block)[0], rows['repeat'].to_numpy()
    shape = repeat.max() + 1, block.max() + 1
    by_repeat, by_block = resample_units(shape[0], draws), resample_units(shape[1], draws, 1)
    totals = []
    for x in (rows.naive.astype(float) - rows.clean, np.ones(len(rows))):
        cells = np.bincount(repeat*shape[1] + block, x, np.prod(shape)).reshape(shape)
        totals.append(((by_repeat@cells)*by_block).sum(1))
    low, high = np.nanpercentile(totals[0][1:]/totals[1][1:], [2.5, 97.5])
    return dict(low=low, high=high)


def average_blocks(rows):
    "The t interval of the blocks' sums, whose width is 0 without a difference"
    from scipy.stats import t
    x = rows.naive.astype(float) - rows.clean
    sums = np.bincount(pd.factorize(rows.block)[0], x - x.mean())
    k = len(sums)
    half = t.ppf(.975, k - 1)*np.sqrt((sums**2).sum()*k/(k - 1))/len(rows)
    return dict(low=x.mean() - half, high=x.mean() + half)


def get_ours(rows): return get_leakage(rows)['leakage']


def make_leak_case(s):
    "A case of the metric `leakage`"
    setting = (f'{s.k} {s.kind}, accuracy {s.accuracy:g}, leak {100*s.leak:g} points, correlation {s.alike:g}, '
        f'{s.repeats} repetitions, {100*s.same:g} % of the answers kept')
    methods = dict(ours=get_ours, percentile=resample_blocks, t=average_blocks)
    return Case('leakage', setting, draw_leak(s), s.leak, methods, 500, s.kind)


LEAKS = [
    *[Leak(leak=leak) for leak in (0, .007, .03, .1)],
    *[Leak(k=30, leak=leak) for leak in (0, .007, .03, .1)],
    *[Leak(k=400, leak=leak) for leak in (0, .007)],
    *[Leak('log-normal blocks', leak=leak) for leak in (0, .007, .1)],
    *[Leak('blocks of 20', 40, leak=leak) for leak in (.007, .1)],
    *[Leak('one giant block', 30, leak=leak) for leak in (0, .1)],
    Leak('single images', 200, loss=.01),
    Leak(accuracy=.99, leak=.007, loss=0), Leak(accuracy=.99, loss=.001),
    Leak(alike=.8, leak=.03), Leak(alike=0, leak=.03), Leak(repeats=2, leak=.03), Leak(same=.3, leak=.03), Leak(k=12, leak=.1)]
CASES = [make_leak_case(s) for s in LEAKS]
