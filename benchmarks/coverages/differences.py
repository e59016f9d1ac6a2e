"""Coverage of differences: what a careless split leaks, the shift to a given test, the drop on corrupted images

The data of one experiment are drawn as the chapters measure them. A model's answers are alike in two ways: images of a block
share their difficulty and their gain, and an image gets nearly the same answers in all repetitions. All true values are exact."""
from dataclasses import dataclass

import numpy as np, pandas as pd

from coverage import Case
from imgclf_nb.leakage import get_leakage, get_shift
from imgclf_nb.robustness import get_drop
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
    return Case('leakage', setting, draw_leak(s), s.leak, methods, 500, s.kind, span=2)


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


@dataclass
class Shift:
    "A clean probe and a given test of other difficulty; classes with other proportions in it"
    kind:str = 'blocks of 1-8'
    k:int = 120           # blocks, and as many of the given test
    classes:int = 2
    easy:float = .95      # accuracy of the first class; it falls evenly to
    hard:float = .85      # that of the last
    shift:float = 0.      # true, a share: how much less accurate the given test is
    alike:float = .3
    repeats:int = REPEATS

    def accuracies(self): return np.linspace(self.easy, self.hard, self.classes)
    def mix(self): return np.arange(self.classes, 0, -1)/np.arange(self.classes + 1).sum()


def draw_answers(rng, s, mean, tests, labels, n):
    "A bool for each test of blocks with these labels"
    p = np.array([draw_beta(rng, m, s.alike, 1)[0] for m in mean[labels]])
    return draw_kept(rng, Leak(), p[tests[:, 1]], tests, n)


def draw_shift(s):
    "A function that draws `(rows, given rows, units of the given test)`"
    def draw(rng):
        sizes, tests = draw_tests(Leak(s.kind, s.k, repeats=s.repeats), rng)
        labels = rng.permutation(np.arange(s.k) % s.classes)
        clean = draw_answers(rng, s, s.accuracies(), tests, labels, sizes.sum())
        rows = pd.DataFrame(dict(repeat=tests[:, 0], block=tests[:, 1], label=labels[tests[:, 1]], twins=True, clean=clean))
        sizes = SIZES[s.kind](s.k, rng)
        labels = np.repeat(np.arange(s.classes), np.round(s.mix()*s.k).astype(int))[:s.k]
        labels = np.r_[labels, np.zeros(s.k - len(labels), int)]
        units = np.repeat(np.arange(s.k), sizes)
        tests = np.concatenate([np.c_[np.full(len(units), r), units, np.arange(len(units))] for r in range(s.repeats)])
        correct = draw_answers(rng, s, s.accuracies() - s.shift, tests, labels, len(units))
        given = pd.DataFrame(dict(repeat=tests[:, 0], row=tests[:, 2], label=labels[tests[:, 1]], correct=correct))
        return rows, given, units
    return draw


def get_our_shift(sample): return get_shift(*sample)['shift']


def make_shift_case(s):
    "A case of the metric `shift`"
    setting = (f'{s.k} {s.kind}, {s.classes} classes, accuracy {s.easy:g} to {s.hard:g}, shift {100*s.shift:g} points, '
        f'correlation {s.alike:g}')
    return Case('shift', setting, draw_shift(s), s.shift, dict(ours=get_our_shift), 500, s.kind, span=2)


SHIFTS = [
    *[Shift(shift=shift) for shift in (0, .03, .1)], *[Shift(k=30, shift=shift) for shift in (0, .1)],
    Shift(easy=1, hard=1), Shift(easy=.995, hard=.99, shift=.007), Shift('log-normal blocks', shift=.03),
    Shift('blocks of 20', 40, shift=.03), Shift(k=200, classes=10, hard=.6, shift=.03), Shift(k=400, classes=131, shift=.03),
    Shift(alike=.8, shift=.1), Shift('single images', 300, shift=.03), Shift(k=12, shift=.1)]


@dataclass
class Drop:
    "The truth is `loss - gain·(1 - accuracy)/accuracy`"
    kind:str = 'single images'
    k:int = 200          # units
    accuracy:float = .9  # on clean images
    loss:float = .2      # share of the corrupted images that are lost
    gain:float = .05     # of the images that are wrong, the share that become correct
    alike:float = .3     # correlation between the images of a unit
    corruptions:int = 27

    def truth(self): return self.loss - self.gain*(1 - self.accuracy)/self.accuracy


def draw_drop(s):
    "A function that draws `(correct, units)` as `try_corruptions` finds them"
    def draw(rng):
        sizes = SIZES[s.kind](s.k, rng)
        units = np.repeat(np.arange(s.k), sizes)
        clean = rng.random(len(units)) < draw_beta(rng, s.accuracy, s.alike, s.k)[units]
        loss = draw_beta(rng, s.loss, s.alike, s.k)[units]
        if 0 < s.loss < 1: loss = rng.beta(np.maximum(1e-9, loss), np.maximum(1e-9, 1 - loss))  # an image's own
        correct = {('clean', 0): clean}
        for i in range(s.corruptions):
            u = rng.random(len(units))
            correct['blur', i + 1] = np.where(clean, u >= loss, u < s.gain)
        return correct, units
    return draw


def resample_drop(sample, draws=500):
    "The percentile interval over units, as it was before"
    correct, units = sample
    n = int(units.max()) + 1
    counts = resample_units(n, draws)
    totals = {k: counts@np.bincount(units, o, n) for k,o in correct.items()}
    clean = totals.pop(('clean', 0))
    if not clean[0]: return dict(low=0., high=1.)
    with np.errstate(invalid='ignore', divide='ignore'):
        low, high = np.nanpercentile((1 - np.mean(list(totals.values()), 0)/clean)[1:], [2.5, 97.5])
    return dict(low=low, high=high)


def get_our_drop(sample): return get_drop(*sample)


def make_drop_case(s):
    "A case of the metric `relative drop`"
    setting = (f'{s.k} {s.kind}, accuracy {s.accuracy:g}, loss {s.loss:g}, gain {s.gain:g}, correlation {s.alike:g}, '
        f'{s.corruptions} corruptions')
    return Case('relative drop', setting, draw_drop(s), s.truth(), dict(ours=get_our_drop, percentile=resample_drop), 500, s.kind, span=2)


DROPS = [
    *[Drop(k=k) for k in (20, 60, 200, 1000)], *[Drop(k=60, loss=loss) for loss in (.003, .02, .6)],
    Drop(k=60, loss=0, gain=0, accuracy=.99), Drop(k=200, loss=.02, accuracy=.99), Drop(k=200, accuracy=.3),
    *[Drop('blocks of 5', 40, loss=loss) for loss in (.02, .2)], Drop('blocks of 20', 20), Drop('blocks of 20', 40, alike=.8),
    Drop('blocks of 1-8', 40, loss=.05), Drop('log-normal blocks', 40), Drop('one giant block', 40), Drop(corruptions=1, k=100)]
CASES = [*map(make_leak_case, LEAKS), *map(make_shift_case, SHIFTS), *map(make_drop_case, DROPS)]
