"""Writes the tables of the README and of the chapters, and the figures, from benchmarks/results/: `make tables`

Measures nothing. What already agrees with the files is left as it is; --check only says what does not.
"""
import argparse
import json
import sys
from functools import partial

from imgclf_nb.core import UserError, get_root, write_text
from imgclf_nb.results.kept_settings import show_page_rows
from imgclf_nb.results.measured import list_measured, read_measured
from imgclf_nb.results.measured_coverage import show_coverage
from imgclf_nb.results.measured_figures import plot_measured
from imgclf_nb.results.measured_minutes import plot_minutes
from imgclf_nb.results.measured_sentences import say_measured
from imgclf_nb.results.measured_tables import fill_markers, fill_outputs, keep_figure
from imgclf_nb.results.measured_tables import plot_intervals, read_digest, get_digest, show_measured

SHOWN = dict(
    show_measured=show_measured,
    show_coverage=show_coverage,
    say_measured=say_measured,
    plot_measured=plot_measured,
    show_page_rows=show_page_rows)

SPEEDS = ('loaders', 'steps', 'end_to_end', 'whole_way')
ACCURACIES = dict(
    scratch_test='small CNN from scratch',
    fine_tuned_test='fine-tuned')


def plot_speeds(tables):
    "How many times as fast, a panel for each machine; the `Axes` of the last"
    from common import plot_rows
    from imgclf_nb.base.machine import get_plt
    rows = [row for table in tables for row in table.rows if row.get('ratio')]
    machines = list(dict.fromkeys(row['machine'] for row in rows))
    panels = {machine: [flatten(row) for row in rows if row['machine'] == machine] for machine in machines}
    heights = [4 + len(panel) for panel in panels.values()]
    axs = get_plt().subplots(len(panels), figsize=(11, .22*sum(heights)), layout='constrained', squeeze=False,
        gridspec_kw=dict(height_ratios=heights))[1].flat
    for ax, (machine, panel) in zip(axs, panels.items()): plot_rows(panel, ax).set_title(machine, fontsize=10)
    return ax


def flatten(row):
    "A kept row as the benchmarks have it, with a label: `what, against, ratio, low, high, label`"
    ratio = row['ratio'] if isinstance(row['ratio'], dict) else dict.fromkeys(('value', 'low', 'high'), row['ratio'])
    against = row['against'].replace('+mallopt', ', our allocator')
    return dict(what=row['what'], against=row['against'], ratio=ratio['value'], low=ratio['low'], high=ratio['high'],
        label=f"{name_bar(row)} / {against}")


def name_bar(row):
    "What was measured, in words"
    kind = next(kind for kind in KINDS if row['what'].startswith(kind))
    kept = ' (kept)' if row.get('statistics') == 'kept' else ''
    side = 'fine-tuned' if row.get('side') == 'train' else KINDS[kind]
    return f"{side}: {row.get('model') or row['title']}{kept}"


def plot_accuracies(tables):
    "Test accuracies of the five sets with their intervals; the `Axes`"
    ax = plot_intervals(tables[0], ACCURACIES)
    ax.set_xlabel('test accuracy (95 % interval)')
    return ax


KINDS = dict(
    loader='loader',
    train='step',
    end_to_end='loader and step',
    probe='first answer')

FIGURES = {  # file: tables, function that draws them
    'bench.png': (SPEEDS, plot_speeds),
    'accuracies.png': (('sets',), plot_accuracies),
    'minutes.png': (('minutes',), plot_minutes)}


def get_texts(root):
    "`(path, text as it should be)` of the README and of each chapter that shows measured results"
    readme = root/'README.md'
    yield readme, fill_markers(readme.read_text(encoding='utf-8'))
    for path in sorted((root/'nbs').glob('*.ipynb')):
        text = path.read_text(encoding='utf-8')
        if not any(f'{name}(' in text for name in SHOWN): continue
        notebook = fill_outputs(json.loads(text), calls=SHOWN)
        yield path, json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + '\n'


def find_stale(root):
    "What differs from benchmarks/results/: a function that writes it anew, by path"
    stale = {path: partial(write_text, path, text) for path, text in get_texts(root)
        if path.read_text(encoding='utf-8') != text}
    for name, (names, plot) in FIGURES.items():
        path, tables = root/'nbs'/'figures'/name, [read_measured(o) for o in names]
        if read_digest(path) != get_digest(tables): stale[path] = partial(keep_figure, plot, path, tables)
    return stale


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--check', action='store_true', help='write nothing; fail where something differs from the files')
    a = a.parse_args()
    try:
        stale = find_stale(get_root())
        if not a.check:
            for write in stale.values(): write()
        tables = len(list_measured())
    except UserError as e: sys.exit(str(e))
    names = ', '.join(path.name for path in stale)
    if a.check and stale: sys.exit(f'{names}: not as benchmarks/results/ has it. Run `make tables` and commit.')
    print(f"{tables} tables read; {'written anew: ' + names if stale else 'everything agrees with them'}.")
