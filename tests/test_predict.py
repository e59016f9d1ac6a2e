"A model that answers, as a process: what it loads, what a kill leaves, what it refuses"
import io, json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image

from imgclf_nb.backbones import get_backbone, save_model
from imgclf_nb.base.checksums import hash_file
from imgclf_nb.base.run_files import get_weights_hash
from imgclf_nb.core import read_csv, write_json
from imgclf_nb.images.preprocessing import Preprocessing
from imgclf_nb.models.conversion import write_onnx
from imgclf_nb.models.export_files import write_export_record
from imgclf_nb.results.prediction_files import read_predicted

CLASSES = ['cat', 'dog', '漢字 "x", Кот']
HEAVY = {'torch', 'timm', 'fastai', 'torchvision', 'sklearn', 'scipy', 'matplotlib', 'albumentations', 'mapie'}


def make_noise(rng):
    "The bytes of a JPEG of noise"
    Image.fromarray(rng.integers(0, 256, (40,50,3), dtype=np.uint8)).save(file := io.BytesIO(), 'jpeg')
    return file.getvalue()


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "An exported run with random weights, and 60 images, one of them broken"
    d = tmp_path_factory.mktemp('predict')
    run = d/'runs'/'mine'
    (run/'export').mkdir(parents=True)
    pre = Preprocessing(size=32, classes=CLASSES)
    torch.manual_seed(0)
    model = get_backbone('test_resnet', 3, 'none', size=32)
    save_model(run, model, dict(arch='test_resnet', classes=CLASSES, preprocessing=pre.to_dict(), temperature=2., threshold=None))
    write_json(run/'run.json', dict(status='done', run='mine', error=None, classes=CLASSES, dataset='none', parameters={}, positive_class=None,
        doubt=dict(rejection=dict(threshold=.34), sets=dict(limit=.3, wanted_coverage=.9))))
    write_onnx(model, run/'export'/'model.onnx', 3, 32)
    parity = {o: dict(n=60, passed=True, max_logit_difference=0., agreement=1.) for o in ('fp32', 'openvino_fp32')}
    write_export_record(run/'export', dict(opset=20, runtimes={}, weights_sha256=get_weights_hash(run), parity=parity,
        files={'model.onnx': hash_file(run/'export'/'model.onnx')}, speed=dict(processor='any', images_per_second=dict(fp32=9., openvino_fp32=1.))))
    rng = np.random.default_rng(0)
    for label in ('cat', 'dog'):
        (d/'photos'/label).mkdir(parents=True)
        for i in range(30): (d/'photos'/label/f'{i}.jpg').write_bytes(make_noise(rng))
    (d/'photos'/'dog'/'7.jpg').write_bytes(b'\xff\xd8\xff\xe0 cut off')
    return d


def start(place, *words, out='out.csv', run='mine', **options):
    "`imgclf_predict`, begun"
    env = dict(os.environ, IMGCLF_RUNS=str(place/'runs'))
    command = [sys.executable, '-m', 'imgclf_nb.commands', 'predict', run, *map(str, words), '--out', str(place/out)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place, **options)


def predict(place, *words, **options):
    "`(exit status, standard output, standard error)`"
    process = start(place, *words, **options)
    out, err = process.communicate(timeout=300)
    assert 'Traceback' not in err, err
    return process.returncode, out, err


def start_and_wait(place, images, out):
    "`(process, its state file)`, once more than 100 rows are on disk"
    process, state = start(place, images, '--batch-size', 8, out=out), place/f'{out}.state.json'
    while not (state.exists() and json.loads(state.read_text())['rows'] > 100):
        assert process.poll() is None, process.communicate()
        time.sleep(.01)
    return process, state


def test_rows_come_in_order_and_an_unreadable_image_gives_status_2(place):
    rc, out, err = predict(place, 'photos')
    assert rc == 2 and '1 images could not be read' in out, err
    table = read_predicted(place/'out.csv')
    assert list(table.columns) == ['path', 'predicted', 'probability', *[f'p_{o}' for o in CLASSES], 'novelty', 'decision', 'prediction_set', 'error']
    assert [Path(o).parts[-2:] for o in table.path[[0, 10, 30]]] == [('cat', '0.jpg'), ('cat', '10.jpg'), ('dog', '0.jpg')]
    bad = table[table.error != '']
    assert len(table) == 60 and list(bad.path.str[-5:]) == ['7.jpg'] and list(bad.predicted) == [''] and bad.probability.isna().all()
    good = table[table.error == '']
    assert ((good.decision == 'unsure') == (good.probability < .34)).all() and good.prediction_set.map(len).min() >= 1
    before = (place/'out.csv').read_bytes()
    assert predict(place, 'photos')[0] == 2 and (place/'out.csv').read_bytes() == before


def test_a_list_on_standard_input_and_other_formats(place):
    listed = '\n'.join(f'photos/cat/{i}.jpg' for i in (5, 3, 5))
    for out in ('in.jsonl', 'in.parquet'):
        process = start(place, '-', out=out, stdin=subprocess.PIPE)
        assert process.communicate(listed, timeout=300)[1].count('Traceback') == 0 and process.returncode == 0
        assert list(read_predicted(place/out).path.str[-5:]) == ['5.jpg', '3.jpg', '5.jpg']


def test_nothing_of_the_training_stack_is_loaded(place, known):
    code = f'''
import sys, time
from imgclf_nb.inference import Predictor
table = Predictor({str(known)!r}).predict({str(place/'photos'/'cat'/'0.jpg')!r})
assert table.error[0] == '' and table.predicted[0] and table.novelty[0] > 0
print(sorted({{o.split('.')[0] for o in sys.modules}} & {HEAVY!r}))
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == '[]', done.stdout + done.stderr


@pytest.fixture(scope='module')
def known(place):
    "The same run with a reference: it knows noise, and nothing else"
    from imgclf_nb.inference import Predictor
    from imgclf_nb.results.reference import Seen, make_reference, write_reference
    run = shutil.copytree(place/'runs'/'mine', place/'runs'/'known')
    model, rng = Predictor(run), np.random.default_rng(1)
    pixels = np.stack([model.read(make_noise(rng))[0][0] for _ in range(300)])
    logits, features = model.load(1)[0](model.members[0].preprocessing.array(pixels))
    scaled = np.exp(logits/2)
    seen = [Seen(features[rows], (scaled/scaled.sum(1, keepdims=True)).max(1)[rows], np.arange(300)[rows] % 3, np.arange(300)[rows])
        for rows in (slice(0, 100), slice(100, 300))]
    write_reference(run, make_reference(*seen, 2.))
    return run


def test_novelty_with_a_reference(place, known):
    strange = place/'strange'
    strange.mkdir()
    for i in range(4): Image.new('RGB', (40, 50), (60*i, 20, 200)).save(strange/f'{i}.png')
    status, said, err = predict(place, 'photos', strange, run='known', out='known.csv')
    assert status == 2 and 'Calibrated on 200 independent images or groups for a rate of 1.0 %' in said, said + err
    table = read_predicted(place/'known.csv')
    noise, plain = [table[table.path.str.contains(o) & (table.error == '')] for o in ('photos', 'strange')]
    assert (plain.decision == 'unlike').all() and (plain.novelty <= .01).all() and plain.predicted.isin(CLASSES).all()
    assert (noise.decision == 'unlike').mean() < .1 and .2 < noise.novelty.mean() < .8
    assert table.novelty.isna().sum() == 1  # the broken one
    status, said, _ = predict(place, strange, '--unlike', 0, run='known', out='never.csv')
    assert status == 0 and 'No image is called unlike' in said and 'unlike' not in set(read_predicted(place/'never.csv').decision)
    status, said, _ = predict(place, strange, '--unlike', .001, run='known', out='rare.csv')
    assert status == 0 and '200 independent images or groups cannot decide a rate of 0.1 %, 999 could' in said
    assert predict(place, strange, '--unlike', 3, run='known', out='rate.csv')[0] == 1


def test_a_run_without_a_reference_says_so(place):
    status, said, _ = predict(place, 'photos', out='none.csv')
    assert '`imgclf_export mine` writes it' in said and read_predicted(place/'none.csv').novelty.isna().all()


def test_a_reference_that_does_not_fit_is_refused(place, known):
    for name,change in (('reference.npz', b'PK'), ('reference.json', b'{')):
        run = shutil.copytree(known, place/'runs'/'spoilt', dirs_exist_ok=True)
        (run/name).write_bytes(change)
        status, said, err = predict(place, 'photos', run='spoilt', out='spoilt.csv')
        assert status == 1 and '`imgclf_export spoilt` writes it again' in said + err and not (place/'spoilt.csv').exists()

def test_killed_it_resumes_without_a_row_twice_or_missing(place):
    many = place/'many.csv'
    many.write_text('path\n' + ''.join(f'photos/cat/{i % 30}.jpg\n' for i in range(1600)))
    assert start(place, many, '--batch-size', 8, out='whole.csv').wait(300) == 0
    process, state = start_and_wait(place, many, 'killed.csv')
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = json.loads(state.read_text())['rows']
    assert rows < 1600
    with open(place/'killed.csv', 'ab') as file: file.write(b'half a row, as a kill leaves it')
    rc, out, err = predict(place, many, '--batch-size', 8, out='killed.csv')
    assert rc == 0 and (place/'killed.csv').read_bytes() == (place/'whole.csv').read_bytes(), out + err


def test_ctrl_c_says_how_to_resume(place):
    many = place/'many.csv'
    many.write_text('path\n' + ''.join(f'photos/cat/{i % 30}.jpg\n' for i in range(1600)))
    process, _ = start_and_wait(place, many, 'stopped.csv')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and 'The same command resumes.' in err and 'Traceback' not in err
    assert predict(place, many, '--batch-size', 8, out='stopped.csv')[0] == 0 and len(read_predicted(place/'stopped.csv')) == 1600


def test_a_file_of_other_rows_is_never_touched(place):
    (place/'mine.csv').write_text('precious\n')
    rc, _, err = predict(place, 'photos/cat', out='mine.csv')
    assert rc == 1 and 'exists already' in err and (place/'mine.csv').read_text() == 'precious\n'
    assert predict(place, 'photos/cat', out='cats.csv')[0] == 0
    before = (place/'cats.csv').read_bytes()
    for words in (['photos/dog'], ['photos/cat', '--runtime', 'openvino']):
        rc, _, err = predict(place, *words, out='cats.csv')
        assert rc == 1 and 'holds other rows' in err and (place/'cats.csv').read_bytes() == before


def test_truth_scores_a_new_set(place):
    rc, out, err = predict(place, 'photos', '--truth', 'folders', out='scored.csv')
    assert rc == 2 and 'Accuracy' in out and '95 % CI' in out, err
    found = json.loads((place/'scored.truth.json').read_text())
    table = read_predicted(place/'scored.csv')
    table = table[table.error == '']
    assert abs(found['metrics']['accuracy']['value'] - np.mean([o in p for o,p in zip(table.predicted, table.path)])) < 1e-9
    assert found['unreadable'] == 1 and found['images'] == 59
    assert 'give the word folders' in predict(place, 'photos', '--truth', 'nothing.csv', out='scored.csv')[2]


@pytest.mark.parametrize('words, options, says', [
    (['photos'], dict(run='nope'), "no run 'nope'"), (['nothing'], {}, "no file or folder 'nothing'"), (['empty'], {}, 'holds no images'),
    (['photos'], dict(out='out.txt'), 'no ending that names a format'), (['photos'], dict(out='/dev/null/out.csv'), 'cannot be written'),
    (['photos', '--runtime', 'onnx', '--precision', 'bf16'], dict(out='x.csv'), 'no precision'),
    (['photos', '--precision', 'int8'], dict(out='x.csv'), '--int8')])
def test_bad_input_gives_one_sentence(place, words, options, says):
    (place/'empty').mkdir(exist_ok=True)
    rc, _, err = predict(place, *words, **options)
    assert rc == 1 and says in err and len(err.strip().splitlines()) <= 2, err


def test_an_export_of_other_weights_is_refused(place):
    shutil.copytree(place/'runs'/'mine', place/'runs'/'other')
    model = get_backbone('test_resnet', 3, 'none', size=32)
    card = json.loads((place/'runs'/'other'/'model.json').read_text())
    save_model(place/'runs'/'other', model, {k: v for k,v in card.items() if k not in ('checksum', 'weights_sha256')})
    rc, _, err = predict(place, 'photos/cat', run='other', out='other.csv')
    assert rc == 1 and 'was made from other weights' in err and not (place/'other.csv').exists()


def test_odd_images_are_answered_or_have_an_error(place):
    from imgclf_nb.inference import Predictor
    odd = place/'odd'
    odd.mkdir()
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (30,40,3), dtype=np.uint8))
    noise.resize((1,1)).save(odd/'one.png')
    Image.new('RGB', (12_000, 9_000), 'green').save(odd/'large.jpg')
    noise.convert('CMYK').save(odd/'cmyk.jpg')
    noise.save(odd/'animated.gif', save_all=True, append_images=[noise.rotate(90)]*3)
    Image.fromarray(rng.integers(0, 65536, (30,40), dtype=np.uint16)).save(odd/'deep.png')
    (odd/'page.jpg').write_text('<html>')
    (odd/'empty.jpg').touch()
    table = Predictor(place/'runs'/'mine').predict(sorted(odd.iterdir()))
    errors = dict(zip((Path(o).name for o in table.path), table.error))
    assert {name for name,error in errors.items() if error} == {'page.jpg', 'empty.jpg'}, errors
    assert 'web page' in errors['page.jpg'] and 'empty file' in errors['empty.jpg']


def test_a_full_disk_loses_no_row(place, tmp_path):
    from unittest import mock
    from imgclf_nb.core import DiskError
    from imgclf_nb.inference import Predictor
    from imgclf_nb.results.prediction_files import open_predictions, predict_to_file
    model = Predictor(place/'runs'/'mine')
    paths = sorted(str(o) for o in (place/'photos'/'cat').iterdir())
    calls = []
    def fill(number):
        calls.append(number)
        if len(calls) == 6: raise OSError(28, 'No space left on device')
    with mock.patch('imgclf_nb.base.row_files.os.fsync', fill), pytest.raises(DiskError, match='free some space'):
        predict_to_file(model, paths, tmp_path/'a.csv', 4)
    assert 0 < open_predictions(model, paths, tmp_path/'a.csv').rows < 30
    predict_to_file(model, paths, tmp_path/'a.csv', 4)
    assert list(read_predicted(tmp_path/'a.csv').path) == paths


def test_seeds_answer_as_one_with_their_spread(place):
    from imgclf_nb.inference import Predictor
    for seed in (0, 1):
        folder = place/'runs'/f'pair-s{seed}'
        shutil.copytree(place/'runs'/'mine', folder, ignore=shutil.ignore_patterns('export'))
        card = json.loads((folder/'model.json').read_text())
        save_model(folder, get_backbone('test_resnet', 3, 'none', size=32), {k: v for k,v in card.items() if k not in ('checksum', 'weights_sha256')})
        header = ','.join(['path', 'label', 'split', 'predicted', 'probability', *[f'p_{o}' for o in ('cat', 'dog')], '"p_漢字 ""x"", Кот"', 'group', 'part'])
        (folder/'predictions.csv').write_text(header + '\n')
    images = sorted((place/'photos'/'cat').iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('IMGCLF_RUNS', str(place/'runs'))
        both = Predictor('pair-s*', 'torch').predict(images)
        single = [Predictor(f'pair-s{seed}', 'torch').predict(images) for seed in (0, 1)]
    columns = [f'p_{o}' for o in CLASSES]
    parts = np.stack([table[columns] for table in single])
    assert np.allclose(both[columns], parts.mean(0), atol=1e-6)
    chosen = both[columns].to_numpy().argmax(1)
    assert np.allclose(both.spread, parts.std(0)[np.arange(len(images)), chosen], atol=1e-6)


def test_images_to_label_next_are_listed_without_those_of_the_run(place):
    code, out, err = predict(place, 'photos', '--next', 5, out='a/p.csv')
    assert code == 2 and 'next.csv: 5 of 60 images to label next' in out, out + err
    assert '1 could not be read' in out and 'earlier version' in out  # a run without a manifest
    found = read_csv(place/'a'/'next.csv')
    assert found.columns.tolist() == ['path', 'score', 'reason', 'predicted'] and found.path.is_unique
    first = (place/'a'/'next.csv').read_bytes()
    own = ''.join(f'x.jpg,{hash_file(path)[:16]},{i},test\n' for i,path in enumerate(found.path))
    (place/'runs'/'mine'/'manifest.csv').write_text(f'path,sha256,labelled,split\n{own}')
    try: code, out, err = predict(place, 'photos', '--next', 100, out='a/p.csv')
    finally: (place/'runs'/'mine'/'manifest.csv').unlink()
    again = read_csv(place/'a'/'next.csv')
    assert 'only 54 images are left to label' in out and '5 are images of the run' in out, out + err
    assert not set(again.path) & set(found.path) and len(again) == 54
    predict(place, 'photos', '--next', 5, out='a/p.csv')
    assert (place/'a'/'next.csv').read_bytes() == first


def test_a_foreign_next_csv_and_a_wrong_number_are_refused_before_the_prediction(place):
    (place/'b').mkdir()
    (place/'b'/'next.csv').write_text('mine,too\n')
    code, out, err = predict(place, 'photos', '--next', 5, out='b/p.csv')
    assert code == 1 and 'move it away' in err and not (place/'b'/'p.csv').exists()
    code, out, err = predict(place, 'photos', '--next', -5, out='b/p.csv')
    assert code == 1 and '--next -5: give 1 or more' in err
