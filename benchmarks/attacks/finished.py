"""A finished run and its records, as a user has them: trained and evaluated on a synthetic miniature"""
import os, shutil
from pathlib import Path

from imgclf_nb.base.running import run_notebook
from imgclf_nb.data import get_items
from imgclf_nb.datasets.records import decide

DATASET = 'pc_parts_mini'
RECIPE = dict(dataset=DATASET, arch='mobilenetv3_small_050', weights='none', size=32, epochs=1,
    batch_size=16, precision='fp32')


def make_run(evaluated=True):
    "The folder of a run in IMGCLF_RUNS, with decisions, and with a ledger if it is evaluated"
    items = get_items(DATASET)
    decide(DATASET, list(items.file[:3]), 'keep', reason='it is right')
    folder = Path(os.environ['IMGCLF_RUNS'])/'first'
    run_notebook('04_train', str(folder), quiet=True, **RECIPE)
    if evaluated: run_notebook('05_evaluation', str(folder), quiet=True)
    return folder


def copy_places(source, target):
    "A copy of runs and records, which this process then uses"
    for name in ('runs', 'records'):
        shutil.copytree(source/name, target/name, symlinks=True)
        os.environ[f'IMGCLF_{name.upper()}'] = str(target/name)
