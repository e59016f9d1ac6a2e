"""Coverage of the learning curve's forecast: the gain in accuracy from twice the images, and the accuracy that is then measured

Every image has a difficulty that does not change from one size to the next, alike within its group; every training has luck of
its own, as a whole and image by image. The error rate of the whole population is exactly `a + b·n^−c`, so the gain is known."""
from dataclasses import dataclass

import numpy as np

from coverage import Case
from imgclf_nb.learning_curve import get_forecast


@dataclass
class Curve:
    "What determines a study"
    floor:float = .05
    error:float = .15    # at the largest size
    c:float = .5
    sizes:int = 6        # each twice the one before
    seeds:int = 5
    images:int = 400     # of the validation split
    group:int = 1        # images in each group
    alike:float = .5     # correlation of difficulty inside a group
    steady:float = .85   # share of an image's luck that is its difficulty
    training:float = .05 # standard deviation between trainings, on the probit scale
    probe:bool = True    # with all images, every seed is the same training
    largest:int = 1600

    def at(self, n): return self.floor + (self.error - self.floor)*(np.asarray(n, float)/self.largest)**-self.c
    def gain(self): return float(self.at(self.largest) - self.at(2*self.largest))


def draw_curve(s):
    "A function that draws `measured` of `measure_probe`, with one more size: twice the largest"
    from scipy.stats import norm
    def draw(rng):
        n = s.largest/2.**np.arange(s.sizes - 1, -2, -1)
        groups = -(-s.images//s.group)
        units = np.repeat(np.arange(groups), s.group)[:s.images]
        hard = rng.normal(size=s.images)
        if s.group > 1: hard = np.sqrt(s.alike)*rng.normal(size=groups)[units] + np.sqrt(1 - s.alike)*hard
        luck = rng.normal(size=(len(n), s.seeds, s.images))
        trainings = s.training*rng.normal(size=(len(n), s.seeds, 1))
        wrong = np.sqrt(s.steady)*hard + np.sqrt(1 - s.steady)*luck + trainings < np.sqrt(1 + s.training**2)*norm.ppf(s.at(n).clip(0, .98))[:, None, None]
        if s.probe: wrong[-2:] = wrong[-2:, :1]
        pictures = np.repeat(n[:-1, None], s.seeds, 1)
        return dict(wrong=wrong[:-1], pictures=pictures, units=units), float(1 - wrong[-1].mean())
    return draw


def get_gain(sample): return get_forecast(sample[0])['gain']


def get_offset(sample):
    "The band of the accuracy that will be measured, minus that accuracy"
    then = get_forecast(sample[0])['then']
    return dict(low=then['low'] - sample[1], high=then['high'] - sample[1])


def assume_one_law(sample):
    "Least squares with the true exponent known, and the spread of the seeds alone: too narrow where images are few"
    measured = sample[0]
    errors, n = measured['wrong'].mean(2), measured['pictures'].mean(1)
    x = np.c_[np.ones(len(n)), (n/n[-1])**-.5]
    fit = np.linalg.pinv(x)[1]*(1 - 2**-.5)
    half = 1.645*np.sqrt((fit**2*errors.var(1, ddof=1)/errors.shape[1]).sum())
    return dict(low=fit@errors.mean(1) - half, high=fit@errors.mean(1) + half)


def name(s):
    "The setting in words"
    images = f'{s.images} images' + (f' in groups of {s.group}' if s.group > 1 else '')
    return (f'{images}, {s.sizes} sizes, {s.seeds} seeds, error {s.error:g}, floor {s.floor:g}, c {s.c:g}, steady {s.steady:g}, '
        f'training {s.training:g}, gain {100*s.gain():.1f} points' + ('' if s.probe else ', all seeds differ'))


CURVES = [
    Curve(), *[Curve(images=o) for o in (100, 200, 1000)], *[Curve(seeds=o) for o in (3, 10)], Curve(sizes=5, seeds=3, images=100),
    Curve(sizes=5, seeds=3), Curve(floor=0), Curve(floor=0, c=.2), Curve(floor=.149), Curve(error=.03, floor=.01),
    Curve(error=.2, floor=.1), Curve(error=.3, floor=.1, c=.3), Curve(error=.08, c=1., sizes=5), Curve(group=5), Curve(group=10, alike=.8),
    Curve(training=.15), Curve(steady=.5), Curve(steady=.95, training=0), Curve(probe=False)]
NEEDED = .88  # of a 90 % band
CASES = [Case('gain from twice the images (90 % band)', name(s), draw_curve(s), s.gain(), dict(ours=get_gain, one_law=assume_one_law), 500,
    'groups' if s.group > 1 else 'single images', NEEDED) for s in CURVES]
CASES += [Case('accuracy with twice the images (90 % band)', name(s), draw_curve(s), 0., dict(ours=get_offset), 500,
    'groups' if s.group > 1 else 'single images', NEEDED) for s in CURVES[:8] + CURVES[15:]]


def count_words(replicates=100):
    "How often each curve is said to help: `python benchmarks/coverages/curves.py`"
    from imgclf_nb.learning_curve import describe_forecast
    for s in CURVES:
        draw, said = draw_curve(s), []
        for i in range(replicates): said.append(describe_forecast(get_forecast(draw(np.random.default_rng(i))[0])))
        counts = [sum(f') {word}:' in text for text in said) for word in ('would help', 'may help', 'would hardly help')]
        print(f'{name(s):150} would help {counts[0]/replicates:.2f}, may help {counts[1]/replicates:.2f}, would hardly help {counts[2]/replicates:.2f}')


if __name__ == '__main__': count_words()
