"""What the benchmarks share: rounds, fresh processes, the rows of bench.json, the table and the figure.

A row's ratio is how many times as fast ours is: the median over rounds, each of which asks every side once (interleaved),
so that a slow minute of the machine meets all of them. `low` and `high` are the smallest and the largest ratio of a round.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from imgclf_nb.base.machine import get_commit, get_plt
from imgclf_nb.base.runs import get_runs_root
from imgclf_nb.core import write_json
from kept import keep_results, say_kept

os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')  # the targets are for CPUs; give it a value to see what a GPU does

HERE, BATCH, SETS = Path(__file__).parent, 32, ('pc_parts', 'cats_vs_dogs')
MODELS = {'lite0_224': ('tf_efficientnet_lite0', 224, 2.5), 'mobilenetv3_small_050_224': ('mobilenetv3_small_050', 224, 1.8),
    'resnet18_128': ('resnet18', 128, 1.7), 'convnext_atto_128': ('convnext_atto', 128, 1.4)}  # name, size, target
UNSET = {k: None for k in os.environ if k.startswith(('MALLOC_', 'GLIBC_TUNABLES', 'LD_PRELOAD', 'IMGCLF_MALLOC'))}
FIVE = ('chest_xray', 'fruits360', 'cats_vs_dogs', 'instruments', 'pc_parts')
LEAST = {**{(f'loader_224_{s}', o): t for s in SETS for o,t in dict(fastai=20, torchvision=5).items()},
    **{(f'loader_strong_{s}', 'files'): 1 for s in SETS}, **{(f'second_start_{s}', '5 s'): 1 for s in SETS},
    **{(f'{k}_{m}', 'fastai'): t for m,(_,_,t) in MODELS.items() for k in ('train', 'end_to_end')},
    ('gpu_resnet50_224', 'synthetic'): .95, ('gpu_resnet50_224', 'fastai'): 2,
    **{(f'{k}_{s}', 'fastai'): t for s in FIVE for k,t in dict(probe=8, train=1).items()}}
MOST = {('loader_memory', '2000 images'): 1.1}
COLOURS = dict(zip(('fastai', 'fastai+mallopt', 'torchvision', 'torchvision.io', 'timm', 'datasets', 'albumentations', 'files'),
    ('#0072B2', '#56B4E9', '#D55E00', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#666666')))  # Okabe and Ito


def get_parser(doc, rounds=None):
    "An argument parser with the options that benchmarks share; `rounds` is the default of --rounds, where there are rounds"
    a = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds: a.add_argument('--rounds', type=int, default=rounds, help='every side is asked so many times')
    either = a.add_mutually_exclusive_group()
    either.add_argument('--quick', action='store_true', help='only see that it works: little work, into runs/bench-quick')
    either.add_argument('--keep', action='store_true',
        help='also into benchmarks/results/, with command, commit, machine and date')
    return a


def get_folder(quick=False):
    "Where bench.json and its figure lie"
    (p := get_runs_root()/('bench-quick' if quick else 'bench')).mkdir(parents=True, exist_ok=True)
    return p


def pin_core():
    "This process and its libraries on one core"
    import cv2, torch
    torch.set_num_threads(1); cv2.setNumThreads(1)
    if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    else: print('This system cannot keep a process on one core: only the thread counts of torch and OpenCV are set to 1.')


@contextmanager
def cold_cache():
    "An empty cache of its own for what runs inside; nothing of the user's is touched"
    old = os.environ.get('IMGCLF_CACHE')
    with tempfile.TemporaryDirectory() as folder:
        os.environ['IMGCLF_CACHE'] = folder
        try: yield Path(folder)
        finally: os.environ.pop('IMGCLF_CACHE') if old is None else os.environ.update(IMGCLF_CACHE=old)


def ask(script, *args, env=None):
    "The JSON in the last line that a fresh process of ours prints"
    args, env = [str(o) for o in args], {k: v for k,v in {**os.environ, **(env or {})}.items() if v is not None}
    r = subprocess.run([sys.executable, HERE/script, *args], stdout=subprocess.PIPE, text=True, env=env)
    if r.returncode: sys.exit(f"{script} {' '.join(args)} ended with code {r.returncode}: its own words stand above.")
    return json.loads(r.stdout.splitlines()[-1])


def interleave(sides, rounds):
    "`{name: [rate of each round]}` from `{name: function that measures once}`; who begins changes from round to round"
    names, rates = list(sides), {k: [] for k in sides}
    for i in range(rounds):
        for k in names[i % len(names):] + names[:i % len(names)]: rates[k].append(sides[k]())
        print(f"  round {i+1} of {rounds}: " + ', '.join(f'{k} {v[-1]:.1f}' for k,v in rates.items()), flush=True)
    return rates


def get_row(what, against, ours, theirs, **more):
    "A row of bench.json from the rates of paired rounds, in images/s"
    ratios = [a/b for a,b in zip(ours, theirs, strict=True)]
    return dict(what=what, against=against, ratio=round(statistics.median(ratios), 3), low=round(min(ratios), 3),
        high=round(max(ratios), 3), rounds=len(ratios), images_per_second=round(statistics.median(ours), 1),
        their_images_per_second=round(statistics.median(theirs), 1), **more)


def read_rows(quick=False):
    "The rows of bench.json, none where there is no such file"
    path = get_folder(quick)/'bench.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else []


def keep_rows(rows, options, images=0):
    """Put rows into bench.json: each takes the place of the one with its (what, against), all others stay

    `options`: of the command line, with `quick` and `keep`; `images`: how many were measured, 0 for none of a set."""
    quick = options.quick
    path = get_folder(quick)/'bench.json'
    with FileLock(path.with_name('.bench.lock')):
        known = {(r['what'], r['against']): r for r in read_rows(quick)}
        known.update({(r['what'], r['against']): {**r, 'commit': get_commit()} for r in rows})
        write_json(path, list(known.values()))
    show_table(rows)
    if options.keep: say_kept(keep_results([{**r, 'images': images} for r in rows], MODELS))


def show_table(rows):
    "One line a row: ratio, range, target"
    for r in rows:
        key = r['what'], r['against']
        least, most = LEAST.get(key), MOST.get(key)
        met = least is None and most is None or (r['ratio'] >= least if least is not None else r['ratio'] <= most)
        target = f'target {least:g} or more' if least is not None else f'target {most:g} or less' if most is not None else ''
        more = ''.join(f'  {k} {v:g}' for k,v in r.items() if k in ('accuracy_difference', 'decoding_share', 'checkpoint_share', 'seconds', 'decoded'))
        print(f"{r['what']:37} {r['against']:15} {r['ratio']:8.2f}  ({r['low']:.2f}–{r['high']:.2f}, n={r['rounds']})  {target}"
            f"{'' if met else '  MISSED'}{more}", flush=True)


def select_speeds(rows):
    "The rows that compare speeds"
    return [r for r in rows if r.get('images_per_second') or 'accuracy_difference' in r]


def get_label(row):
    "What names a bar"
    return row.get('label') or f"{row['what']} / {row['against']}"


def plot_rows(rows, ax=None):
    "Rows that compare speeds: bars on a logarithmic axis, ranges of the rounds, a black line at each target; the `Axes`"
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
    plt = get_plt()
    rows = sorted(rows, key=get_label)[::-1]
    ax = ax or plt.subplots(figsize=(9, 1 + .22*len(rows)), layout='constrained')[1]
    for i,r in enumerate(rows):
        ax.barh(i, r['ratio'] - 1, left=1, color=COLOURS.get(r['against'], '#999999'), height=.7)
        ax.plot([r['low'], r['high']], [i, i], color='black', lw=1)
        least = LEAST.get((r['what'], r['against']))
        if least is not None: ax.plot([least]*2, [i-.45, i+.45], color='black', lw=2.5)
    ax.set(xscale='log', xlabel='times as fast as … (thin: range of the rounds; thick: target)', ylim=(-.8, len(rows) - .2),
        yticks=range(len(rows)), yticklabels=[get_label(r) for r in rows])
    ax.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=FuncFormatter(lambda x,_: f'{x:g}'),
        minor_locator=NullLocator())
    ax.grid(axis='x', alpha=.3); ax.set_axisbelow(True)
    return ax
