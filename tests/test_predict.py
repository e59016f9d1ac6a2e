"A model that answers, as a process: what it loads, what a kill leaves, what it refuses"
import json, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest
from PIL import Image

from imgclf_nb.backbones import get_backbone, save_model
from imgclf_nb.base.row_files import read_rows
from imgclf_nb.core import write_json
from imgclf_nb.images.preprocessing import Preprocessing
from imgclf_nb.models.export_files import write_export_record
from imgclf_nb.results.prediction_files import read_predicted

CLASSES = ['cat', 'dog', '漢字 "x", Кот']


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "An exported run with random weights, and 60 images, one of them broken"
    from imgclf_nb.models.export import export_model
    d = tmp_path_factory.mktemp('predict')
    run = d/'runs'/'mine'
    run.mkdir(parents=True)
    pre = Preprocessing(size=32, classes=CLASSES)
    model = get_backbone('test_resnet', 3, 'none', size=32)
    save_model(run, model, dict(arch='test_resnet', classes=CLASSES, preprocessing=pre.to_dict(), temperature=2., threshold=None))
    write_json(run/'run.json', dict(status='done', run='mine', error=None, classes=CLASSES, dataset='none', parameters={}))
    rng = np.random.default_rng(0)
    for label in ('cat', 'dog'):
        (d/'photos'/label).mkdir(parents=True)
        for i in range(30): Image.fromarray(rng.integers(0, 256, (40,50,3), dtype=np.uint8)).save(d/'photos'/label/f'{i}.jpg')
    (d/'photos'/'dog'/'7.jpg').write_bytes(b'\xff\xd8\xff\xe0 cut off')
    return d


def predict(place, *words, out='out.csv', run='mine', **options):
    "`imgclf_predict` as a user starts it"
    env = dict(os.environ, IMGCLF_RUNS=str(place/'runs'))
    command = [sys.executable, '-m', 'imgclf_nb.commands', 'predict', run, *map(str, words), '--out', str(place/out)]
    return subprocess.run(command, env=env, capture_output=True, text=True, cwd=place, timeout=300, **options)


def test_rows_come_in_order_and_one_unreadable_image_gives_status_2(place):
    done = predict(place, 'photos', '--runtime', 'torch')
    assert done.returncode == 2, done.stderr
    table = read_predicted(place/'out.csv')
    assert list(table.columns) == ['path', 'predicted', 'probability', *[f'p_{o}' for o in CLASSES], 'decision', 'prediction_set', 'error']
    assert [Path(o).parts[-2:] for o in table.path[[0, 10, 30]]] == [('cat', '0.jpg'), ('cat', '10.jpg'), ('dog', '0.jpg')]
    assert len(table) == 60 and (table.error != '').sum() == 1 and '7.jpg' in table.path[37] and table.predicted[37] == ''
    again = predict(place, 'photos', '--runtime', 'torch')
    assert again.returncode == 2 and read_predicted(place/'out.csv').equals(table)
