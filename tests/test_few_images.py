"From 2 × 2 images up, what 04a, 04 and 05 call gives a result that is honest, or a sentence"
import json, os, warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest
from hypothesis import Phase, given, settings, strategies as st
from PIL import Image

from imgclf_nb.base.running import run_notebook
from imgclf_nb.core import UserError
from imgclf_nb.evaluation import calibrate_predictions, get_mistakes
from imgclf_nb.models.linear_heads import get_linear_head
from imgclf_nb.reporting.model_card import make_card
from imgclf_nb.results.artifacts import tabulate
from imgclf_nb.results.class_metrics import describe_missing_classes, fold_intervals, get_class_table
from imgclf_nb.results.metrics import calibrate, get_metrics, split_answers, summarise_evaluation
from imgclf_nb.results.operating import choose_operating_point, evaluate_abstention, get_by_group, get_curve_point, get_decision_table
from imgclf_nb.results.operating import get_group_metrics, get_predictive_value_intervals, get_prior_shift, get_rates, take_unseen
from imgclf_nb.results.operating import try_prediction_sets
from imgclf_nb.splitting import get_split_table, get_splits
from imgclf_nb.stats.calibration import decompose_brier, set_temperature
from imgclf_nb.stats.intervals import get_units
from imgclf_nb.stats.slices import find_slices
from imgclf_nb.training.subsets import divide_validation

few = settings(max_examples=int(os.environ.get('EXAMPLES', 25)), derandomize=True, deadline=None, phases=[Phase.generate])


def make_items(counts, groups=0, split='', seed=0):
    "`counts` images of each class, in random groups, if `groups`, and random given splits"
    labels = [f'c{k}' for k,n in enumerate(counts) for _ in range(n)]
    n, rng = len(labels), np.random.default_rng(seed)
    files = [f'{i:03}.png' for i in range(n)]
    items = pd.DataFrame(dict(path=files, file=files, label=labels, split='', group='', sequence='', frame=-1, copies='', sha256=files,
        width=9, height=9, bytes=9))
    if groups: items['group'] = [f'g{o}' for o in rng.integers(0, groups, n)]
    if split: items['split'] = rng.choice(split.split(), n)
    items.attrs.update(dataset='x', unreadable=[], decisions={}, data_hash='h', by_hand=bool(split))
    return items


def predict(images, classes, layer, noise, rng):
    "Predictions of a linear layer for the features of these images: `noise` 0 makes them all right"
    w, b = layer
    x = np.eye(5)[[classes.index(label) for label in images.label]]*3 + noise*rng.normal(size=(len(images), 5))
    e = np.exp(x@w.T + b)
    return tabulate(e/e.sum(1, keepdims=True), images, SimpleNamespace(classes=classes))


def train(items, probe, calibration, noise):
    "`(predictions, record)` as 04a (`probe`) or 04 leaves them, with a linear layer on synthetic features"
    classes, rng = sorted(items.label.unique()), np.random.default_rng(1)
    items = items.assign(part=np.where(items.split == 'valid', 'calibrate', '')) if probe else divide_validation(items, calibration)
    images = {split: items[items.split == split] for split in ('train', 'valid', 'test')}
    y = np.array([classes.index(label) for label in images['train'].label])
    x = np.eye(5)[y]*3 + rng.normal(size=(len(y), 5))
    *layer, c = get_linear_head(x, y, get_units(images['train']), len(classes))
    table = pd.concat([predict(images[o], classes, layer, noise, rng) for o in ('valid', 'test') if len(images[o])], ignore_index=True)
    record = dict(run='r', dataset='x', arch='resnet18', parameters=dict(dataset='x'), classes=classes,
        positive_class=classes[1] if len(classes) == 2 else None, split_sizes={k: len(v) for k,v in images.items()})
    return table, record


def evaluate(table, record, rule):
    "What 05 computes, by the functions that it calls: the entries of run.json"
    classes, split = record['classes'], 'test' if (table.split == 'test').any() else 'valid'
    raw = split_answers(table, record, 1.)
    own, notes = raw['own'], list(raw['notes'])
    t, valid = calibrate(raw['valid'], own)
    answers = dict(valid=valid)
    if split == 'test': answers['test'] = replace(raw['test'], probs=set_temperature(raw['test'].probs, t))
    a = answers[split]
    point, positives, more = choose_operating_point(answers, own, classes, rule)
    metrics = {s: get_metrics(o, raw[s], positives.get(s), 100) for s,o in answers.items()}
    notes += more + list(filter(None, [describe_missing_classes(a.targs, classes, split)]))
    by_class = get_class_table(a, classes)
    decompose_brier(a.probs, a.targs)
    if point: get_decision_table(a, positives[split], classes)
    if get_curve_point(a, positives.get(split)):
        values = get_predictive_value_intervals(get_rates(a, positives[split], 100), .3)
        point['predictive_values'] = values
    unseen = take_unseen(a, own, split)
    abstention, note = evaluate_abstention(valid.take(own), a if unseen is None else unseen, .05)
    sets, _, why = try_prediction_sets(take_unseen(raw[split], own, split), raw['valid'].take(own), classes, .9, 100)
    grouped, _ = get_by_group(a, (table[table.split == split].group != '').to_numpy())
    mine = calibrate_predictions(table, raw, t, classes).query(f"split == '{split}'")
    get_mistakes(mine)
    slices = find_slices(pd.DataFrame(dict(label=mine.label.to_numpy())), a.preds == a.targs, a.units)
    entries = dict(metrics=metrics, operating_point=point, temperature=t, notes=[*notes, *filter(None, [note, why])],
        doubt=dict(rejection=abstention, sets=sets), slices=slices.to_dict('records'), test_opened=1,
        by_group=dict(kind='groups', **{split: get_group_metrics(grouped, point, 100)}) if grouped else None,
        prior_shift=get_prior_shift(valid, a, classes, 100) if split == 'test' else None,
        calibration=dict(pictures=int(own.sum()), groups=len(set(valid.units[own])), method='temperature'),
        summary=summarise_evaluation(metrics[split], split, a, classes, point, 1.))
    return entries, fold_intervals(by_class).to_string(), {s: len(set(o.units)) for s,o in answers.items()}


def find_intervals(entries, path=''):
    "`(where, interval)` of each `{value, low, high}`"
    if not isinstance(entries, dict): return
    if {'value', 'low', 'high'} <= set(entries): yield path, entries
    for k,v in entries.items(): yield from find_intervals(v, f'{path} {k}')


def check_honest(entries, text):
    "Intervals hold their value and have a width; nothing that is read shows a NaN or an infinity"
    for where,v in find_intervals(entries):
        if np.isnan(v['value']): continue
        assert v['low'] <= v['value'] + 1e-9 and v['value'] <= v['high'] + 1e-9, (where, v)
        assert v['high'] - v['low'] > (1e-9 if where.endswith(('log_loss', 'brier')) else .005), (where, v)
    assert not {'nan', 'NaN', 'inf', '-inf'} & set(text.replace('(', ' ').replace('–', ' ').split()), text


def try_all(items, valid=.2, test=.2, probe=False, calibration=.5, noise=1., rule=None):
    "Entries and model card of a run on these images; None for a `UserError`; a warning of a library fails"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        try: items = get_splits(items, valid, test)
        except UserError as error: return str(error), None
        get_split_table(items)
        table, record = train(items, probe, calibration, noise)
        entries, by_class, units = evaluate(table, record, rule or dict(miss_cost=1.))
        written = json.loads(json.dumps(record | entries, default=lambda o: o.item()))
        card = make_card(written, dict(arch='resnet18', classes=record['classes']))
    check_honest(entries, ' '.join([entries['summary'], *entries['notes'], card]))
    return entries, by_class


RULES = st.sampled_from([dict(miss_cost=1.), dict(miss_cost=20.), dict(sensitivity=.95), dict(specificity=.9)])


@few
@given(st.lists(st.integers(2, 9), min_size=2, max_size=5), st.sampled_from([0, 0, 3, 8]), st.sampled_from(['', '', 'train train valid test', 'train test']),
    st.sampled_from([.01, .2, .5]), st.sampled_from([0, .2]), st.booleans(), st.sampled_from([0, .1, .5, .9]), st.sampled_from([0., 1., 5.]), RULES)
def test_any_small_set(counts, groups, split, valid, test, probe, calibration, noise, rule):
    got = try_all(make_items(counts, groups, split), valid, test, probe, calibration, noise, rule)
    assert got[1] is not None or len(got[0]) > 40


@pytest.mark.parametrize('k, n', [(2, 2), (2, 3), (3, 4), (2, 6)])
def test_the_smallest_sets(k, n):
    "Two images of a class are enough without a test split, three with one"
    message, card = try_all(make_items([n]*k))
    if n == 2: assert card is None and 'set test = 0 to do without a test split' in message
    else: assert card is not None
    assert try_all(make_items([n]*k), test=0)[1] is not None
    assert try_all(make_items([n]*k), test=0, probe=True)[1] is not None


def test_one_to_two_hundred_and_many_classes_of_two():
    entries, _ = try_all(make_items([3, 600]))
    assert entries['metrics']['test']['sensitivity']['high'] > .5  # one positive image
    items = make_items([2]*200)
    splits = get_splits(items, .2, 0)
    assert splits[splits.split == 'valid'].label.nunique() == 200
    parts = divide_validation(splits).query("split == 'valid'").part.value_counts()
    assert parts.min() > 70


@pytest.mark.parametrize('right', [0, 1, 2])
def test_two_test_images(right):
    "No metric of two images is certain"
    table = pd.DataFrame(dict(path=[*'abcdef'], label=['x', 'y']*3, split=['valid']*4 + ['test']*2, group='', part=''))
    table['predicted'] = [*table.label[:4], *['x', 'y'][:right], *['y', 'x'][right:]]
    for c in 'xy': table[f'p_{c}'] = np.where(table.predicted == c, .999, .001)
    record = dict(run='r', dataset='x', arch='resnet18', parameters=dict(dataset='x'), classes=['x', 'y'], positive_class='y',
        split_sizes=dict(train=9, valid=4, test=2))
    entries, by_class, _ = evaluate(table.assign(probability=.999), record, dict(miss_cost=1.))
    check_honest(entries, entries['summary'] + by_class)
    for name,v in entries['metrics']['test'].items():
        if name not in ('log_loss', 'brier', 'ece', 'ece_before'): assert v['high'] - v['low'] > .4, (name, v)


def test_validation_that_is_a_copy_of_the_test():
    "All validation images are left out as duplicates of the test: a sentence, not a crash in training"
    items = make_items([6, 6])
    items['split'] = ['train', 'train', 'valid', 'valid', 'test', 'test']*2
    items['copies'] = ['', '', 'a', 'b', 'a', 'b', '', '', 'c', 'd', 'c', 'd']
    with pytest.raises(UserError, match='No validation image is left: all of them are duplicates'): get_splits(items)


def test_six_images_are_a_run(tmp_path):
    "2 × 3 images through 04a and 05"
    rng = np.random.default_rng(0)
    for c in ('cat', '1'):
        (tmp_path/'set'/c).mkdir(parents=True)
        for i in range(3): Image.fromarray(rng.integers(0, 255, (48, 48, 3), np.uint8)).save(tmp_path/'set'/c/f'{i}.png')
    run_notebook('04a_probe', str(tmp_path/'run'), quiet=True, dataset=str(tmp_path/'set'), arch='test_resnet', weights='none', size=32)
    run_notebook('05_evaluation', str(tmp_path/'run'), quiet=True, draws=100)
    r = json.loads((tmp_path/'run'/'run.json').read_text())
    assert r['split_sizes'] == dict(train=2, valid=2, test=2) and '2 test images' in r['summary']
    assert any(note.startswith('Fewer than 10 images were reserved for calibration') for note in r['notes'])
