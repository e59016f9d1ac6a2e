"""How long an audit takes, and how much memory: `.venv/bin/python benchmarks/audit.py [PICTURES] [FOLDER]`

Draws a clean set (25,000 images of about 40 KB), audits it twice without the part that needs a model, and prints
seconds and peak memory of each audit, children included.
"""
import os, resource, subprocess, sys, tempfile, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from imgclf_nb.datasets import miniatures as M

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
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 25_000
    folder = sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()
    with ProcessPoolExecutor() as ex: list(ex.map(draw, ((folder, i) for i in range(n)), chunksize=50))
    size = np.mean([os.path.getsize(p) for p in list(Path(folder).rglob('*.jpg'))[:500]])/1024
    for name in ('first audit', 'second audit'):
        seconds, memory = audit(folder, tempfile.mkdtemp())
        print(f'{name}: {n:,} images of {size:.0f} KB in {seconds:.0f} s, {1000*seconds/n:.1f} ms an image, peak memory of a process {memory:.0f} MB')
