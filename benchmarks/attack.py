"""Nothing changes in silence: mutants of everything that is read, kills, signals and hostile names.

`.venv/bin/python benchmarks/attack.py [--quick] [--group archives] [--seed 0] [--case 17]`

Prints one table: group, tried, survived, lost, silent, tracebacks. *Survived*: proven right, the same
result or one sentence. *Lost*: what existed before is gone or is not counted. *Silent*: another result
without a word. *Tracebacks*: also what hung or died. Each failure comes with the command that repeats
it. Rows go to runs/bench/attack.csv (runs/bench-quick with --quick), and the exit code is 1 if anything
failed. --self-test plants wrong readers and demands that they are reported.
"""
import argparse, json, os, sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before numpy and torch
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import pandas as pd

from attacks.workers import GROUPS, load, run_group, work
from common import get_folder

SECONDS = dict(images=110, archives=110, servers=80, caches=80, weights=80, small_files=110,
    kills=240, commands=240, injection=150)  # on one core
QUICK = .1
COLUMNS = ('survived', 'lost', 'silent', 'traceback')


def get_options():
    "The command line"
    parser = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help='about a minute, into runs/bench-quick')
    parser.add_argument('--group', nargs='+', default=list(GROUPS), choices=GROUPS)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--n', type=int, help='cases of each group (default: what fits into the time)')
    parser.add_argument('--case', type=int, help='only this case of one group')
    parser.add_argument('--minutes', type=float, default=10, help='for all groups, on two cores')
    parser.add_argument('--jobs', type=int, default=2, help='groups at a time')
    parser.add_argument('--self-test', action='store_true', help='plant wrong readers')
    parser.add_argument('--worker', help='used by the script itself')
    return parser.parse_args()


def get_seconds(group, options):
    "The time of a group"
    if options.case is not None or options.n: return 3600
    return SECONDS[group]*(QUICK if options.quick else options.minutes/10)


def get_rows(group, options):
    "The rows of a group"
    first, n = (options.case, 1) if options.case is not None else (0, options.n or 100_000)
    report = partial(show_failure, group, options.seed)
    rows = run_group(group, options.seed, first, n, get_seconds(group, options), report=report)
    tried = sum(row['tried'] for row in rows)
    print(f'  {group}: {tried} tried', flush=True)
    return rows


def count(rows, groups):
    "One row a group: what was tried and how it ended"
    table = []
    for group in groups:
        own = [row for row in rows if row['group'] == group]
        row = dict(group=group, tried=sum(o['tried'] for o in own))
        failed = {name: sum(o['outcome'] == name for o in own) for name in COLUMNS[1:]}
        table.append(row | dict(survived=row['tried'] - sum(failed.values())) | failed)
    return pd.DataFrame(table).rename(columns=dict(traceback='tracebacks'))


def show_failure(group, seed, row):
    "A failing case with the shortest way to repeat it"
    if row['outcome'] == 'survived': return
    again = f"python benchmarks/attack.py --group {group} --seed {seed} --case {row['number']}"
    print(f"\n{row['outcome']}: {row['name']}: {row['reason']}\n  {again}", flush=True)


def say_nothing(row):
    "The report of a self-test, where failures are wanted"


def test_itself(options):
    "Plant each wrong reader; the names of those that were not reported"
    missed = []
    for group in options.group:
        for plant in load(group).PLANTS:
            rows = run_group(group, options.seed, 0, options.n or load(group).PLANTED, 600, plant,
                say_nothing)
            wanted = plant.split('-')[0]
            found = sum(row['outcome'] == wanted for row in rows)
            print(f'  {group}: {plant} was reported {found} times of {len(rows)}', flush=True)
            if not found: missed.append(f'{group} {plant}')
    return missed


def write_results(rows, table, options):
    "Into runs/bench, one row a case and one a group"
    folder = get_folder(options.quick)
    pd.DataFrame(rows).to_csv(folder/'attack_cases.csv', index=False)
    table.to_csv(folder/'attack.csv', index=False)
    print(f"\n{folder/'attack.csv'}, attack_cases.csv")


def main():
    "The whole attack"
    options = get_options()
    if options.worker:
        group, seed, first, n, seconds, plant = json.loads(options.worker)
        out = os.fdopen(os.dup(1), 'w')
        return work(group, seed, range(first, first + n), seconds, out, plant)
    if options.self_test:
        missed = test_itself(options)
        sys.exit(f"Not reported: {', '.join(missed)}" if missed else 0)
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = sum(pool.map(lambda group: get_rows(group, options), options.group), [])
    table = count(rows, options.group)
    print('\n' + table.to_string(index=False))
    write_results(rows, table, options)
    if table[['lost', 'silent', 'tracebacks']].to_numpy().any(): sys.exit(1)


if __name__ == '__main__': main()
