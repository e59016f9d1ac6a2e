"""A chapter in a forked kernel against the same in a process of its own: `.venv/bin/python benchmarks/kernels.py`

Row `kernel_<chapter>` against `plain`: runs a minute of a chapter on a miniature, from the call to the executed notebook. The server from
which kernels are forked is started before and does not count; `seconds` is the median of a forked run.
"""
import os, statistics, tempfile, time

from common import get_parser, get_row, interleave, keep_rows
from imgclf_nb.base.kernels import can_fork
from imgclf_nb.base.running import run_notebook

CHAPTERS = {'03_baseline': dict(dataset='pc_parts_mini', size=32, epochs=1), '04_train': dict(dataset='chest_xray_mini', size=64)}


def run(chapter, fork):
    "Runs a minute, by one run"
    os.environ['IMGCLF_FORK'] = '1' if fork else '0'
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as d: run_notebook(chapter, f'{d}/x', quiet=True, **CHAPTERS[chapter])
    return 60/(time.perf_counter() - began)


if __name__ == '__main__':
    a = get_parser(__doc__, rounds=3).parse_args()
    if not can_fork(): raise SystemExit('Kernels are forked on Linux, where there is no GPU.')
    for _ in range(2): run('03_baseline', True)  # the first kernel is never forked, the second one waits for the server
    for chapter in CHAPTERS:
        rates = interleave(dict(forked=lambda: run(chapter, True), plain=lambda: run(chapter, False)), 1 if a.quick else a.rounds)
        row = get_row(f'kernel_{chapter}', 'plain', rates['forked'], rates['plain'])
        row = {k: v for k,v in row.items() if not k.endswith('images_per_second')} | dict(images_per_second=None)
        keep_rows([row | dict(seconds=round(60/statistics.median(rates['forked']), 1))], a)
