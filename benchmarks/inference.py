"""Predictions a second, decoding included, side by side on the same images: `.venv/bin/python benchmarks/inference.py`

A probe of tf_efficientnet_lite0 at 224 pixels on pc_parts is exported, also as int8, and then asked about the images of pc_parts
and about photos of 400 pixels and more, in fresh processes with as many threads as there are cores, in rounds that meet every
side once. `loop` is what tutorials write: Pillow, torchvision's transforms, timm, eager fp32, inference_mode, batches of 32.
`fastai` is get_preds on a test DataLoader. `decoding` is the share of the time of one thread that goes into pixels.
"""
import json, os, statistics, tempfile, time
from pathlib import Path

from common import ask, get_parser
from imgclf_nb.results.measured import get_provenance, keep_measured

SETS = dict(pc_parts='PC parts, 256 pixels', photos='photos, 400 pixels and more')
SIDES = dict(loop='a loop as tutorials write it', fastai='fastai, get_preds', torch_fp32='ours, PyTorch', onnx_fp32='ours, ONNX Runtime',
    openvino_fp32='ours, OpenVINO', openvino_bf16='ours, OpenVINO bf16', onnx_int8='ours, ONNX Runtime int8', openvino_int8='ours, OpenVINO int8')
N = 256  # images of a side in a round
READ = ('JPEG', 'PNG', 'BMP', 'GIF', 'TIFF', 'WEBP')


def get_paths(name, n):
    "Paths of n images; the photos are repeated"
    if name == 'pc_parts':
        from imgclf_nb.data import get_items
        return sorted(get_items('pc_parts').path)[:n]
    from imgclf_nb.core import get_data_root
    from imgclf_nb.datasets.folders import is_image
    found = sorted(str(o) for o in (get_data_root()/'openimages_photos').rglob('*') if is_image(o.name))
    return [found[i % len(found)] for i in range(n)]


def make_loop(folder, paths):
    "The tutorial's function"
    import torch
    from PIL import Image
    from torchvision import transforms as T
    import imgclf_nb.baseline  # registers our own networks with timm
    from imgclf_nb.backbones import load_model
    model, card = load_model(folder)
    pre = card['preprocessing']
    change = T.Compose([T.Resize(pre['size'], T.InterpolationMode.BICUBIC), T.CenterCrop(pre['size']), T.ToTensor(), T.Normalize(pre['mean'], pre['std'])])
    def run():
        probs = []
        with torch.inference_mode():
            for i in range(0, len(paths), 32):
                batch = torch.stack([change(Image.open(path, formats=READ).convert('RGB')) for path in paths[i:i+32]])
                probs.append(model(batch).softmax(1))
        return torch.cat(probs)
    return run


def make_fastai(folder, paths):
    "fastai's get_preds, its DataLoader in the process, since workers take longer to start than to work"
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, Learner, Normalize, Resize, CrossEntropyLossFlat
    from imgclf_nb.backbones import load_model
    model, card = load_model(folder)
    pre, classes = card['preprocessing'], card['classes']
    block = DataBlock((ImageBlock, CategoryBlock(vocab=classes)), get_y=lambda o: classes[0], item_tfms=Resize(pre['size']),
        batch_tfms=Normalize.from_stats(pre['mean'], pre['std']))
    learn = Learner(block.dataloaders(paths[:64], bs=32, num_workers=0), model, CrossEntropyLossFlat())
    def run():
        with learn.no_bar(): return learn.get_preds(dl=learn.dls.test_dl(paths, bs=32, num_workers=0))[0]
    return run


def make_ours(folder, paths, side):
    "A predictor's function"
    from imgclf_nb.inference import Predictor
    model = Predictor(folder, *side.split('_'))
    return lambda: model.predict(paths)


def get_latency(model, path, n):
    "Seconds of single images, one after the other: the median and the 99th percentile"
    took = []
    for _ in range(n):
        began = time.perf_counter()
        model(path)
        took.append(time.perf_counter() - began)
    took.sort()
    return dict(p50=took[len(took)//2], p99=took[int(.99*len(took))])


def get_decoding_share(folder, paths):
    "Of the time of one thread: pixels, against pixels and the fp32 network of OpenVINO"
    from imgclf_nb.inference import Predictor
    model = Predictor(folder, 'openvino', threads=1)
    began = time.perf_counter()
    for path in paths: model.read(path)
    decoding = time.perf_counter() - began
    began = time.perf_counter()
    model.predict(paths)
    return decoding/(time.perf_counter() - began)


def measure_one(folder, name, side, n):
    "Images a second of one side, the time of single images, and what it answered"
    import numpy as np
    paths = get_paths(name, n)
    make = dict(loop=make_loop, fastai=make_fastai).get(side)
    run = make(folder, paths) if make else make_ours(folder, paths, side)
    first = make(folder, paths[:64]) if make else run
    first()  # everything is loaded
    began = time.perf_counter()
    got = run()
    seconds = time.perf_counter() - began
    probs = got.numpy() if make else got[[o for o in got if o.startswith('p_')]].to_numpy()
    found = dict(images_per_second=n/seconds, predicted=np.argmax(probs, 1).tolist())
    if make: return found
    from imgclf_nb.inference import Predictor
    one = Predictor(folder, *side.split('_'))
    one.predict(paths[0])
    return found | get_latency(one.predict, paths[0], min(200, n)) | dict(decoding=get_decoding_share(folder, paths[:96]))


def prepare(folder):
    "A probe on pc_parts, exported"
    os.environ['IMGCLF_RUNS'] = str(folder)
    from imgclf_nb.base.running import run_notebook
    from imgclf_nb.base.runs import Run
    from imgclf_nb.models.export import export_run
    run_notebook('04a_probe', 'probe', quiet=True, dataset='pc_parts')
    export_run(Run(folder/'probe'), int8=True, tolerance=100.)
    return folder/'probe'


def get_ratio(rounds, side, against):
    "`value, low, high`: median, smallest and largest of the rounds' ratios"
    ratios = [o[side]['images_per_second']/o[against]['images_per_second'] for o in rounds]
    return dict(value=round(statistics.median(ratios), 2), low=round(min(ratios), 2), high=round(max(ratios), 2))


def get_rows(name, rounds):
    "A row for each side that could be measured"
    import numpy as np
    rows = []
    for side in rounds[0]:
        own = rounds[0][side]
        same = np.equal(own['predicted'], rounds[0]['torch_fp32']['predicted']).mean()
        row = dict(set=name, title=SETS[name], side=side, name=SIDES[side], agreement=round(float(same), 4),
            images_per_second=round(statistics.median(o[side]['images_per_second'] for o in rounds), 1),
            against_loop=get_ratio(rounds, side, 'loop'), against_fastai=get_ratio(rounds, side, 'fastai'))
        for key in ('p50', 'p99'): row[f'{key}_ms'] = round(1000*statistics.median(o[side][key] for o in rounds), 1) if key in own else None
        row['decoding'] = round(own['decoding'], 2) if 'decoding' in own else None
        rows.append(row | get_provenance('python benchmarks/inference.py', len(own['predicted'])))
    return rows


def main():
    a = get_parser(__doc__, rounds=3)
    a.add_argument('--one', nargs=3, metavar=('RUN', 'SET', 'SIDE'), help='measure one side here, and print JSON')
    a.add_argument('--sets', nargs='+', default=list(SETS))
    a.add_argument('--run', help='a run of pc_parts with an export, also in int8; without it, one is made')
    a = a.parse_args()
    n = 64 if a.quick else N
    if a.one:
        print(json.dumps(measure_one(*a.one, int(os.environ.get('IMAGES', n)))))
        return
    from imgclf_nb.models.runtimes import has_bf16
    sides = [o for o in SIDES if o != 'openvino_bf16' or has_bf16()]
    with tempfile.TemporaryDirectory() as folder:
        run = a.run or prepare(Path(folder))
        for name in a.sets:
            os.environ['IMAGES'] = str(n)
            rounds = [{side: ask('inference.py', '--one', str(run), name, side) for side in sides} for _ in range(1 if a.quick else a.rounds)]
            rows = get_rows(name, rounds)
            for row in rows:
                print(f"{row['title']}; {row['name']:28} {row['images_per_second']:7.1f} images a second, {row['against_loop']['value']:5.2f} × the loop, "
                    f"{row['against_fastai']['value']:5.2f} × fastai, agreement {row['agreement']:.3f}, one image {row['p50_ms']} ms (p99 {row['p99_ms']}), decoding {row['decoding']}")
            if a.keep: keep_measured('inference', rows)


if __name__ == '__main__': main()
