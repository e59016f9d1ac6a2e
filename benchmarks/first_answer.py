"""The first answer, `imgclf_run SET --quick`, side by side with another checkout: `.venv/bin/python benchmarks/first_answer.py OTHER`

OTHER is a clone of this project at the commit to compare with. Each set is answered in alternation by both, `cold` (the backbone's export is
there, nothing else: no features, no pixels, nothing read) and `known` (a new run with remembered features). Printed for each: seconds
on the clock, seconds of CPU time of all processes, validation accuracy. Where others use the machine, the CPU time is the fairer number.
`--stages` prints instead where the time of this checkout goes: the cells of the executed notebook, and what lies around them.
"""
import argparse, json, os, resource, shutil, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
FIVE = ('pc_parts', 'cats_vs_dogs', 'fruits360', 'instruments', 'chest_xray')


def find_command(checkout):
    "Module and function of `imgclf_run` in a checkout, whatever its age"
    line = next(o for o in (checkout/'settings.ini').read_text().splitlines() if 'imgclf_run=' in o)
    return line.partition('imgclf_run=')[2].strip().split(':')


def run_command(checkout, dataset, cache, name, options):
    "Seconds, CPU seconds and the folder of the runs of one command, whose records and runs are new"
    places = {f'IMGCLF_{o.upper()}': str(cache/f'{o}-{name}') for o in ('records', 'runs')}
    for place in places.values(): shutil.rmtree(place, ignore_errors=True)
    env = {**os.environ, **places, 'IMGCLF_CACHE': str(cache/'cache'), 'PYTHONPATH': str(checkout), 'HF_HUB_OFFLINE': '1'}
    for variable in ('IMGCLF_KERNELS', 'OMP_NUM_THREADS', 'PYTHONDONTWRITEBYTECODE'): env.pop(variable, None)  # as users have it
    module, function = find_command(checkout)
    code = f'import sys; sys.argv[0] = "imgclf_run"; from {module} import {function} as run; sys.exit(run())'
    command = [sys.executable, '-c', code, dataset, *options]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    r = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if r.returncode: sys.exit(f'{checkout}: {r.stdout}{r.stderr}')
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return dict(seconds=round(seconds, 2), cpu=round(cpu, 2), runs=cache/f'runs-{name}')


def answer(checkout, dataset, cache, name):
    "Seconds, CPU seconds and the run's folder of a first answer"
    row = run_command(checkout, dataset, cache, name, ['--quick'])
    [folder] = row.pop('runs').iterdir()
    return dict(row, folder=folder)


def forget(cache):
    "Delete what was read, decoded and computed; what belongs to the machine stays: exports of backbones, costs of networks, execution plans"
    for part in (cache/'cache').iterdir():
        if part.name not in ('backbones', 'tuning'): shutil.rmtree(part)


def measure(checkout, dataset, cache, rounds):
    "Yields the rows of one checkout and set; a first answer that makes the export does not count"
    for number in range(rounds):
        forget(cache)
        for state in ('cold', 'known'):
            row = answer(checkout, dataset, cache, f'{dataset}-{state}-{number}')
            record = json.loads((row.pop('folder')/'run.json').read_text())
            accuracy = record['metrics']['valid']['accuracy']['value']
            yield dict(set=dataset, state=state, **row, accuracy=round(accuracy, 4))


def prepare(checkout, cache):
    "Let the checkout export its backbone and choose its precision"
    if not (cache/'cache'/'tuning').exists() and not (cache/'cache'/'backbones').exists():
        answer(checkout, 'instruments', cache, 'prepare')


def show_stages(cache):
    "Print the cells of a known answer that take over 50 ms, and the rest"
    whole = answer(HERE, 'instruments', cache, 'stages')
    notebook = json.loads((whole['folder']/'04a_probe.ipynb').read_text())
    spent = 0.
    for cell in notebook['cells']:
        seconds = cell['metadata'].get('papermill', {}).get('duration') or 0.
        spent += seconds
        if seconds > .05: print(f"{seconds:6.2f} s  {''.join(cell['source']).splitlines()[-1][:80]}")
    papermill = notebook['metadata']['papermill']['duration']
    print(f'{spent:6.2f} s  all cells\n{papermill - spent:6.2f} s  papermill and the start of the kernel'
        f"\n{whole['seconds'] - papermill:6.2f} s  the command before and after")


def run(folder):
    "The comparison, with everything in this folder"
    caches = {'this': folder/'this', 'other': folder/'other'}
    for cache in caches.values(): (cache/'cache').mkdir(parents=True, exist_ok=True)
    checkouts = {'this': HERE, 'other': args.other and Path(args.other).resolve()}
    sides = [side for side,checkout in checkouts.items() if checkout]
    for side in sides: prepare(checkouts[side], caches[side])
    if args.stages: return show_stages(caches['this'])
    for dataset in args.sets:
        for side in sides:
            for row in measure(checkouts[side], dataset, caches[side], args.rounds): print(json.dumps(dict(side=side, **row)), flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('other', nargs='?', help='a clone at the commit to compare with; without it, only this checkout is measured')
    parser.add_argument('--sets', nargs='+', default=FIVE)
    parser.add_argument('--rounds', type=int, default=1)
    parser.add_argument('--stages', action='store_true', help='where the time goes')
    parser.add_argument('--folder', help='keep exports here for the next time')
    args = parser.parse_args()
    if args.folder: run(Path(args.folder).resolve())
    else:
        with tempfile.TemporaryDirectory() as folder: run(Path(folder))
