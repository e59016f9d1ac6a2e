"What 05 leaves in a run, what it says of bad runs, and that its numbers can be computed again from the files"
import json, shutil
from pathlib import Path

import numpy as np, pandas as pd
import pytest
from sklearn import metrics as skm

from imgclf_nb.core import UserError
from imgclf_nb.base.running import run_notebook

read = lambda p: json.loads((p/'run.json').read_text())
ALL = 'accuracy balanced_accuracy majority_rate macro_f1 log_loss brier ece ece_before'.split()
TWO = 'auc average_precision sensitivity specificity'.split()

pytestmark = pytest.mark.xdist_group('evaluation')  # one worker makes what they share


def train(home, dataset, **more):
    p = dict(arch='small_cnn', weights='none', size=32, epochs=4) | more
    run_notebook('04_train', str(home), quiet=True, dataset=str(dataset), **p)
    return home


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory):
    d = train(tmp_path_factory.mktemp('runs')/'chest', 'chest_xray_mini')
    run_notebook('05_evaluation', str(d), quiet=True, draws=200)
    return d


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "A CSV over a miniature's images, three classes; its split is made by each test"
    from imgclf_nb.data import get_items
    items = get_items('pc_parts_mini')
    classes = sorted(items.label.unique())[:3]
    t = items[items.label.isin(classes) & ~items.sha256.duplicated(keep=False)].groupby('label').head(12)[['path', 'label']].reset_index(drop=True)
    return t.assign(split=['train', 'train', 'valid', 'valid', 'test', 'train']*(len(t)//6) + ['train']*(len(t) % 6)), classes


def test_the_contract(evaluated):
    r, m = read(evaluated), json.loads((evaluated/'model.json').read_text())
    for s in ('valid', 'test'):
        assert set(ALL + TWO) <= set(r['metrics'][s])
        for k in ALL + TWO:
            v = r['metrics'][s][k]
            assert set(v) == {'value', 'low', 'high'} and v['low'] <= v['value'] <= v['high'] and v['low'] >= 0, (s, k, v)
            if k != 'log_loss': assert v['high'] <= 1
    assert r['temperature'] == m['temperature'] and r['operating_point']['threshold'] == m['threshold'] and r['operating_point']['rule']
    assert r['label_ceilings'] == dict(all=1, test=1) and r['doubt']['rejection']['guarantee'] == .95
    assert r['label_ceiling'] == 1 and r['summary'].endswith('.') and r['doubt']['rejection']['wanted_error'] == .05
    assert r['summary'].startswith('Accuracy ') and ' patients; majority-class baseline ' in r['summary'], r['summary']
    assert 'At the chosen threshold (' in r['summary'] and 'Expected calibration error 0.' in r['summary'], r['summary']
    for name in ('confusion', 'curves', 'reliability', 'decisions', 'risk_coverage'): assert (evaluated/'figures'/f'{name}.png').stat().st_size > 5000
    card = (evaluated/'README.md').read_text()
    assert card.startswith('---\n') and 'PNEUMONIA' in card and str(evaluated) not in card


def test_the_numbers_come_from_the_files(evaluated):
    r, t = read(evaluated), pd.read_csv(evaluated/'predictions.csv')
    d, m = t[t.split == 'test'], {k: v['value'] for k,v in read(evaluated)['metrics']['test'].items()}
    ill, alarm = d.label == 'PNEUMONIA', d.p_PNEUMONIA >= r['operating_point']['threshold']
    want = dict(accuracy=skm.accuracy_score(d.label, d.predicted), balanced_accuracy=skm.balanced_accuracy_score(d.label, d.predicted), macro_f1=skm.f1_score(d.label, d.predicted, average='macro'),
        log_loss=skm.log_loss(ill, d.p_PNEUMONIA), brier=skm.brier_score_loss(ill, d.p_PNEUMONIA), auc=skm.roc_auc_score(ill, d.p_PNEUMONIA), average_precision=skm.average_precision_score(ill, d.p_PNEUMONIA),
        sensitivity=alarm[ill].mean(), specificity=(~alarm)[~ill].mean(), majority_rate=d.label.value_counts().iloc[0]/len(d))
    for k,v in want.items(): assert m[k] == pytest.approx(v, abs=1e-9), k
    assert set(t[t.split == 'valid'].part) == {'choose', 'calibrate'} and t[t.split == 'valid'].groupby('group').part.nunique().max() == 1


def test_all_chapters_at_a_new_place(evaluated, tmp_path):
    "A run of another machine, evaluated where its images are here; the place is named only once"
    from imgclf_nb.datasets.cards import find_dataset
    from imgclf_nb.base.runs import Run
    run = Run(shutil.copytree(evaluated, tmp_path/'run'))
    there = Path(shutil.copytree(find_dataset('chest_xray_mini'), tmp_path/'xrays'))
    table = pd.read_csv(run.path/'predictions.csv', dtype=dict(group=str), keep_default_na=False)
    old = find_dataset('chest_xray_mini')
    table.assign(path=table.path.str.replace(str(old), 'C:\\chest_xray', regex=False)).to_csv(run.path/'predictions.csv', index=False)
    run.update(dataset='C:\\chest_xray', parameters=dict(dataset='C:\\chest_xray'))
    with pytest.raises(UserError, match='The images of run run are not here.*--dataset PLACE'): run_notebook('05_evaluation', str(run.path), quiet=True)
    run_notebook('05_evaluation', str(run.path), quiet=True, draws=100, dataset=str(there))
    run_notebook('05a_robustness', str(run.path), quiet=True, draws=100, pictures=0)
    run_notebook('06_explanation', str(run.path), quiet=True, pictures=4, shown=1, pool=10)
    r = read(run.path)
    assert r['place'] == str(there) and r['test_opened'] == 2 and r['explanation']
    assert r['metrics']['test']['accuracy']['value'] == read(evaluated)['metrics']['test']['accuracy']['value']
    assert all(Path(o).is_relative_to(there) for o in pd.read_csv(run.path/'predictions.csv').path)


def test_twice_is_the_same(evaluated, tmp_path):
    d = tmp_path/'again'
    shutil.copytree(evaluated, d)
    run_notebook('05_evaluation', str(d), quiet=True, draws=200)
    a, b = read(evaluated), read(d)
    assert b['test_opened'] == 2 and b['temperature'] == pytest.approx(a['temperature'], abs=1e-4)
    for k in ALL + TWO: assert b['metrics']['test'][k]['value'] == pytest.approx(a['metrics']['test'][k]['value'], abs=1e-4), k


def test_rules(evaluated, tmp_path):
    d = tmp_path/'rules'
    shutil.copytree(evaluated, d)
    run_notebook('05_evaluation', str(d), quiet=True, draws=200, sensitivity=.8, prevalence=.05)
    point = read(d)['operating_point']
    assert point['rule'].startswith('sensitivity of 0.8 or more, with a confidence of ') and point['predictive_values']['prevalence'] == .05
    assert point['basis'] in ('guaranteed', 'too few images') and point['confidence'] <= .95
    s, t = [read(d)['metrics']['test'][k]['value'] for k in ('sensitivity', 'specificity')]
    assert point['predictive_values']['ppv']['value'] == pytest.approx(s*.05/(s*.05 + (1-t)*.95))
    with pytest.raises(UserError, match='one rule'): run_notebook('05_evaluation', str(d), quiet=True, sensitivity=.8, miss_cost=3.)
    with pytest.raises(UserError, match='from 0.01 to'): run_notebook('05_evaluation', str(d), quiet=True, sensitivity=1.2)


def break_predictions(change):
    def act(d):
        t = pd.read_csv(d/'predictions.csv')
        change(t).to_csv(d/'predictions.csv', index=False)
    return act


def nan_weights(d):
    from safetensors.torch import load_file, save_file
    s = load_file(d/'model.safetensors')
    save_file({k: v*float('nan') if v.is_floating_point() else v for k,v in s.items()}, d/'model.safetensors')
    edit_model(lambda m: m.pop('weights_sha256'))(d)


def edit_model(change):
    def act(d):
        m = json.loads((d/'model.json').read_text())
        m.pop('checksum', None)  # as in runs of earlier versions
        change(m); (d/'model.json').write_text(json.dumps(m))
    return act


@pytest.mark.parametrize('damage, says', [
    (nan_weights, 'NaN or infinite logits'),
    (edit_model(lambda m: m.pop('temperature')), 'made by another version'),
    (break_predictions(lambda t: t.assign(label=t.label.replace('NORMAL', 'FINE'))), 'does not know, such as FINE'),
    (edit_model(lambda m: m.update(classes=m['classes'][::-1])), 'another order'),
    (edit_model(lambda m: m['preprocessing'].update(colour_space='lab')), 'made by another version'),
    (edit_model(lambda m: m.update(arch='resnet18')), 'come from another version or model'),
    (break_predictions(lambda t: t.rename(columns={'p_NORMAL': 'p_WELL'})), 'differ in NORMAL, WELL'),
    (break_predictions(lambda t: t.rename(columns={'p_NORMAL': 'p_PNEUMONIA', 'p_PNEUMONIA': 'p_NORMAL'})), 'another order'),
    (break_predictions(lambda t: t.assign(predicted=t.predicted.map({'NORMAL': 'PNEUMONIA', 'PNEUMONIA': 'NORMAL'}))), 'swapped'),
    (break_predictions(lambda t: t.assign(p_NORMAL=np.nan)), 'not finite')], ids=['nan', 'no_temperature', 'label', 'order', 'version', 'weights', 'classes', 'columns', 'swapped', 'nan_table'])
def test_bad_runs_in_a_sentence(evaluated, tmp_path, damage, says):
    d = tmp_path/'bad'
    shutil.copytree(evaluated, d)
    damage(d)
    before = (d/'run.json').read_text()
    with pytest.raises(UserError, match=says): run_notebook('05_evaluation', str(d), quiet=True)
    assert (d/'run.json').read_text() == before  # nothing is lost, and the test was not opened for it


def test_without_a_test(table, tmp_path):
    t, classes = table
    t[t.split != 'test'].assign(split=lambda o: o.split.where(o.split == 'valid', 'train')).to_csv(tmp_path/'t.csv', index=False)
    run_notebook('04_train', str(tmp_path/'r'), quiet=True, dataset=str(tmp_path/'t.csv'), arch='small_cnn', weights='none', size=32, epochs=1, test=0.)
    run_notebook('05_evaluation', str(tmp_path/'r'), quiet=True, draws=200)
    r = read(tmp_path/'r')
    assert set(r['metrics']) == {'valid'} and 'There is no test split' in r['summary'] and r['operating_point'] is None and r['test_opened'] == 0


def test_one_class_only_in_what_calibrates(tmp_path):
    "A defect of which validation holds one: the operating point comes from all of validation, or there is none; numbers come all the same"
    from imgclf_nb.data import get_items
    t = get_items('pc_parts_mini')
    t = t[~t.sha256.duplicated(keep=False)].assign(label=lambda o: np.where(o.label == o.label.min(), 'DEFECT', 'OK'))[['path', 'label']].reset_index(drop=True)
    t['split'] = ['valid' if i % 3 == 0 else 'test' if i % 3 == 1 else 'train' for i in range(len(t))]
    bad = t.index[(t.label == 'DEFECT')]
    for kept,says in ((1, 'No validation images were reserved'), (0, 'no operating point')):
        o = t.copy()
        o.loc[bad, 'split'] = (['valid']*kept + ['test', 'train']*len(bad))[:len(bad)]
        o.to_csv(tmp_path/f'{kept}.csv', index=False)
        d = train(tmp_path/f'r{kept}', tmp_path/f'{kept}.csv', epochs=1)
        run_notebook('05_evaluation', str(d), quiet=True, draws=200)
        r = read(d)
        assert any(says in n for n in r['notes']) and r['metrics']['test']['accuracy']['value'] is not None and (r['operating_point'] is None) == (kept == 0), (kept, r['notes'], r['operating_point'])


def test_an_arch_without_maps(table, tmp_path):
    "Its last map is one cell: what needs no map follows all the same"
    t, classes = table
    t.to_csv(tmp_path/'t.csv', index=False)
    d = train(tmp_path/'r', tmp_path/'t.csv', arch='resnet18', epochs=1)
    run_notebook('05_evaluation', str(d), quiet=True, draws=200)
    run_notebook('06_explanation', str(d), quiet=True, pictures=4)
    r = read(d)
    assert r['explanation']['sanity'] is None and r['explanation']['mistakes'] >= 0 and (d/'figures'/'embedding.png').exists() and not (d/'figures'/'gradcam.png').exists()


def test_a_class_that_never_occurs_in_the_test(table, tmp_path):
    t, classes = table
    t[(t.label != classes[0]) | (t.split != 'test')].to_csv(tmp_path/'t.csv', index=False)
    run_notebook('05_evaluation', str(train(tmp_path/'r', tmp_path/'t.csv', epochs=1)), quiet=True, draws=200)
    r = read(tmp_path/'r')
    assert any(f'{classes[0]}. Nothing is known' in o for o in r['notes']) and r['metrics']['test']['balanced_accuracy']['value'] is not None
    assert (tmp_path/'r'/'figures'/'confusion.png').exists()


def test_one_class_only_in_the_test(table, tmp_path):
    t, classes = table
    t = t[t.label != classes[2]]
    t[(t.label == classes[0]) | (t.split != 'test')].to_csv(tmp_path/'t.csv', index=False)
    run_notebook('05_evaluation', str(train(tmp_path/'r', tmp_path/'t.csv', epochs=1)), quiet=True, draws=200)
    r = read(tmp_path/'r')
    assert 'Only one class occurs' in r['summary'] and r['metrics']['test']['auc']['value'] is None and r['metrics']['test']['accuracy']['value'] is not None
    assert (tmp_path/'r'/'figures'/'confusion.png').exists() and (tmp_path/'r'/'README.md').exists()


def test_the_confusion_matrix_has_the_names_where_they_belong():
    "A published project on the X-ray set printed its matrix with the two names swapped"
    from imgclf_nb.evaluation import plot_confusion
    t = pd.DataFrame(dict(label=['NORMAL']*3 + ['PNEUMONIA']*7, predicted=['NORMAL']*3 + ['PNEUMONIA']*5 + ['NORMAL']*2))
    ax = plot_confusion(t, ['NORMAL', 'PNEUMONIA'])
    cells = {(round(o.get_position()[1] - .5), round(o.get_position()[0] - .5)): int(o.get_text()) for o in ax.texts}  # (row, column)
    rows, columns = [[o.get_text() for o in a] for a in (ax.get_yticklabels(), ax.get_xticklabels())]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ('true', 'predicted')
    assert {(rows[i], columns[j]): n for (i, j),n in cells.items()} == {('NORMAL', 'NORMAL'): 3, ('NORMAL', 'PNEUMONIA'): 0, ('PNEUMONIA', 'NORMAL'): 2, ('PNEUMONIA', 'PNEUMONIA'): 5}


def test_a_model_that_guesses_is_called_guessing(evaluated):
    from dataclasses import replace
    from imgclf_nb.stats.paired_tests import Answers
    from imgclf_nb.results.metrics import get_metrics, check_against_chance
    t, rng = pd.read_csv(evaluated/'predictions.csv').query("split == 'test'"), np.random.default_rng(0)
    targs, guess = (t.label == 'PNEUMONIA').to_numpy()*1, rng.integers(0, 2, len(t))
    a = Answers(targs, guess, np.eye(2)[guess]*.2 + .4, np.arange(len(t)), 1)
    assert 'No better than chance' in check_against_chance(get_metrics(a, draws=300), 2, 2)
    majority = replace(a, preds=np.ones_like(targs), probs=np.tile([.3, .7], (len(t), 1)))
    assert 'No better than chance' in check_against_chance(get_metrics(majority, draws=300), 2, 2)
    assert 'swapped' in check_against_chance(get_metrics(replace(a, preds=1-targs, probs=np.eye(2)[1-targs]*.8 + .1), draws=300), 2, 2)
    assert check_against_chance(get_metrics(replace(a, preds=targs, probs=np.eye(2)[targs]*.8 + .1), draws=300), 2, 2) == ''


def test_a_label_ceiling_is_that_of_the_given_images():
    from imgclf_nb.data import get_items
    from imgclf_nb.evaluation import get_label_ceiling
    items = get_items('pc_parts_mini')
    labels = items.groupby('sha256').label.transform('nunique')
    clear, torn = items[labels == 1], items[labels > 1]
    whole = get_label_ceiling(items, items.label)
    assert 0 < get_label_ceiling(torn, torn.label) < whole < 1 and get_label_ceiling(clear, clear.label) > whole
