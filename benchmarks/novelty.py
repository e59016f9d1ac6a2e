"""Unlike anything it has seen? Scores of novelty on real sets: `.venv/bin/python benchmarks/novelty.py [--sets pc_parts]`

For each set a probe of tf_efficientnet_lite0 is trained (04a) and asked about images that it cannot know: the other sets, photos,
noise, screenshots of pages (with Chromium, if it is installed), its own test images after corruptions, and, the hard case, a class
that was left out of the training: each class in turn, at most 14 of them. `novelty` is what a run's reference gives; beside it stand
its parts, distance and maximum probability, and energy and the Mahalanobis distance. AUROC against images of the set itself;
`called` is the share that is called unlike at a rate of 1 %, for images of the set itself the share of false calls.
"""
import json, shutil, subprocess, sys, tempfile
from pathlib import Path

import numpy as np

from common import FIVE, get_folder, get_parser
from kept import TITLES, get_command
from imgclf_nb.backbones import load_model
from imgclf_nb.base.machine import get_device
from imgclf_nb.base.run_files import read_model_record
from imgclf_nb.base.running import run_notebook
from imgclf_nb.base.runs import open_run
from imgclf_nb.core import get_data_root
from imgclf_nb.data import get_items
from imgclf_nb.datasets.folders import is_image
from imgclf_nb.images.inputs import take_input
from imgclf_nb.images.preprocessing import Preprocessing
from imgclf_nb.models.export_images import find_export_images
from imgclf_nb.models.frozen import load_frozen
from imgclf_nb.models.linear_heads import cross_validate, get_linear_head, get_probs
from imgclf_nb.models.run_reference import make_frozen_reference
from imgclf_nb.models.runtimes import open_model
from imgclf_nb.results.measured import get_provenance, keep_measured
from imgclf_nb.results.reference import Seen
from imgclf_nb.robustness import corrupt, get_corruptions
from imgclf_nb.stats.intervals import get_unit_share
from imgclf_nb.stats.neighbours import scale_features
from imgclf_nb.stats.novelty import find_unlike, get_strangeness
from imgclf_nb.stats.roc_pr import get_auc_interval

MOST, CLASSES, DRAWS = 150, 14, 400  # images of another set; classes left out; resamples of units
SCORES = ('novelty', 'probability', 'energy', 'distance', 'mahalanobis')


# ---- images that a model cannot know

def list_others(name, rng):
    "Paths of some images of each other set, by its title, and of the photos"
    found = {}
    for other in (o for o in FIVE if o != name):
        paths = sorted(get_items(other).path)
        found[TITLES[other]] = [paths[i] for i in sorted(rng.permutation(len(paths))[:MOST])]
    return found, sorted(str(o) for o in (get_data_root()/'openimages_photos').rglob('*') if is_image(o.name))


def make_noise(rng, n=60, side=256):
    "Uniform noise, coarse noise and single colours, as arrays"
    coarse = [np.kron(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), np.ones((side//16, side//16, 1), np.uint8)) for _ in range(n//3)]
    plain = [np.full((side, side, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(n//3)]
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(n//3)] + coarse + plain


def make_screenshots(folder, n=30):
    "PNG files of pages that Chromium has rendered from the text of notebooks; none without Chromium"
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not browser: print('There is no Chromium: screenshots are left out.')
    made = []
    for i,path in enumerate(sorted((Path(__file__).parent.parent/'nbs').rglob('*.ipynb'))[:n] if browser else []):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        text = '\n\n'.join(''.join(cell['source']) for cell in cells[:30]).replace('&', '&amp;').replace('<', '&lt;')
        page = folder/f'{i}.html'
        page.write_text(f'<meta charset=utf-8><body style="columns:{1 + i % 2};font:{12 + i % 4}px sans-serif"><h1>{path.stem}</h1><pre>{text}', encoding='utf-8')
        made.append(str(folder/f'{i}.png'))
        subprocess.run([browser, '--headless', '--no-sandbox', '--disable-gpu', f'--screenshot={made[-1]}', '--window-size=1000,800',
            page.as_uri()], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return made


# ---- what a network says

class Network:
    "The frozen network of a probe, which OpenVINO computes where it can"
    def __init__(self, run):
        self.pre = Preprocessing.from_dict(read_model_record(run.path)['preprocessing'])
        frozen = load_frozen(run.path)
        if frozen: self.compute = frozen[0].get_features
        else:
            both = open_model(load_model(run.path)[0].to(get_device()).eval(), get_device())
            self.compute = lambda images: both(images)[1]

    def see(self, images, change=None):
        "Features of images; `change(pixels)` is applied to what the preprocessing makes of them"
        parts = []
        for start in range(0, len(images), 32):
            pixels = np.stack([self.pre.pixels(take_input(image)) for image in images[start:start+32]])
            parts.append(self.compute(self.pre.array(change(pixels) if change else pixels)))
        return np.concatenate(parts)


def score(features, logits, reference, mahalanobis):
    "Every score of novelty, the higher the stranger"
    t = reference.about['temperature']
    scaled = logits/t
    top = scaled.max(1)
    energy = -(top + np.log(np.exp(scaled - top[:, None]).sum(1)))
    sure = np.exp(top + energy)
    distance = reference.neighbours.get_distances(features)
    return dict(novelty=get_strangeness(distance, sure), probability=-sure, energy=energy, distance=distance, mahalanobis=mahalanobis(features))


def fit_mahalanobis(features, labels, dims=128):
    "The least Mahalanobis distance to a class, on principal components, with what lies outside of them (Lee et al. 2018, Wang et al. 2022)"
    x = scale_features(features)
    mean = x.mean(0)
    values, vectors = np.linalg.eigh((x - mean).T @ (x - mean)/len(x))
    basis = vectors[:, ::-1][:, :min(dims, len(x) - 1)]
    inside = (x - mean) @ basis
    means = np.stack([inside[labels == o].mean(0) for o in np.unique(labels)])
    within = inside - means[np.unique(labels, return_inverse=True)[1]]
    covariance = within.T @ within/len(x)
    covariance = .9*covariance + .1*np.trace(covariance)/len(covariance)*np.eye(len(covariance))
    root = np.linalg.inv(np.linalg.cholesky(covariance)).T
    outside = lambda x, inside: np.square(x - mean).sum(1) - np.square(inside).sum(1)
    spread = outside(x, inside).mean()/max(1, x.shape[1] - basis.shape[1])
    def measure(features):
        x = scale_features(features)
        inside = (x - mean) @ basis
        nearest = np.square((inside @ root)[:, None] - (means @ root)[None]).sum(2).min(1)
        return nearest + outside(x, inside)/spread
    return measure


class Known:
    "A set's training and validation images, with the reference of a probe on some of their classes"
    def __init__(self, features, labels, units, is_train, c, without=None):
        keep = labels != without
        labels, units, is_train = labels[keep], units[keep], is_train[keep]
        features = features[keep]
        classes, codes = np.unique(labels, return_inverse=True)
        self.units = units[~is_train]
        logits = np.zeros((len(labels), 1))
        crossed = dict(rows=np.arange(is_train.sum()), sure=np.ones(is_train.sum()), temperature=1.)
        self.head = None
        if len(classes) > 1:  # a single class has the probability 1 for everything
            x, y, u = features[is_train], codes[is_train], units[is_train]
            weight, bias, _ = get_linear_head(x, y, u, len(classes))
            self.head = dict(weight=weight, bias=bias)
            crossed = cross_validate(x, y, u, c, False)
            logits = self.answer(features)
        t = crossed['temperature']
        sure = get_probs(features, dict(self.head, temperature=t), len(classes)).max(1) if self.head else np.ones(len(labels))
        self.reference = make_frozen_reference(Seen(features, sure, labels, units), is_train, crossed, t)
        self.mahalanobis = fit_mahalanobis(features[is_train], labels[is_train])
        self.scores = score(features[~is_train], logits[~is_train], self.reference, self.mahalanobis)

    def answer(self, features): return features @ self.head['weight'].T + self.head['bias'] if self.head else np.zeros((len(features), 1))

    def score(self, features): return score(features, self.answer(features), self.reference, self.mahalanobis)

    def get_novelty(self, features): return self.reference.get_novelty(features, self.answer(features))


# ---- rows

def get_row(what, inside, inside_units, outside, outside_units, novelty, **more):
    "AUROC of each score, and the share that is called unlike"
    positive = np.repeat([False, True], [len(inside_units), len(outside_units)])
    units = np.r_[inside_units, outside_units + inside_units.max() + 1]
    row = dict(what=what, images=len(outside_units), **more)
    for name in SCORES: row[name] = get_auc_interval(positive, np.r_[inside[name], outside[name]], units)
    return row | dict(called=get_unit_share(find_unlike(novelty, .01), np.ones(len(outside_units)), outside_units))


def measure_outside(known, network, what, images, change=None, **more):
    "The row about images that the network cannot know"
    features = network.see(images, change)
    row = get_row(what, known.scores, known.units, known.score(features), np.arange(len(features)), known.get_novelty(features), **more)
    print(f"  {what}: AUROC {row['novelty']['value']:.4f}, probability {row['probability']['value']:.4f}, called {row['called']['value']:.1%}", flush=True)
    return row


def get_difference(pairs, rng):
    "Mean over classes of AUROC of novelty minus that of probability, with a bootstrap interval over units"
    def auc(score, positive, weight):
        order = np.argsort(score, kind='stable')
        s, p, w = score[order], positive[order], weight[order]
        below = np.r_[0, np.cumsum(w*~p)]
        first, last = np.searchsorted(s, s, 'left'), np.searchsorted(s, s, 'right')
        return ((below[first] + below[last])/2*w*p).sum()/max(1e-9, (w*p).sum()*(w*~p).sum())
    def mean(weigh):
        return np.mean([auc(a, positive, w := weigh(units)) - auc(b, positive, w) for positive,units,a,b in pairs])
    n = 1 + max(units.max() for _,units,_,_ in pairs)
    draws = [mean(lambda units, w=np.bincount(rng.integers(0, n, n), minlength=n).astype(float): w[units]) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [.025, .975])
    return dict(value=100*mean(lambda units: np.ones(len(units))), low=100*low, high=100*high)


def measure_left_out(x, labels, units, is_train, c, rng):
    "The row about classes that were left out, each in turn"
    classes = np.unique(labels)
    classes = classes if len(classes) <= CLASSES else rng.permutation(classes)[:CLASSES]
    found, pairs = {name: [] for name in SCORES}, []
    called, of = [], []
    for label in classes:
        known, out = Known(x, labels, units, is_train, c, label), labels == label
        outside = known.score(x[out])
        positive, both = np.repeat([False, True], [len(known.units), out.sum()]), np.r_[known.units, units[out]]
        for name in SCORES: found[name].append(get_auc_interval(positive, np.r_[known.scores[name], outside[name]], both)['value'])
        pairs.append((positive, both, *(np.r_[known.scores[o], outside[o]] for o in ('novelty', 'probability'))))
        called.append(find_unlike(known.get_novelty(x[out]), .01)); of.append(units[out])
        print(f'  without {label}: ' + ', '.join(f'{name} {values[-1]:.3f}' for name,values in found.items()), flush=True)
    share = get_unit_share(np.concatenate(called), np.ones(len(np.concatenate(of))), np.unique(np.concatenate(of), return_inverse=True)[1])
    row = dict(what=f'a class left out ({len(classes)} in turn)', images=len(np.concatenate(of)), called=share, more_points=get_difference(pairs, rng))
    return row | {name: float(np.mean(values)) for name,values in found.items()}


def measure_set(name, shots):
    "All rows of a set"
    rng = np.random.default_rng(0)
    folder = get_folder()/f'novelty_{name}'
    run_notebook('04a_probe', str(folder), quiet=True, dataset=name)
    run = open_run(str(folder))
    network, table = Network(run), find_export_images(run)[0]
    x = network.see(list(table.path))
    labels, units, is_train = table.label.to_numpy(str), table.unit.to_numpy(), (table.split == 'train').to_numpy()
    known = Known(x, labels, units, is_train, run.record['head_c'])
    print(f"{name}: {len(x)} images, calibrated on {known.reference.about['units']} units", flush=True)
    others, photos = list_others(name, rng)
    pooled = [path for paths in others.values() for path in paths]
    row = measure_outside(known, network, 'the four other sets', pooled)
    worst = min((measure_outside(known, network, title, paths)['novelty']['value'], title) for title,paths in others.items())
    rows = [row | dict(worst=f'{worst[0]:.3f}, {worst[1]}'), measure_outside(known, network, 'photos', photos), measure_outside(known, network, 'noise', make_noise(rng))]
    if shots: rows.append(measure_outside(known, network, 'screenshots', shots))
    own = [path for path in get_items(name).path if path not in {*table.path}][:300]
    for kind in ('noise', 'blur'):
        rows.append(measure_outside(known, network, f'its own, {kind}', own[:100], lambda pixels, k=kind: corrupt(pixels, get_corruptions(pixels.shape[1])[k][-1])))
    rows.append(measure_outside(known, network, 'its own test images', own))
    rows.append(measure_left_out(x, labels, units, is_train, run.record['head_c'], rng))
    return [dict(set=name, title=TITLES[name], units=known.reference.about['units'], **row) for row in rows]


if __name__ == '__main__':
    a = get_parser(__doc__)
    a.add_argument('--sets', nargs='+', default=FIVE)
    a = a.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shots = make_screenshots(Path(folder))
        for name in a.sets[:1] if a.quick else a.sets:
            rows = measure_set(name, shots)
            if a.keep: keep_measured('novelty', [row | get_provenance(get_command(sys.argv), row['images']) for row in rows])
            else: print(*map(json.dumps, rows), sep='\n')
