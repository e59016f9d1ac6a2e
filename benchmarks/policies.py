"""The rows of the augmentation studies: `.venv/bin/python benchmarks/policies.py [SET ...] [--runs FOLDER] [--busy] [--keep]`

Makes what is missing and takes what is finished: for each set the study aug-SET of 07a (none, medium, albumentations; a small CNN from
scratch at 64 pixels, five seeds, 400 corrupted images). --runs takes finished studies of a folder and makes nothing; --parts takes
parts-SET, the parts of albumentations one by one. Then rows in two tables: policies (accuracy, seconds) and corrupted. --busy leaves
the seconds out: a machine that did other work meanwhile.
"""
import argparse, json, shlex, subprocess, sys
from pathlib import Path

from imgclf_nb.base.runs import Run, get_runs_root
from imgclf_nb.core import UserError, get_root
from imgclf_nb.results.measured import get_run_provenance, keep_measured
from kept import TITLES, say_kept
from projects import find_run, shorten

SETS = ('pc_parts', 'instruments')
START = 'small CNN from scratch, 64 pixels'
STUDY = ("papermill nbs/07a_augmentation_study.ipynb runs/{run}.ipynb -p dataset {name} -p size 64 -p budget_minutes 60 "
    "-p corrupted 400 -p run {run} -y 'policies: [none, medium, albumentations]'")
PARTS = ("papermill nbs/07a_augmentation_study.ipynb runs/{run}.ipynb -p dataset {name} -p size 64 -p budget_minutes 60 "
    "-p parts only -p seeds 2 -p run {run} -y 'policies: [none, albumentations]'")
NOTES = dict(instruments='Another set of instrument images, in the place of the source that the card names.')
BUSY = 'The seconds are left out: the machine did other work meanwhile.'


def make(command, root):
    "Run a study's command, unless the study is complete"
    tool, *options = shlex.split(command)
    run = Run(root/options[options.index('run') + 1])
    if run.done and run.record['complete']: return
    print(command, flush=True)
    done = subprocess.run([Path(sys.executable).parent/tool, *options], cwd=get_root(), stdin=subprocess.DEVNULL)
    if done.returncode: raise UserError(f'{command} ended with code {done.returncode}: its own words stand above.')


def say_p(row):
    "A p-value as the table has it"
    if row['verdict'] == 'no difference found': return 'no difference found'
    return '< 0.001' if row['p'] < .001 else f"{row['p']:.3f}"


def get_trained(study, folder):
    "The run.json of one of the trainings, whose commit is that of the measurement"
    return json.loads((folder/study.record['runs'][0]/'run.json').read_text(encoding='utf-8'))


def get_about(study, name, command, folder, row, images):
    "What the rows of both tables begin and end with"
    about = dict(set=name, title=TITLES[name], start=START, policy=row['a'], against=row['b'])
    return about, get_run_provenance(get_trained(study, folder), command, images)


def get_note(name, busy):
    "What a reader must know about the rows of a set"
    note = ' '.join(filter(None, [NOTES.get(name), BUSY if busy else '']))
    return dict(note=note) if note else {}


def get_policy_rows(study, name, command, folder, busy):
    "The rows of the table policies"
    seconds = {row['policy']: row['train_seconds'] for row in study.record['policies']}
    rows = []
    for row in study.record['comparisons']:
        about, origin = get_about(study, name, command, folder, row, row['n'])
        gain = shorten(dict(value=row['difference'], low=row['low'], high=row['high']), 100)
        spent = {key: None if busy else round(seconds[row[side]], 1) for key,side in (('seconds', 'a'), ('against_seconds', 'b'))}
        rows.append(about | dict(gain_points=gain, p=say_p(row), seeds=row['seeds'], **spent) | origin | get_note(name, busy))
    return rows


def get_corrupted_rows(study, name, command, folder, images):
    "The rows of the table corrupted"
    rows = []
    seeds = {(row['a'], row['b']): row['seeds'] for row in study.record['comparisons']}
    for row in study.record['corrupted']:
        if row['corruption'] != 'all corruptions': continue
        about, origin = get_about(study, name, command, folder, row, images)
        gain = shorten(dict(value=row['difference'], low=row['low'], high=row['high']), 100)
        change = shorten(dict(value=row['drop_difference'], low=row['drop_low'], high=row['drop_high']), 100)
        found = dict(accuracy=row['accuracy_a'], against_accuracy=row['accuracy_b'], drop=row['drop_a'], against_drop=row['drop_b'])
        shares = {key: shorten(share) for key,share in found.items()}
        about |= dict(**shares, gain_points=gain, drop_points=change, seeds=seeds[row['a'], row['b']])
        rows.append(about | origin | get_note(name, False))
    return rows


def get_rows(name, folder, parts, busy):
    "The rows of a set, by table"
    run = f'parts-{name}' if parts else f'aug-{name}'
    command = (PARTS if parts else STUDY).format(name=name, run=run)
    study = find_run(folder, run)
    images = min([400, *(row['n'] for row in study.record['comparisons'])])
    return dict(policies=get_policy_rows(study, name, command, folder, busy),
        corrupted=get_corrupted_rows(study, name, command, folder, images))


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('sets', nargs='*', metavar='SET', default=SETS, help=f"of {', '.join(TITLES)}")
    a.add_argument('--runs', type=Path, help='a folder with finished studies: nothing is made')
    a.add_argument('--parts', action='store_true', help='parts-SET: the parts of albumentations one by one')
    a.add_argument('--busy', action='store_true', help='the machine did other work: leave the seconds out')
    a.add_argument('--keep', action='store_true', help='write the rows into benchmarks/results/')
    a = a.parse_args()
    tables = dict(policies=[], corrupted=[])
    try:
        for name in a.sets:
            if name not in TITLES: raise UserError(f"There is no set {name!r}: {', '.join(TITLES)}.")
            command = (PARTS if a.parts else STUDY).format(name=name, run=f"{'parts' if a.parts else 'aug'}-{name}")
            if not a.runs: make(command, get_runs_root())
            for table, rows in get_rows(name, a.runs or get_runs_root(), a.parts, a.busy).items(): tables[table] += rows
        for table, rows in tables.items():
            for row in rows: print(table, json.dumps(row, ensure_ascii=False))
            if a.keep and rows: keep_measured(table, rows)
    except UserError as e: sys.exit(str(e))
    if a.keep: say_kept([table for table, rows in tables.items() if rows])
