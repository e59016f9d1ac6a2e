"""What each option of 04 does to validation accuracy and time, against the recipe of the set's card

`.venv/bin/python benchmarks/options.py [--sets pc_parts] [--seeds 0 1 2] [--only 'policy strong'] [--again] [--keep]`

Base: `04_train` with the card's recipe, to its last epoch; then each option alone. Measured is the model that is kept, on the validation
images (the test split stays closed). `difference`: accuracy less that of the base, in percentage points, paired by image and seed, with its
95 % interval over units (duplicates, patients, videos) and seeds. `log_loss`: mean cross-entropy of the calibrated probabilities, in nats.
`time`: seconds of the epochs over those of the base. `teacher` learns from a probe of the same network, `joint teacher` from one of three
networks on larger images. Finished trainings are not repeated, unless --again. Into runs/bench/options.json, and as a table.
"""
import shutil
import sys
from statistics import mean

import numpy as np
import pandas as pd

from common import FIVE, get_folder, get_parser
from imgclf_nb.base.joint_names import name_joint
from imgclf_nb.base.running import run_notebook
from imgclf_nb.base.runs import Run
from imgclf_nb.core import write_json
from imgclf_nb.datasets.cards import get_card
from imgclf_nb.results.artifacts import get_true_probabilities, read_predictions
from imgclf_nb.results.measured import get_run_provenance, keep_measured
from imgclf_nb.stats.paired_tests import Answers
from heads import LITE
from kept import TITLES, get_command, say_kept
from paired import get_accuracy, get_difference_points

BASE = dict(patience=0)
OPTIONS = {'base': {}, 'label smoothing 0.1': dict(label_smoothing=.1), 'mixup': dict(mixup=.3), 'no mixup': dict(mixup=0.),
    'cutmix': dict(cutmix=1.), 'policy light': dict(policy='light'), 'policy strong': dict(policy='strong'), 'no averaged weights': dict(ema=0.),
    'progressive': dict(progressive=True), 'all layers': dict(layers='all'), 'late layers': dict(layers='late'), 'lr x 0.5': dict(lr=.5),
    'lr x 2': dict(lr=2.), 'larger images': dict(size=256), 'teacher': dict(teacher='probe'),
    'class weights': dict(class_weights=True), 'clipped gradients': dict(clip=1.), 'float32': dict(precision='fp32'),
    'joint teacher': dict(teacher='joint'), 'joint teacher, no mixup': dict(teacher='joint', mixup=0.)}
TEACHERS = dict(probe={}, joint=dict(arch=name_joint(LITE), size=256, head='ridge'))


def list_options(recipe):
    "The parameters of each option, without those that the recipe has already"
    found = {name: dict(o, lr=o['lr']*recipe['lr']) if 'lr' in o else o for name,o in OPTIONS.items()}
    return {name: o for name,o in found.items() if not o or any(recipe.get(key) != value for key,value in o.items())}


def run_once(notebook, folder, again, **given):
    "The finished run in a folder, made now or before"
    if again: shutil.rmtree(folder, ignore_errors=True)
    run_notebook(notebook, str(folder), quiet=True, **given)
    return Run(folder)


def make_teacher(dataset, name, place):
    "The run of a probe that teaches"
    return run_once('04a_probe', place/f'{dataset}-{name}', False, dataset=dataset, **TEACHERS[name])


def train(dataset, name, option, seed, options):
    "The run of one training"
    place = get_folder(options.quick)/'options'
    place.mkdir(parents=True, exist_ok=True)
    given = dict(BASE, **option, dataset=dataset, seed=seed, **(dict(epochs=1) if options.quick else {}))
    if 'teacher' in given: given['teacher'] = str(make_teacher(dataset, given['teacher'], place).path)
    return run_once('04_train', place/f"{dataset}-{name.replace(' ', '-')}-s{seed}", options.again, **given)


def read_valid(run):
    "`Answers` of a run to its validation images"
    table = read_predictions(run).query("split == 'valid'").sort_values('path')
    numbers = {label: i for i,label in enumerate(run.record['classes'])}
    preds = table.predicted.map(numbers).to_numpy()
    units = pd.factorize(table.group.where(table.group.fillna('') != '', table.path))[0]
    return Answers(table.label.map(numbers).to_numpy(), preds, np.eye(len(numbers))[preds], units)


def get_log_loss(run):
    "Mean cross-entropy of the calibrated probabilities of the validation images, in nats"
    table = read_predictions(run).query("split == 'valid'")
    return float(-np.log(get_true_probabilities(table).clip(1e-7)).mean())


def get_seconds(run):
    "Seconds of all epochs of a training; what comes before them depends on what an earlier one has stored"
    table = pd.read_csv(run.path/'history.csv')
    return float(table.seconds[table.epoch > 0].sum())


def describe_base(record):
    "The recipe in words, since a card may have another one later"
    parameters = record['parameters']
    shown = ('epochs', 'size', 'lr', 'policy', 'layers', 'ema', 'mixup')
    return 'base: ' + ', '.join(f'{name} {parameters[name]}' for name in shown)


def get_row(dataset, name, runs, base):
    "A row of the results"
    if runs is base: name = describe_base(runs[-1].record)
    answers, plain = [[read_valid(run) for run in some] for some in (runs, base)]
    times = [get_seconds(run)/get_seconds(other) for run,other in zip(runs, base)]
    return dict(set=dataset, title=TITLES.get(dataset, dataset), option=name, seeds=len(runs), accuracy=get_accuracy(answers),
        difference=None if runs is base else get_difference_points(answers, plain), time=round(mean(times), 2),
        log_loss=round(mean(get_log_loss(run) for run in runs), 3),
        **get_run_provenance(runs[-1].record, get_command(sys.argv), len(answers[0].targs)))


def measure(dataset, options):
    "The rows of a set"
    base, rows = None, []
    for name,option in list_options(get_card(dataset).recipe).items():
        if name not in ['base', *options.only]: continue
        runs = [train(dataset, name, option, seed, options) for seed in options.seeds]
        base = base or runs
        rows.append(get_row(dataset, name, runs, base))
        print(rows[-1], flush=True)
    return rows


if __name__ == '__main__':
    a = get_parser(__doc__)
    a.add_argument('--sets', nargs='+', default=FIVE)
    a.add_argument('--seeds', nargs='+', type=int, default=[0])
    a.add_argument('--only', nargs='+', default=list(OPTIONS), choices=list(OPTIONS))
    a.add_argument('--again', action='store_true', help='train anew')
    options, rows = a.parse_args(), []
    for dataset in options.sets:
        new = measure(dataset, options)
        rows += new
        write_json(get_folder(options.quick)/'options.json', rows)
        if options.keep: keep_measured('options', new)
    if options.keep: say_kept(['options'])
    print(pd.DataFrame(rows).drop(columns='title').to_string(index=False))
