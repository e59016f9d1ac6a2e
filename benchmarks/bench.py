"""All benchmarks, one after the other: `make bench`, and with --long the five sets and the memory too: `make bench-long`.

Writes runs/bench/bench.json (a list of what, against, ratio, low, high, rounds, images_per_second and more) and bench.png. What is in
bench.json from other benchmarks stays. Ratios mean little on a machine that does something else meanwhile.
"""
import os, subprocess, sys

from common import HERE, get_folder, get_parser, plot_rows, read_rows, select_speeds, show_table

SHORT = (['loaders.py'], ['steps.py'], ['steps.py', '--data', 'pc_parts'], ['start.py'], ['kernels.py'])
LONG = (['sets.py'], ['paths.py'], ['memory.py'], ['gpu.py'])

if __name__ == '__main__':
    a = get_parser(__doc__)
    a.add_argument('--long', action='store_true', help='also accuracy and time of the five sets, and the memory')
    a.add_argument('--figure', action='store_true', help='measure nothing: table and figure of what bench.json has')
    a = a.parse_args()
    if hasattr(os, 'getloadavg') and os.getloadavg()[0] > .5:
        print(f'This machine is busy with something else (load {os.getloadavg()[0]:.1f}): the ratios will be less sure.', flush=True)
    failed = []
    for script,*more in () if a.figure else SHORT + LONG*a.long:
        print(f"\n{' '.join([script, *more])}", flush=True)
        r = subprocess.run([sys.executable, HERE/script, *more, *['--quick']*a.quick, *['--keep']*a.keep])
        if r.returncode: failed.append(' '.join([script, *more]))
    rows = read_rows(a.quick)
    if not rows: sys.exit('There is nothing measured yet.')
    print(); show_table(rows)
    plot_rows(select_speeds(rows)).figure.savefig(get_folder(a.quick)/'bench.png', dpi=110)
    print(f"\n{get_folder(a.quick)/'bench.json'}, bench.png")
    if failed: sys.exit(f"These ended with an error, their own words stand above: {', '.join(failed)}.")
