"""How long an audit takes, and how much memory: `.venv/bin/python benchmarks/audit.py [IMAGES] [FOLDER] [--keep]`

Draws a clean set (25,000 images of about 40 KB), audits it twice without the part that needs a model, and prints
seconds and peak memory of each audit, children included.
"""
import argparse, os, resource, subprocess, sys, tempfile, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from imgclf_nb.datasets import miniatures as M
from kept import keep_plain

CLASSES = sorted(M.COMPUTER_PARTS)


def draw(job):
    folder, i = job
    rng, c = np.random.default_rng(i), CLASSES[i % len(CLASSES)]
    path = Path(folder)/c/f'{i}.jpg'
    if not path.exists(): M.save_image(path, M.draw_object(M.COMPUTER_PARTS[c], rng, int(rng.integers(320, 480)), int(rng.integers(240, 360))))


def audit(folder, out):
    t0 = time.time()
    exe = Path(sys.executable).parent/'imgclf_audit'
    subprocess.run([exe, folder, '--no-labels', '--out', out], check=True, stdout=subprocess.DEVNULL)
    return time.time() - t0, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/1024


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('images', nargs='?', type=int, default=25_000)
    a.add_argument('folder', nargs='?', help='where the images are drawn; else a temporary one')
    a.add_argument('--keep', action='store_true', help='also into benchmarks/results/costs.json')
    a = a.parse_args()
    n, folder, rows = a.images, a.folder or tempfile.mkdtemp(), []
    with ProcessPoolExecutor() as ex: list(ex.map(draw, ((folder, i) for i in range(n)), chunksize=50))
    size = np.mean([os.path.getsize(p) for p in list(Path(folder).rglob('*.jpg'))[:500]])/1024
    for name in ('first', 'second'):
        seconds, memory = audit(folder, tempfile.mkdtemp())
        print(f'{name} audit: {n:,} images of {size:.0f} KB in {seconds:.0f} s, {1000*seconds/n:.1f} ms an image, peak memory of a process {memory:.0f} MB')
        rows.append(dict(what=f'audit without labels, {n:,} synthetic images of {size:.0f} KB: {name}', seconds=round(seconds, 1), images=n))
    if a.keep: keep_plain('costs', rows)
