"""The rows of the five sets: `.venv/bin/python benchmarks/projects.py [SET ...] [--runs FOLDER] [--busy] [--keep]`

Makes what is missing and takes what is finished: the fine-tuned run SET, the run SET-baseline of a small CNN from scratch, the audit
and the leakage run SET-leakage; --runs takes finished runs of a folder and makes nothing. Then a row in each of four tables: sets
(accuracies), evaluation, audits and leakage. --keep writes them into benchmarks/results/; `make tables` writes the tables from there.
"""
import argparse, json, shlex, subprocess, sys
from pathlib import Path

from imgclf_nb.base.runs import Run, get_runs_root
from imgclf_nb.core import UserError, get_records, get_root
from imgclf_nb.reporting.wording import look_up
from imgclf_nb.results.measured import get_run_provenance, keep_measured
from kept import TITLES, say_kept

BUSY = 'The seconds are left out: the machine did other work meanwhile.'
COMMANDS = {  # what a user types, by the table that it is for
    'sets': ('make train DATASET={0} RUN={0}',
        'papermill nbs/03_baseline.ipynb runs/{0}-baseline.ipynb -p dataset {0} -p run {0}-baseline',
        'papermill nbs/05_evaluation.ipynb runs/{0}-baseline-evaluation.ipynb -p run {0}-baseline'),
    'evaluation': ('imgclf_evaluate {0}',),
    'audits': ('imgclf_audit {0}',),
    'leakage': ('papermill nbs/01d_leakage.ipynb runs/{0}-leakage.ipynb -p dataset {0} -p run {0}-leakage',)}


def get_command(table, name):
    "The command of a row"
    return ' && '.join(COMMANDS[table]).format(name)


def make(name):
    "Run every command of a set that its results do not show as done"
    root = get_runs_root()
    steps = [*COMMANDS['sets'], *COMMANDS['audits'], *COMMANDS['leakage'], *COMMANDS['evaluation']]
    for step in steps:
        if is_made(step, name, root): continue
        command = step.format(name).replace('make train DATASET=', 'imgclf_run ').replace(' RUN=', ' --run ')
        tool, *options = shlex.split(command)
        print(f'\n{command}', flush=True)
        done = subprocess.run([Path(sys.executable).parent/tool, *options], cwd=get_root(), stdin=subprocess.DEVNULL)
        if done.returncode: raise UserError(f'{command} ended with code {done.returncode}: its own words stand above.')


def is_made(step, name, root):
    "Whether a step's result is there already"
    tool, *words = step.format(name).split()
    if tool == 'imgclf_audit': return (get_records(name)/'audit'/'audit.json').exists()
    if tool != 'papermill': return False  # these look themselves, and return at once
    run = Run(root/words[-1])
    if 'evaluation' in words[0]: return look_up(run.record, 'metrics.test.accuracy') is not None
    return run.done


def find_run(folder, name):
    "The finished run of this name; `UserError` if there is none"
    run = Run(folder/name)
    if run.done: return run
    raise UserError(f'There is no finished run {name} in {folder}: leave --runs out to make it, or wait for it.')


def find_leakage_run(folder, name):
    "The run SET-leakage, or the newest one of 01d on the set; `UserError` if there is none"
    if Run(folder/f'{name}-leakage').done: return Run(folder/f'{name}-leakage')
    runs = [Run(path.parent) for path in folder.glob('*/run.json')]
    runs = [run for run in runs if run.done and run.record['notebook'] == '01d_leakage' and run.record['dataset'] == name]
    if not runs: return find_run(folder, f'{name}-leakage')  # which says what to do
    return max(runs, key=lambda run: run.record['started'])


def shorten(x, scale=1):
    "A value or `{value, low, high}`, times a factor, with four decimals; None where nothing was measured"
    if x is None: return None
    if not isinstance(x, dict): return round(scale*x, 4)
    if x.get('value') is None: return None
    if None in (x.get('low'), x.get('high')): return round(scale*x['value'], 4)
    return {k: round(scale*x[k], 4) for k in ('value', 'low', 'high')}


def get_set_row(name, folder, busy):
    "The row of the table sets"
    tuned, baseline = find_run(folder, name), find_run(folder, f'{name}-baseline')
    r, sizes = tuned.record, tuned.record['split_sizes']
    shares = r['blend']
    kept = min(shares, key=get_loss)  # as 04 chooses
    return dict(set=name, title=TITLES[name], classes=len(r['classes']), **sizes,
        scratch_test=shorten(look_up(baseline.record, 'metrics.test.accuracy')),
        fine_tuned_test=shorten(look_up(r, 'metrics.test.accuracy')),
        frozen_valid=shorten(shares[0]['accuracy']),
        kept_valid=shorten(kept['accuracy']),
        train_seconds=None if busy else round(r['cost']['train_seconds'], 1),
        **get_run_provenance(r, get_command('sets', name), sum(sizes.values())))


def get_loss(share):
    "The validation loss of an interpolation, infinite where training diverged"
    return float('inf') if share['valid_loss'] is None else share['valid_loss']


def count_units(run):
    "How many groups the test images form; images without a group count one by one"
    from imgclf_nb.results.paired_predictions import find_items, get_prediction_units, get_tables
    table = next(iter(get_tables([run], 'test').values()))
    return len(set(get_prediction_units(table, find_items(table, run.record))[0]))


def get_evaluation_row(name, folder, busy):
    "The row of the table evaluation"
    run = find_run(folder, name)
    r, test = run.record, look_up(run.record, 'metrics.test')
    if not test or 'majority_rate' not in test: raise UserError(f'imgclf_evaluate {name} has not been run.')
    metrics = {k: shorten(test.get(k)) for k in ('accuracy', 'ece', 'sensitivity', 'specificity', 'auc')}
    n = r['split_sizes']['test']
    return dict(set=name, title=TITLES[name], test=n, units=count_units(run), **metrics,
        majority_rate=shorten(test['majority_rate']['value']),
        label_ceiling=shorten(r['label_ceiling']),
        test_label_ceiling=shorten(look_up(r, 'label_ceilings.test')),
        rule=look_up(r, 'operating_point.rule'),
        by_group_accuracy=shorten(look_up(r, 'by_group.test.accuracy')),
        **get_run_provenance(r, get_command('evaluation', name), n))


def get_audit_row(name, folder, busy):
    "The row of the table audits; audit.json knows no commit, the leakage run beside it does"
    audit, beside = read_audit(name), find_leakage_run(folder, name)
    return dict(set=name, title=TITLES[name], findings=audit['findings'],
        label_ceiling=shorten(audit['label_ceiling']),
        first_seconds=None if busy else audit['seconds'], second_seconds=None,
        **get_run_provenance(beside.record, get_command('audits', name), audit['pictures']),
        note='The commit is that of the leakage run beside the audit.')


def get_leakage_row(name, folder, busy):
    "The row of the table leakage"
    run, images = find_leakage_run(folder, name), read_audit(name)['pictures']
    found = run.record['leakage']
    return dict(set=name, title=TITLES[name], naive=shorten(found['naive']), clean=shorten(found['clean']),
        leakage_points=shorten(found['leakage'], 100) if found['twins'] else 'none: no related images',
        official=shorten(found.get('official')), shift_points=shorten(found.get('shift'), 100),
        related=shorten(found['twins']),
        **get_run_provenance(run.record, get_command('leakage', name), images))


def read_audit(name):
    "audit.json of a set; `UserError` if there is none"
    path = get_records(name)/'audit'/'audit.json'
    if path.exists(): return json.loads(path.read_text(encoding='utf-8'))
    raise UserError(f'There is no {path}: imgclf_audit {name} writes it.')


ROWS = dict(sets=get_set_row, evaluation=get_evaluation_row, audits=get_audit_row, leakage=get_leakage_row)


def collect(name, folder, busy=False, note=''):
    "`{table: row}` of a set, from finished runs; what is not finished is named, and its row left out"
    rows = {}
    for table, get_row in ROWS.items():
        try: row = get_row(name, folder, busy)
        except UserError as e:
            print(f'{name}, {table}: left out. {e}')
            continue
        left_out = BUSY if busy and table in ('sets', 'audits') else ''
        notes = ' '.join(filter(None, [row.get('note'), left_out, note]))
        rows[table] = {**row, 'note': notes} if notes else row
    return rows


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('sets', nargs='*', default=list(TITLES), metavar='SET', help=f"of {', '.join(TITLES)}; none: all")
    a.add_argument('--runs', type=Path, help='take the finished runs of this folder, make nothing')
    a.add_argument('--busy', action='store_true', help='the machine did other work meanwhile: leave the seconds out')
    a.add_argument('--note', default='', help='a sentence for every row, such as where the images come from')
    a.add_argument('--keep', action='store_true', help='write the rows into benchmarks/results/')
    a = a.parse_args()
    unknown = sorted(set(a.sets) - set(TITLES))
    if unknown: sys.exit(f"There is no set {unknown[0]!r}: give some of {', '.join(TITLES)}.")
    for name in a.sets:
        try:
            if a.runs is None: make(name)
            rows = collect(name, a.runs or get_runs_root(), a.busy, a.note)
        except UserError as e: sys.exit(str(e))
        for table,row in rows.items():
            print(f'{table}: {json.dumps(row, ensure_ascii=False)}')
            if a.keep: keep_measured(table, [row])
        if a.keep: say_kept(rows)
