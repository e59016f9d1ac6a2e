"""From the rows of a benchmark to those of benchmarks/results/: which file each belongs to, and how it looks there.

A benchmark with --keep calls `keep_results`; a row becomes one with its title, its interval, and where it comes from.
"""
import shlex
import sys
from pathlib import Path

from imgclf_nb.results.measured import get_provenance, keep_measured

TITLES = dict(
    chest_xray='Chest X-ray',
    fruits360='Fruits-360',
    cats_vs_dogs='Cats and dogs',
    instruments='Instruments',
    pc_parts='PC parts')
FEW = ('seconds', 'their_seconds', 'decoded', 'decoding_share', 'checkpoint_share', 'rounds', 'batch_size', 'device',
    'images_per_second', 'their_images_per_second', 'megabytes', 'their_megabytes', 'speed', 'micro')


def get_command(argv):
    "What a user types for this call: without --keep, and of a folder only its name"
    script, *options = argv
    shown = [Path(o).name if Path(o).is_absolute() else o for o in options if o != '--keep']
    return shlex.join(['python', f'benchmarks/{Path(script).name}', *shown])


def get_ratio(row):
    "The ratio, with the range of the rounds where there are several"
    if row['rounds'] < 2: return row['ratio']
    return dict(value=row['ratio'], low=row['low'], high=row['high'])


def describe(row):
    "What every kept row has of a benchmark's row"
    few = {k: row[k] for k in FEW if row.get(k) is not None}
    return dict(what=row['what'], against=row['against'], ratio=get_ratio(row), **few)


def split_what(what, kinds):
    "`(kind, rest)` of a name such as loader_224_pc_parts, for the first kind that it begins with"
    for kind in kinds:
        if what.startswith(f'{kind}_'): return kind, what[len(kind) + 1:]
    return '', what


def place_set(row):
    "`(file, row)` of the ways from files to a model"
    side, name = split_what(row['what'], ('probe', 'train'))
    points = round(100*row['accuracy_difference'], 2)
    return 'whole_way', describe(row) | dict(set=name, title=TITLES.get(name, name), side=side,
        accuracy_points=points, accuracy_since=None)


def place_loader(row):
    "`(file, row)` of a loader"
    kind, name = split_what(row['what'], ('loader_first_224', 'loader_224'))
    file = 'loaders' if kind == 'loader_224' else 'first_pass'
    return file, describe(row) | dict(set=name, title=TITLES.get(name, name))


def place_step(row, models):
    "`(file, row)` of a training step"
    kind, name = split_what(row['what'], ('train', 'end_to_end'))
    arch, size, _ = models[name]
    file = 'steps' if kind == 'train' else 'end_to_end'
    return file, describe(row) | dict(model=f'{arch}, {size}', statistics='trained')


def place_paths(row):
    "`(file, row)` of each seed of the fast way against the plain one, and of their mean"
    name = split_what(row['what'], ('fast_path',))[1]
    about = dict(set=name, title=TITLES.get(name, name))
    points = {str(i): round(100*o, 2) for i,o in enumerate(row['accuracy_differences'])}
    points['mean'] = round(100*row['accuracy_difference'], 2)
    return [('fast_path', dict(about, seed=seed, accuracy_points=o)) for seed,o in points.items()]


def place(row, models):
    "`(file, row)`s of a benchmark's row; what has no file of its own goes to `others`"
    kind, name = split_what(row['what'], ('loader_first_224', 'loader_224', 'fast_path', 'end_to_end', 'probe', 'train'))
    if kind.startswith('loader') and row['against'] != 'files': return [place_loader(row)]
    if kind == 'fast_path': return place_paths(row)
    if kind in ('end_to_end', 'train') and name in models: return [place_step(row, models)]
    if kind in ('probe', 'train') and row['against'] == 'fastai': return [place_set(row)]
    return [('others', describe(row))]


def keep_results(rows, models, folder=None):
    "Write a benchmark's rows, each with its `images`, into benchmarks/results/; the names of the files"
    by_file = {}
    for row in rows:
        origin = get_provenance(get_command(sys.argv), row['images'])
        for file, kept in place(row, models): by_file.setdefault(file, []).append(kept | origin)
    for file, kept in by_file.items(): keep_measured(file, kept, folder)
    return list(by_file)


def keep_plain(file, rows, folder=None):
    "Write rows that already look as their file wants, each with its `images`; says so"
    kept = [{**row, **get_provenance(get_command(sys.argv), row['images'])} for row in rows]
    keep_measured(file, kept, folder)
    say_kept([file])


def say_kept(files):
    "What a benchmark with --keep prints"
    names = ', '.join(f'benchmarks/results/{file}.json' for file in files)
    print(f'Kept in {names}; `make tables` writes the tables and figures from there.')
