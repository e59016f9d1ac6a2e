"""Does the loader's memory grow with the set? `.venv/bin/python benchmarks/memory.py [--pictures 100000]`

Draws small JPEGs into a temporary folder (64 pixels, 0.4 GB for 100,000; the cache needs 2 GB more) and goes once through our training
loader over 2,000 and over all of them, each in two fresh processes: one fills an empty cache, the next is the one that counts. Measured is
the anonymous resident memory (RssAnon); mapped files are not in it. Row `loader_memory`: `megabytes` of the process after its imports
plus what the loader adds up to its highest point (not the table of the images), over the same for 2,000 images. Beside it:
what the loader alone adds (`added`), and what it adds where it has to decode first (`filling`).
"""
import hashlib, json, sys, tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2, numpy as np, pandas as pd

from common import BATCH, ask, cold_cache, get_parser, keep_rows
from imgclf_nb.models.features import get_preprocessing
from imgclf_nb.training.loaders import get_dls

CLASSES, SIDE, SMALL = 10, 64, 2000


def draw(job):
    "One JPEG: a coloured disc on a plain ground; its row of the table"
    folder, i = job
    rng, label = np.random.default_rng(i), f'class{i % CLASSES}'
    im = np.full((SIDE, SIDE, 3), rng.integers(0, 256, 3), np.uint8)
    cv2.circle(im, rng.integers(16, 48, 2).tolist(), int(rng.integers(6, 24)), rng.integers(0, 256, 3).tolist(), -1)
    data = cv2.imencode('.jpg', im)[1].tobytes()
    path = Path(folder)/label/f'{i//1000}'/f'{i}.jpg'  # no folder with a hundred thousand files
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return dict(path=str(path), file=str(path.relative_to(folder)), label=label, sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data), width=SIDE, height=SIDE, mode='RGB', split='valid' if i % 100 == 0 else 'train')


def get_anon():
    "Anonymous resident memory of this process, MB"
    status = Path('/proc/self/status')
    if not status.exists(): sys.exit('This benchmark reads /proc/self/status, which only Linux has.')
    return next(int(l.split()[1]) for l in status.read_text().splitlines() if l.startswith('RssAnon'))/1024


def measure_one(table):
    "MB after the imports, and what our loader adds while it is made and goes once through the images of a CSV"
    imported, items = get_anon(), pd.read_csv(table, keep_default_na=False)
    items.attrs.update(dataset=str(table), data_hash=hashlib.sha256(Path(table).read_bytes()).hexdigest(), unreadable=[], left_out=[])
    pre, start, n = get_preprocessing('tf_efficientnet_lite0', SIDE, sorted(items.label.unique())), get_anon(), 0
    dls = get_dls(items, pre, 'medium', BATCH, 0, 0)
    top = get_anon()
    for i,(xb,_) in enumerate(dls.train):
        n += len(xb)
        if i % 20 == 0: top = max(top, get_anon())
    return dict(imported=imported, added=max(top, get_anon()) - start, pictures=n)


def measure(pictures, small):
    "The row of two fresh processes, the second with more images"
    got = []
    with tempfile.TemporaryDirectory() as folder:
        with ProcessPoolExecutor() as ex: items = pd.DataFrame(ex.map(draw, ((folder, i) for i in range(pictures)), chunksize=500))
        for n in (small, pictures):
            items[:n].to_csv(table := Path(folder)/f'{n}.csv', index=False)
            with cold_cache(): first, second = [ask('memory.py', '--one', table) for _ in range(2)]
            got.append(dict(megabytes=second['imported'] + second['added'], added=second['added'], filling=first['added']))
            print(f"{second['pictures']} images, MB: {', '.join(f'{k} {v:.1f}' for k,v in got[-1].items())}", flush=True)
    a, b = got
    ratio = round(b['megabytes']/a['megabytes'], 3)
    return dict(what='loader_memory', against='2000 images', ratio=ratio, low=ratio, high=ratio, rounds=1, images_per_second=None,
        pictures=pictures, **{k: round(v, 1) for k,v in b.items()}, **{f'their_{k}': round(v, 1) for k,v in a.items()})


if __name__ == '__main__':
    a = get_parser(__doc__)
    a.add_argument('--pictures', type=int, default=100_000)
    a.add_argument('--one', help='go through the images of this CSV here, and print JSON')
    a = a.parse_args()
    if a.one: print(json.dumps(measure_one(a.one)))
    elif not a.quick and a.pictures <= SMALL: sys.exit(f'--pictures {a.pictures}: give more than {SMALL}, or --quick.')
    else:
        how = (1000, 200) if a.quick else (a.pictures, SMALL)
        keep_rows([measure(*how)], a, how[0])
