"""Accuracy against minutes: ours, stock fastai and Hugging Face's Trainer with the same time.

`.venv/bin/python benchmarks/minutes.py [--sets instruments] [--shares .25 1 4] [--seeds 0] [--tools ours fastai] [--test] [--keep]`

Same images and split; each cell (set, tool, share, seed) is a fresh process. The others fine-tune tf_efficientnet_lite0 at 224 pixels in
batches of 32; ours begins with it, and may join it with other networks that are at hand, on larger images. The budget of a set is what stock fastai's `fine_tune(3)` takes, from after the imports to its end; a share is a part of it.
`fastai`: one frozen epoch and as many others as come closest to the share, by the seconds of the budget's epochs. `huggingface`: as many
steps as come closest, by the seconds of a few steps, and once more by its own speed if that was a tenth off; its time counts as that of
fastai, and holds no evaluation. `huggingface_fast`: the same with a learning rate of 1e-3, since the example's 5e-5 is for transformers,
and too small for this network. `ours`: the command `imgclf_run SET --minutes N` with N = share x budget, on the clock from its start to
its end, with an empty cache but for what belongs to the machine (exports of backbones, costs of networks, execution plans); the longest
share is measured first, so that the others find the exports.
`first_answer`: `imgclf_run SET --quick`, likewise.

Finished cells are remembered in runs/bench/minutes and not repeated, unless --again or the budget, the images or their split are others.
Validation accuracy is that of the images on which ours has chosen its model. --test opens the test split, once all cells are there: it
lets each model predict the test images. Into runs/bench/minutes/MACHINE: rows.json, minutes.png, and printed as a table.
"""
import json
import os
import shutil
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
from filelock import FileLock

from common import BATCH, FIVE, HERE, UNSET, ask, get_folder, get_parser
from first_answer import forget, run_command
from imgclf_nb.core import write_json
from imgclf_nb.data import get_items
from imgclf_nb.results.artifacts import get_split_hash
from imgclf_nb.results.measured import describe_machine, get_provenance, keep_measured, read_measured
from imgclf_nb.splitting import get_splits
from imgclf_nb.stats.intervals import get_units
from imgclf_nb.stats.paired_tests import Answers
from kept import TITLES, get_command, say_kept
from paired import get_accuracy, get_difference_points
from sets import ARCH, SIZE

NAMES = dict(ours='ours, `--minutes`', first_answer='ours, `--quick`', fastai='fastai', huggingface='Hugging Face Trainer',
    huggingface_fast='Hugging Face Trainer, learning rate 1e-3')
RATES = dict(huggingface=5e-5, huggingface_fast=1e-3)
TRIED = 20  # steps by which the speed of the Trainer is measured
FREE = {**UNSET, 'OMP_NUM_THREADS': None}  # the environment of the others: no allocator and no number of threads of ours


# what is planned

def plan_epochs(seconds, first, each):
    "Epochs of `fine_tune` that come closest to these seconds; 0: only the frozen one, which ends after `first` seconds"
    return max(0, round((seconds - first)/each))


def plan_steps(seconds, first, each):
    "Steps that come closest to these seconds, at least one; the first ends after `first` seconds"
    return max(1, 1 + round((seconds - first)/each))


# what is remembered

class Store:
    "Finished cells by name, in a JSON that is always complete"
    def __init__(self, path): self.path = Path(path)

    def read(self):
        "All cells"
        return json.loads(self.path.read_text(encoding='utf-8')) if self.path.exists() else {}

    def get(self, name, **wanted):
        "A cell; None if it is not there, or was made with other values than these"
        cell = self.read().get(name)
        return cell if cell and all(cell.get(key) == value for key,value in wanted.items()) else None

    def put(self, name, cell):
        "Remember a cell; returns it"
        with FileLock(self.path.with_suffix('.lock')): write_json(self.path, {**self.read(), name: cell})
        return cell


# what runs in a fresh process

def write_answers(folder, split, items, predicted):
    "The predicted label of each image of a split"
    pd.DataFrame(dict(path=list(items.path), predicted=list(predicted))).to_csv(folder/f'answers_{split}.csv', index=False)


def predict_stock(learn, items):
    "The label that a fastai learner predicts for each image"
    with learn.no_bar(): probs = learn.get_preds(dl=learn.dls.test_dl(items))[0]
    return [learn.dls.vocab[i] for i in probs.argmax(1)]


def train_fastai(job, folder):
    "Train stock fastai: the whole `seconds`, those to the end of the `first` epoch, and those of `each` further one"
    from stock import EpochEnds, fit_stock
    began, clock = time.perf_counter(), EpochEnds()
    items = read_table(job)
    learn = fit_stock(items, ARCH, SIZE, BATCH, job['seed'], job['amount'], [clock])
    seconds, ends = time.perf_counter() - began, np.array(clock.ends) - began
    valid = items[items.split == 'valid']
    write_answers(folder, 'valid', valid, predict_stock(learn, valid))
    learn.save(folder/'model', with_opt=False)
    return dict(seconds=seconds, first=ends[0], each=np.diff(ends).mean() if len(ends) > 1 else None)


def train_huggingface(job, folder):
    "Train with Hugging Face: the whole `seconds`, those to the end of the `first` step, and those of `each` of the last steps"
    from huggingface import StepEnds, fit_trainer, predict_labels
    began, clock = time.perf_counter(), StepEnds()
    items = read_table(job)
    trainer = fit_trainer(items, ARCH, SIZE, BATCH, job['seed'], job['amount'], folder/'trainer', job['rate'], [clock])
    seconds, ends = time.perf_counter() - began, np.array(clock.ends) - began
    found = dict(seconds=seconds, first=ends[0], each=np.diff(ends)[-TRIED//2:].mean() if len(ends) > 1 else None)
    if job['tried']: return found
    valid = items[items.split == 'valid']
    write_answers(folder, 'valid', valid, predict_labels(trainer.model, valid, ARCH, SIZE, BATCH, folder/'trainer'))
    trainer.save_model(folder/'model')
    return found


def answer_fastai(folder, items, test):
    "The labels that a kept learner predicts for the test images"
    from stock import make_stock
    return predict_stock(make_stock(items, ARCH, SIZE, BATCH).load(folder/'model', with_opt=False), test)


def answer_huggingface(folder, items, test):
    "The labels that a kept model of Hugging Face predicts for the test images"
    from huggingface import TimmWrapperForImageClassification, predict_labels
    model = TimmWrapperForImageClassification.from_pretrained(folder/'model')
    return predict_labels(model, test, ARCH, SIZE, BATCH, folder/'trainer')


def answer_ours(folder, items, test):
    "The labels that a run of ours predicts for the test images"
    from imgclf_nb.inference import Predictor
    found = Predictor(str(folder/'run')).predict(list(test.path))
    if found.error.any(): sys.exit(f'Ours cannot read {found.path[found.error != ""].tolist()}.')
    return found.predicted


TRAIN = dict(fastai=train_fastai, huggingface=train_huggingface, huggingface_fast=train_huggingface)
ANSWER = dict(fastai=answer_fastai, huggingface=answer_huggingface, huggingface_fast=answer_huggingface, ours=answer_ours,
    first_answer=answer_ours)


def read_table(job):
    "Paths, labels and splits of a job"
    return pd.read_csv(job['table'], keep_default_na=False, dtype=str)


def do_job(job):
    "What a job asks for; the parent reads the result as JSON"
    folder = Path(job['folder'])
    if job['what'] == 'train': return TRAIN[job['tool']](job, folder)
    items = read_table(job)
    test = items[items.split == 'test']
    write_answers(folder, 'test', test, ANSWER[job['tool']](folder, items, test))
    return {}


# a set

class Bench:
    "The cells of a set"
    def __init__(self, dataset, options):
        self.dataset, self.name, self.options = dataset, Path(dataset).name, options
        self.items = get_splits(get_items(dataset))
        self.same = dict(data_hash=self.items.attrs['data_hash'], split_hash=get_split_hash(self.items.assign(file=self.items.path)))
        self.folder = get_place(options.quick)
        self.store = Store(self.folder/'cells.json')
        self.table = self.folder/f'{self.name}.csv'
        self.items[['path', 'label', 'split']].to_csv(self.table, index=False)
        self.fresh = set()  # made in this call: --again means once

    def get_cell_folder(self, tool, share, seed):
        "Where a cell keeps its model and its answers"
        return self.folder/name_cell(self.name, tool, share, seed)

    def ask(self, what, tool, folder, **more):
        "A fresh process; its result"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder/'job.json', dict(what=what, tool=tool, table=str(self.table), folder=str(folder), **more))
        return ask('minutes.py', '--job', folder/'job.json', env=FREE)

    def recall(self, name, make, again, **wanted):
        "The remembered cell, or a new one with what `make` returns; `again`: a new one in any case, once a call"
        wanted |= self.same
        known = self.store.get(name, **wanted)
        if known and (name in self.fresh or not again): return known
        cell = make()
        self.fresh.add(name)
        return self.store.put(name, {**cell, **wanted, **get_provenance(get_command(sys.argv), len(self.items))})

    def get_budget(self, seed):
        "The cell of fastai's `fine_tune(3)`: its seconds are the budget"
        tool, epochs = 'fastai', 1 if self.options.quick else 3
        def make(): return fit_fastai(self, 1, seed, epochs)
        return self.recall(name_cell(self.name, tool, 1, seed), make, self.options.again and tool in self.options.tools)

    def get_cell(self, tool, share, seed):
        "A cell with `seconds` and `work`, measured now or before"
        budget = self.get_budget(seed)
        if tool == 'fastai' and share == 1: return budget
        def make(): return MAKE[tool](self, tool, share, seed, budget)
        return self.recall(name_cell(self.name, tool, share, seed), make, self.options.again, budget=budget['seconds'])

    def predict_test(self, tool, share, seed):
        "Let a cell's model predict the test images, once"
        folder = self.get_cell_folder(tool, share, seed)
        if (folder/'answers_test.csv').exists(): return
        self.ask('answer', tool, folder)


def get_place(quick):
    "The folder of this machine's cells"
    machine = ''.join(letter if letter.isalnum() else '-' for letter in describe_machine())
    (place := get_folder(quick)/'minutes'/machine).mkdir(parents=True, exist_ok=True)
    return place


def name_cell(dataset, tool, share, seed):
    "Such as instruments-fastai-0.25-s0"
    return f'{dataset}-{tool}-{share:g}-s{seed}' if share else f'{dataset}-{tool}-s{seed}'


def say_epochs(epochs):
    "Such as 1 frozen epoch, 3 epochs"
    return '1 frozen epoch' + (f", {epochs} epoch{'s'*(epochs > 1)}" if epochs else '')


# how a cell is made

def fit_fastai(bench, share, seed, epochs):
    "fastai with so many epochs after the frozen one"
    folder = empty(bench.get_cell_folder('fastai', share, seed))
    return dict(bench.ask('train', 'fastai', folder, seed=seed, amount=epochs), work=say_epochs(epochs))


def make_fastai(bench, tool, share, seed, budget):
    "fastai with the epochs that come closest to the share"
    return fit_fastai(bench, share, seed, plan_epochs(share*budget['seconds'], budget['first'], budget['each']))


def try_huggingface(bench, seed):
    "The speed of the Trainer, remembered: the seconds to the end of the `first` step, and of `each` further one"
    tool, folder = 'huggingface', bench.folder/f'{bench.name}-huggingface-tried'
    def make(): return bench.ask('train', tool, empty(folder), seed=seed, amount=TRIED, rate=RATES[tool], tried=True)
    return bench.recall(folder.name, make, bench.options.again)


def make_huggingface(bench, tool, share, seed, budget):
    "The Trainer with the steps that come closest to the share; once more, by its own speed, if they are a tenth off"
    wanted, speed = share*budget['seconds'], try_huggingface(bench, seed)
    for _ in range(2):
        steps = plan_steps(wanted, speed['first'], speed['each'])
        folder = empty(bench.get_cell_folder(tool, share, seed))
        found = bench.ask('train', tool, folder, seed=seed, amount=steps, rate=RATES[tool], tried=False)
        if abs(found['seconds'] - wanted) < .1*wanted or steps < 2: break
        speed = dict(first=found['first'], each=(found['seconds'] - found['first'])/(steps - 1))
    return dict(found, work=f"{steps} step{'s'*(steps > 1)}")


def make_ours(bench, tool, share, seed, budget):
    "Ours within the share of the budget"
    minutes = share*budget['seconds']/60
    found = command_ours(bench, tool, share, seed, ['--minutes', f'{minutes:.3f}'], 'best')
    return dict(found, work=f'--minutes {minutes:.2f}')


def make_first(bench, tool, share, seed, budget):
    "The first answer"
    return dict(command_ours(bench, tool, share, seed, ['--quick'], 'best-probe'), work='--quick')


MAKE = dict(fastai=make_fastai, huggingface=make_huggingface, huggingface_fast=make_huggingface, ours=make_ours, first_answer=make_first)


def command_ours(bench, tool, share, seed, words, run):
    "`imgclf_run --run best` on the clock, which writes `run`; where a backbone was exported it does not count and is repeated"
    folder, cache = empty(bench.get_cell_folder(tool, share, seed)), bench.folder/'ours'
    (cache/'cache').mkdir(parents=True, exist_ok=True)
    words = [*words, '--run', 'best', '-p', 'seed', str(seed)]
    while True:
        before = list_exports(cache)
        forget(cache)
        found = run_command(HERE.parent, bench.dataset, cache, folder.name, words)
        if list_exports(cache) == before: break
        print('  A backbone was exported in this run: it does not count, and is repeated.', flush=True)
    keep_run(found['runs']/run, folder, bench.items)
    return dict(seconds=found['seconds'], cpu=found['cpu'])


def list_exports(cache):
    "The files of the exports of backbones"
    return sorted(path.name for path in (cache/'cache').glob('backbones/*.xml'))


def keep_run(run, folder, items):
    "Keep the run in the cell's folder, and its answers to the validation images, which have to be those of the others"
    if not (run/'run.json').exists(): sys.exit(f'The command has ended without a run {run}.')
    record = json.loads((run/'run.json').read_text(encoding='utf-8'))
    if record['status'] != 'done': sys.exit(f"{run} is {record['status']}, not done.")
    (folder/'run').symlink_to(run.resolve(), target_is_directory=True)
    table = pd.read_csv(run/'predictions.csv', keep_default_na=False, dtype=str)
    valid = table[table.split == 'valid']
    if set(valid.path) != set(items.path[items.split == 'valid']): sys.exit(f'{run} has validated on other images than the others.')
    write_answers(folder, 'valid', valid, valid.predicted)


def empty(folder):
    "The folder of a cell without the files that an earlier try has left in it"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# what they say

def read_answers(folder, split, items):
    "`Answers` of a cell to a split; None if it has not predicted it"
    path = folder/f'answers_{split}.csv'
    if not path.exists(): return None
    asked = items[items.split == split]
    predicted = pd.read_csv(path, keep_default_na=False, dtype=str).set_index('path').predicted.loc[list(asked.path)]
    classes = sorted(items.label.unique())
    numbers = {label: i for i,label in enumerate(classes)}
    targs, preds = asked.label.map(numbers).to_numpy(), predicted.map(numbers).to_numpy()
    return Answers(targs, preds, np.eye(len(classes))[preds], get_units(asked))


def read_all(bench, tool, share, split):
    "`Answers` of a tool, one for each seed; None where one is missing"
    answers = [read_answers(bench.get_cell_folder(tool, share, seed), split, bench.items) for seed in bench.options.seeds]
    return None if any(one is None for one in answers) else answers


def say_work(tool, share, cells, budgets):
    "What most of the cells have done; for ours the mean of the minutes"
    if tool == 'ours': return f'--minutes {share*mean(budgets)/60:.2f}'
    return Counter(cell['work'] for cell in cells).most_common(1)[0][0]


def say_command(bench, tool, share):
    "The command that makes this row alone"
    seeds = ' '.join(map(str, bench.options.seeds))
    shares = f' --shares {share:g}' if share else ''
    test = ' --test' if bench.options.test else ''
    return f'python benchmarks/minutes.py --sets {bench.name} --seeds {seeds}{shares} --tools {tool}{test}'


def get_row(bench, tool, share, cells):
    "A row of the results; with the test images once all tools have predicted them"
    valid, test = [read_all(bench, tool, share, split) for split in ('valid', 'test')]
    compared = share and tool != 'ours' and 'ours' in bench.options.tools
    ours = read_all(bench, 'ours', share, 'test') if compared else None
    budgets = [bench.get_budget(seed)['seconds'] for seed in bench.options.seeds]
    origin = {key: cells[-1][key] for key in ('commit', 'machine', 'date', 'images')}
    return dict(set=bench.name, title=TITLES.get(bench.name, bench.name), tool=tool, name=NAMES[tool], share=share, seeds=len(cells),
        work=say_work(tool, share, cells, budgets), command=say_command(bench, tool, share), budget=round(mean(budgets), 1),
        seconds=round(mean(cell['seconds'] for cell in cells), 1),
        valid=get_accuracy(valid), test=test and get_accuracy(test),
        difference_points=get_difference_points(ours, test) if ours and test else None, **origin)


def list_cells(options):
    "`(tool, share)` of each cell, the longest first, so that backbones are exported once; the first answer has no share"
    first = [('first_answer', None)]*('first_answer' in options.tools)
    return first + [(tool, share) for share in sorted(options.shares, reverse=True) for tool in options.tools if tool != 'first_answer']


def run_set(dataset, options):
    "The rows of a set"
    bench, made = Bench(dataset, options), {}
    for tool,share in list_cells(options):
        made[tool, share] = [bench.get_cell(tool, share, seed) for seed in options.seeds]
        print_row(get_row(bench, tool, share, made[tool, share]))
    if options.test:
        for tool,share in made:
            for seed in options.seeds: bench.predict_test(tool, share, seed)
    return [get_row(bench, tool, share, cells) for (tool,share),cells in made.items()]


def say_difference(points):
    "By how much ours is better, in words; '' if it was not compared"
    if points is None: return ''
    return '  ours {value:+.1f} ({low:+.1f} to {high:+.1f}) percentage points'.format(**points)


def print_row(row):
    "One line"
    split = 'test' if row['test'] else 'valid'
    accuracy = '{value:.3f} ({low:.3f}–{high:.3f})'.format(**row[split])
    share = f"{row['share']:g}" if row['share'] else '–'
    print(f"{row['set']:14} {row['tool']:17} {share:>5} {row['seconds']:8.1f} s of {row['budget']:.1f}  {row['work']:26} "
        f"{split} {accuracy}{say_difference(row['difference_points'])}", flush=True)


def keep_figure(rows, path):
    "The figure of these rows"
    from imgclf_nb.results.measured_minutes import plot_minutes
    plot_minutes([replace(read_measured('minutes'), rows=rows)]).figure.savefig(path, dpi=130)


def get_options(words=None):
    "The command line"
    a = get_parser(__doc__)
    a.add_argument('--sets', nargs='+', default=FIVE)
    a.add_argument('--shares', nargs='+', type=float, default=[.25, 1, 4], help='of the budget')
    a.add_argument('--seeds', nargs='+', type=int, default=[0])
    a.add_argument('--tools', nargs='+', default=list(NAMES), choices=list(NAMES))
    a.add_argument('--test', action='store_true', help='let the models predict the test images')
    a.add_argument('--again', action='store_true', help='measure these cells anew')
    a.add_argument('--job', help='do what this JSON asks for, here')
    return a.parse_args(words)


if __name__ == '__main__':
    options = get_options()
    if options.job:
        print(json.dumps(do_job(json.loads(Path(options.job).read_text(encoding='utf-8')))))
        sys.exit()
    place = get_place(options.quick)
    os.environ['IMGCLF_RECORDS'] = str(place/'records')  # no decisions and no remembered split, as where ours runs
    rows = [row for dataset in options.sets for row in run_set(dataset, options)]
    for row in rows: print_row(row)
    write_json(place/'rows.json', rows)
    keep_figure(rows, place/'minutes.png')
    if options.keep:
        keep_measured('minutes', rows)
        say_kept(['minutes'])
