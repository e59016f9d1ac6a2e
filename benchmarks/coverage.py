"""Do the intervals that users see contain the truth, and are they as narrow as that allows?

Each module of benchmarks/coverages/ lists experiments as `CASES`: how to draw the data of one, the true value, and the methods
to hold against each other, of which `ours` is what users see. With --keep, rows go into benchmarks/results/coverage.json as
they are finished, so a simulation that was stopped goes on where it was: rows of the same commit with as many replicates are
not made again; with --missing, no row that is there is made again.
"""
import argparse, importlib, multiprocessing, sys, time, zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgclf_nb.results.measured import get_provenance, keep_measured, read_measured

sys.modules['coverage'] = sys.modules[__name__]  # the modules of coverages import Case from here
NEEDED = .93  # of 95 % intervals
VACUOUS = .95  # of the range
CASES, REPLICATES = [], None  # set by main, before its processes fork


@dataclass
class Case:
    "Experiments of one kind: how often is the true value inside the interval"
    metric:str      # e.g. 'accuracy'
    setting:str     # unique within the metric
    draw:callable   # of numpy's Generator: the data of one experiment
    truth:float     # the true value
    methods:dict    # name: function of the data that returns `low` and `high`; 'ours' first
    replicates:int = 500
    group:str = ''  # for the page, such as 'one giant group'
    needed:float = NEEDED
    span:float = 1. # the range of possible values

    def look(self, name, data):
        "`(held, width)`"
        found = self.methods[name](data)
        low, high = found['low'], found['high']
        return low - 1e-9 <= self.truth <= high + 1e-9, high - low


@dataclass
class Rate:
    "Experiments of one kind: how often does something happen that may happen rarely"
    metric:str      # e.g. 'a promise of at most 5 % errors is broken'
    setting:str     # unique within the metric
    draw:callable   # of numpy's Generator: the data of one experiment
    most:float      # largest rate allowed
    methods:dict    # name: function of the data that returns whether it happened; 'ours' first
    replicates:int = 500
    group:str = ''

    @property
    def needed(self): return 1 - self.most

    def look(self, name, data):
        "`(held, width)`; there is no width"
        return not self.methods[name](data), np.nan


def get_rng(case, number):
    "The same data in each run"
    return np.random.default_rng([zlib.crc32(f'{case.metric}/{case.setting}'.encode()), number])


def measure(case, replicates):
    "A row: for each method the share that held, and the mean width"
    looks = {name: [] for name in case.methods}
    for number in range(replicates):
        data = case.draw(get_rng(case, number))
        for name in looks: looks[name].append(case.look(name, data))
    held = {name: float(np.mean([o[0] for o in found])) for name,found in looks.items()}
    row = dict(metric=case.metric, setting=case.setting, group=case.group, replicates=replicates, needed=case.needed,
        coverage={name: round(v, 4) for name,v in held.items()})
    if isinstance(case, Rate): return row
    widths = {name: np.array([o[1] for o in found]) for name,found in looks.items()}
    vacuous = float((widths['ours'] > VACUOUS*case.span).mean())
    return row | dict(width={name: float(f'{v.mean():.4g}') for name,v in widths.items()}, vacuous=round(vacuous, 4))


def get_error(row, name='ours'):
    "Standard error of a coverage"
    p = row['coverage'][name]
    return (max(p*(1 - p), 1/row['replicates'])/row['replicates'])**.5


def describe(row):
    "A line for the terminal"
    marks = ' '.join(f"{name} {v:.3f}{'*' if v < row['needed'] else ''}" + (f" ({row['width'][name]:.3g})" if 'width' in row else '')
        for name,v in row['coverage'].items())
    return f"{row['metric']}; {row['group']}; {row['setting']}: {marks}  ± {get_error(row):.3f}"


def get_cases(only=()):
    "All cases, or those of some metrics or modules"
    folder = Path(__file__).parent/'coverages'
    sys.path.insert(0, str(folder))
    cases = []
    for path in sorted(folder.glob('*.py')):
        found = getattr(importlib.import_module(path.stem), 'CASES', [])
        cases += [case for case in found if not only or {path.stem, case.metric} & set(only)]
    names = [(case.metric, case.setting) for case in cases]
    assert len(set(names)) == len(names), 'two cases have the same metric and setting'
    return cases


def find_done(command, any_commit=False):
    "Which (metric, setting, replicates) were kept at this commit, or at any"
    commit = get_provenance(command, 0)['commit']
    return {(row['metric'], row['setting'], row['replicates']) for row in read_measured('coverage').rows
        if any_commit or row['commit'] == commit}


def measure_number(number):
    "The row of one case: a forked process knows the cases"
    return measure(CASES[number], REPLICATES or CASES[number].replicates)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--only', nargs='*', default=(), metavar='NAME', help='metrics, or modules of benchmarks/coverages')
    a.add_argument('--replicates', type=int, help="instead of each case's own number")
    a.add_argument('--processes', type=int, default=2)
    a.add_argument('--keep', action='store_true', help='write rows into benchmarks/results/coverage.json')
    a.add_argument('--missing', action='store_true', help='as --keep, but only what has no row yet, of whatever commit')
    a = a.parse_args()
    a.keep = a.keep or a.missing
    global CASES, REPLICATES
    CASES, REPLICATES = get_cases(a.only), a.replicates
    command = 'python benchmarks/coverage.py'
    done = find_done(command, a.missing) if a.keep else set()
    todo = [i for i,o in enumerate(CASES) if (o.metric, o.setting, REPLICATES or o.replicates) not in done]
    print(f'{len(CASES)} settings, {len(todo)} to measure')
    began = time.time()
    with multiprocessing.get_context('fork').Pool(a.processes) as pool:
        for row in pool.imap_unordered(measure_number, todo):
            print(describe(row), flush=True)
            if a.keep: keep_measured('coverage', [row | get_provenance(command, 0)])
    print(f'{time.time() - began:.0f} s')


if __name__ == '__main__': main()
