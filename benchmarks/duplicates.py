"""Does the search for near-duplicates grow with the set, or with its square? `.venv/bin/python benchmarks/duplicates.py`

`.venv/bin/python benchmarks/duplicates.py [--kinds chain forms] [--sizes 1000 5000 50000]`

Draws JPEGs of 128 pixels into a temporary folder (4 KB each), measures them once (`measure_images`, not timed), and searches the first
so many of them in a fresh process with an empty cache: CPU seconds, peak of the resident memory, pairs that connect the clusters, clusters.
Kinds: `distinct`, images that have nothing in common; `camera`, frames of a fixed camera with noise and one moving object, which are all
near-duplicates; `forms`, one printed form filled in by hand, alike but few of them near-duplicates; `chain`, one scene that fades into
the next every 40 frames, so that a frame is like its neighbours only.
"""
import argparse, json, resource, tempfile, time
from functools import lru_cache, partial
from pathlib import Path

import cv2, numpy as np, pandas as pd

from common import ask, cold_cache
from imgclf_nb.base.parallel import map_forked
from imgclf_nb.images.duplicates import find_near_duplicates
from imgclf_nb.images.properties import measure_images

SIDE, FADE = 128, 40  # pixels of an image; frames of the chain from one scene to the next


def draw_shapes(im, rng, n, most=40):
    "The image with `n` coloured discs"
    for _ in range(n):
        place = rng.integers(0, im.shape[1::-1]).tolist()
        cv2.circle(im, place, int(rng.integers(3, most)), rng.integers(0, 256, 3).tolist(), -1)
    return im


@lru_cache(4)
def get_scene(seed):
    "A scene of discs"
    return draw_shapes(np.full((SIDE, SIDE, 3), 128, np.uint8), np.random.default_rng(seed), 20)


def draw_distinct(i): return draw_shapes(np.full((SIDE, SIDE, 3), 128, np.uint8), np.random.default_rng(i), 14)


def draw_camera(i):
    rng = np.random.default_rng(i)
    im = draw_shapes(get_scene(0).copy(), rng, 1, 8)
    return (im + rng.normal(0, 2, im.shape)).clip(0, 255).astype(np.uint8)


def draw_forms(i):
    im = np.full((SIDE, SIDE, 3), 245, np.uint8)
    for y in range(12, SIDE, 12): cv2.line(im, (8, y), (SIDE - 8, y), (60,)*3, 2)
    rng = np.random.default_rng(i)
    for y in range(8, SIDE - 12, 24):
        strokes = np.c_[np.sort(rng.integers(10, 110, 12)), y + rng.integers(-3, 4, 12)]
        cv2.polylines(im, [strokes.astype(np.int32)], False, (90, 90, 140), 1)
    return im


def draw_chain(i):
    share = i % FADE/FADE
    return cv2.addWeighted(get_scene(i//FADE), 1 - share, get_scene(i//FADE + 1), share, 0)


KINDS = dict(distinct=draw_distinct, camera=draw_camera, forms=draw_forms, chain=draw_chain)


def write_one(kind, folder, i):
    "Draw image i; its path"
    path = Path(folder)/f'{i//1000:03}'/f'{i:06}.jpg'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode('.jpg', KINDS[kind](i))[1].tobytes())
    return str(path)


def search(table):
    "Seconds, MB before and at the peak, pairs and clusters of a table of facts"
    facts = pd.read_pickle(table)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
    began = time.process_time()  # of this process, so that others on the machine do not count
    pairs = find_near_duplicates(facts)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
    n, blank = len(facts), int(((facts.sd < 4) | facts.pixels.duplicated()).sum())
    return dict(images=n, seconds=round(seconds, 1), ms_per_image=round(1000*seconds/n, 2), peak_mb=round(peak), before_mb=round(before),
        pairs=len(pairs), clusters=n - blank - len(pairs))


def measure(kind, sizes):
    "One line for each size"
    with tempfile.TemporaryDirectory() as folder, cold_cache():
        paths = list(map_forked(partial(write_one, kind, folder), range(max(sizes))))
        facts = measure_images(paths)
        for size in sizes:
            facts[:size].to_pickle(table := Path(folder)/f'{size}.pickle')
            with cold_cache(): row = ask('duplicates.py', '--one', table)
            print(f'{kind:9}' + '  '.join(f'{k} {v:,}' for k,v in row.items()), flush=True)


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--kinds', nargs='+', choices=list(KINDS), default=list(KINDS))
    a.add_argument('--sizes', nargs='+', type=int, default=[1000, 2000, 5000, 10_000, 20_000, 50_000])
    a.add_argument('--one', help='search the facts in this file here, and print JSON')
    a = a.parse_args()
    if a.one: print(json.dumps(search(a.one)))
    else:
        for kind in a.kinds: measure(kind, sorted(a.sizes))
