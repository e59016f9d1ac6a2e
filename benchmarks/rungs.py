"""What each rung of the ladder has brought, in the ladders that minutes.py has climbed

`.venv/bin/python benchmarks/rungs.py [--sets pc_parts] [--share 1] [--seeds 0 1 2] [--keep]`

Nothing is trained here: a rung's row says how many validation images the best model before it had wrong, and how many fewer the rung has
(negative: more), added up over the seeds in which it was climbed. `GAINS` of imgclf_nb.training.rungs are the
shares of errors that were removed, all sets together, at least 2 %, and guesses where there is no row. Into runs/bench/rungs.json, and as a table.
"""
from statistics import mean

import pandas as pd

from common import FIVE, get_folder, get_parser
from imgclf_nb.core import write_json
from imgclf_nb.results.measured import keep_measured
from kept import TITLES, say_kept
from minutes import Store, get_place, name_cell


ORIGIN = ('command', 'commit', 'machine', 'date')  # of the cell


def read_ladders(dataset, options):
    "The climbed rungs of a set, with the number of errors before each and of those that it removed"
    ladders = []
    for seed in options.seeds:
        name = name_cell(dataset, 'ours', options.share, seed)
        folder = get_place(options.quick)/name
        if not (folder/'run').exists(): continue
        rows = pd.read_csv(folder/'run'/'ladder.csv', keep_default_na=False)
        rows = rows[rows.error == '']
        if 'teaches' in rows: rows = rows[~rows.teaches]  # no candidates
        n = len(pd.read_csv(folder/'answers_valid.csv'))
        before = 1 - rows.accuracy.astype(float) + rows.gained
        cell = Store(get_place(options.quick)/'cells.json').read()[name]
        rows = rows.assign(**{key: cell[key] for key in ORIGIN})
        ladders.append(rows.assign(seed=seed, images=n, before=(n*before).round(), removed=(n*rows.gained).round()))
    return pd.concat(ladders) if ladders else pd.DataFrame()


def get_rows(dataset, rungs):
    "A row for each kind of rung, in the order in which they were climbed"
    rows = []
    for kind,some in rungs.groupby(rungs.kind.str.split('-').str[0], sort=False):
        if kind == 'first': continue
        rows.append(dict(set=dataset, title=TITLES.get(dataset, dataset), rung=kind, seeds=int(some.seed.nunique()),
            seconds=round(mean(some.seconds), 1), accuracy=round(float(some.accuracy.astype(float).mean()), 4),
            errors_before=int(some.before.sum()), removed=int(some.removed.sum()), images=int(some.images.iloc[0]),
            **{key: some[key].iloc[-1] for key in ORIGIN}))
    return rows


if __name__ == '__main__':
    a = get_parser(__doc__)
    a.add_argument('--sets', nargs='+', default=FIVE)
    a.add_argument('--share', type=float, default=1, help='of the budget')
    a.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    options, rows = a.parse_args(), []
    for dataset in options.sets:
        rungs = read_ladders(dataset, options)
        if len(rungs): rows += get_rows(dataset, rungs)
        else: print(f'{dataset}: no ladder at {options.share:g} of the budget is here; minutes.py climbs them.')
    write_json(get_folder(options.quick)/'rungs.json', rows)
    if options.keep:
        keep_measured('rungs', rows)
        say_kept(['rungs'])
    print(pd.DataFrame(rows).to_string(index=False))
