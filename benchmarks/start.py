"""From the end of the imports to the first training batch of a second run on unchanged data: `.venv/bin/python benchmarks/start.py`

Row `second_start_<set>` against `5 s`: ratio = 5 s / ours, `seconds` the median, `decoded` the largest number of images that any of
the runs decoded in its own process (Pillow and OpenCV are counted). A first run fills an empty cache and does not count.
"""
import json, statistics, time

from common import BATCH, SETS, ask, cold_cache, get_parser, keep_rows


def measure_one(dataset):
    "Seconds to images, model and first batch in this process, and images decoded on the way"
    import cv2
    from PIL import ImageFile
    from imgclf_nb.backbones import get_backbone
    from imgclf_nb.training.learner import get_learner
    from imgclf_nb.datasets.cards import get_card
    from imgclf_nb.data import get_items
    from imgclf_nb.models.features import get_preprocessing
    from imgclf_nb.training.loaders import get_dls
    from imgclf_nb.splitting import get_splits
    decoded = []
    for owner,name in ((ImageFile.ImageFile, 'load'), (cv2, 'imread'), (cv2, 'imdecode')):
        def count(x, *a, old=getattr(owner, name), **k):
            if getattr(x, 'tile', True): decoded.append(x)  # Pillow's load does nothing where no tile is left
            return old(x, *a, **k)
        setattr(owner, name, count)
    t0 = time.perf_counter()
    items, card = get_splits(get_items(dataset)), get_card(dataset)
    arch, size = card.recipe['arch'], card.recipe['size']
    classes = sorted(items.label.unique())
    dls = get_dls(items, get_preprocessing(arch, size, classes, card.resize), card.recipe['policy'], BATCH, 0, 0)
    get_learner(dls, get_backbone(arch, len(classes)))
    if not len(next(iter(dls.train))[0]): raise SystemExit(f'{dataset}: the first batch is empty.')
    return dict(seconds=time.perf_counter() - t0, decoded=len(decoded))


def measure(dataset, rounds):
    "The row of one set"
    with cold_cache():
        ask('start.py', '--one', dataset)
        got = [ask('start.py', '--one', dataset) for _ in range(rounds)]
    s = [g['seconds'] for g in got]
    return dict(what=f'second_start_{dataset}', against='5 s', ratio=round(5/statistics.median(s), 3), low=round(5/max(s), 3),
        high=round(5/min(s), 3), rounds=rounds, images_per_second=None, seconds=round(statistics.median(s), 2),
        decoded=max(g['decoded'] for g in got))


if __name__ == '__main__':
    a = get_parser(__doc__, rounds=3)
    a.add_argument('--sets', nargs='+', default=SETS)
    a.add_argument('--one', help='a set: start on it here, and print JSON')
    a = a.parse_args()
    if a.one: print(json.dumps(measure_one(a.one)))
    else:
        from imgclf_nb.data import get_items  # here: a second start is measured without it
        for s in a.sets: keep_rows([measure(s, 1 if a.quick else a.rounds)], a, len(get_items(s)))
