"The ladder as a command: the first rung is always climbed, the same command resumes, a failure loses nothing"
import json, os, signal, subprocess, sys, time

import pandas as pd
import pytest

from imgclf_nb.base.runs import Run
from imgclf_nb.core import UserError

GIVEN = ['pc_parts_mini', '--run', 'best', '-p', 'size', '64']


def start(places, *words):
    "`imgclf_run` with these words, as a process group of its own"
    code = 'import sys; sys.argv[0] = "imgclf_run"; from imgclf_nb.commands import imgclf_run as run; sys.exit(run())'
    return subprocess.Popen([sys.executable, '-c', code, *words], env={**os.environ, **places}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(places, *words):
    "Its exit status, and what it says"
    process = start(places, *words)
    said = process.communicate()[0]
    return process.returncode, said


def climb(places, *more): return finish(places, *GIVEN, *more)


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('ladder')
    (tmp/'runs').mkdir()
    return dict(IMGCLF_RUNS=str(tmp/'runs'), IMGCLF_RECORDS=str(tmp/'records'))


@pytest.fixture(scope='module')
def first(places): return climb(places, '--minutes', '.001')


def read(places): return json.loads((Run(places['IMGCLF_RUNS']).path/'best'/'run.json').read_text())


def test_a_time_too_short_gives_the_first_answer(first, places):
    status, said = first
    assert status == 0, said
    assert 'The ladder ends: the time is used up.' in said and 'validation accuracy' in said
    record = read(places)
    assert record['status'] == 'done' and record['chosen'] == 'best-first' and record['parents'] == ['best-first']
    assert record['test_opened'] == 0
    rows = pd.read_csv(Run(places['IMGCLF_RUNS']).path/'best'/'ladder.csv')
    assert list(rows.kind) == ['first'] and rows.chosen.all()


def test_the_result_answers(first, places, monkeypatch):
    from imgclf_nb.inference import Predictor
    from imgclf_nb.results.artifacts import read_predictions
    for name,place in places.items(): monkeypatch.setenv(name, place)
    kept = read_predictions(Run(places['IMGCLF_RUNS'] + '/best')).head(3)
    found = Predictor('best', runtime='torch').predict(kept.path.tolist())
    assert found.predicted.tolist() == kept.predicted.tolist()
    assert found.probability.to_numpy() == pytest.approx(kept.probability.to_numpy(), abs=.02)


def test_other_parameters_are_refused_and_the_model_stays(first, places):
    status, said = climb(places, '--minutes', '.001', '-p', 'valid', '.3')
    assert status == 1 and 'valid was 0.2 and is now 0.3' in said
    assert read(places)['status'] == 'done'


def test_a_failing_rung_is_left_out(first, places, monkeypatch):
    "Whatever the notebook of a rung says when it fails: the next rung is climbed, and the reason is in the table"
    from imgclf_nb import ladder as module
    for name,place in places.items(): monkeypatch.setenv(name, place)
    def fail(*args, **kw): raise UserError('One image does not fit into memory: give a smaller size or arch.')
    monkeypatch.setattr(module, 'run_notebook', fail)
    params = dict(read(places)['parameters'], minutes=5.)
    made = module.climb_set(params, time.monotonic())
    assert made.rows[0]['kind'] == 'first' and not made.rows[0]['error']  # known from before
    assert len(made.rows) > 1 and all('does not fit into memory' in row['error'] for row in made.rows[1:])
    assert read(places)['status'] == 'done' and read(places)['chosen'] == 'best-first'


def test_a_probe_teaches(first, places, monkeypatch):
    "Training by half a probe's probabilities, a probe's alone, and of the images that are trained on"
    from imgclf_nb.base.running import run_notebook
    from imgclf_nb.data import get_items
    from imgclf_nb.models.features import get_preprocessing
    from imgclf_nb.splitting import get_splits, seal_test
    from imgclf_nb.train import _get_loaders
    for name,place in places.items(): monkeypatch.setenv(name, place)
    given = dict(dataset='pc_parts_mini', size=64, epochs=1)
    run_notebook('04_train', 'taught', quiet=True, teacher='best-first', **given)
    record = Run(places['IMGCLF_RUNS'] + '/taught').record
    assert record['status'] == 'done' and record['parameters']['teacher'] == 'best-first'
    items = seal_test(get_splits(get_items('pc_parts_mini'))).assign(part='')
    pre = get_preprocessing(record['arch'], 64, record['classes'])
    targets = _get_loaders(items, pre, record['parameters']).train.targets
    labels = items[items.split == 'train'].label
    own = targets[range(len(labels)), [record['classes'].index(label) for label in labels]]
    assert targets.sum(1).allclose(targets.new_ones(len(labels))) and (own >= .45).all() and (own < .99).any()
    with pytest.raises(UserError, match='is no probe'): run_notebook('04_train', 'again', quiet=True, teacher='taught', **given)


@pytest.mark.parametrize('words, part', [(['--minutes', '1', '--quick'], '--quick is the first step'),
    (['--minutes', '1', '-p', 'epoch', '3'], 'epoch'), (['--minutes', '-1'], 'minutes'), (['--until', '.9'], '--minutes')])
def test_words_that_do_not_fit(places, words, part):
    status, said = climb(places, *words)
    assert status != 0 and part in said, said


def test_a_killed_ladder_has_its_best_model_and_resumes(places, monkeypatch):
    "kill -9 in the second rung: the first answer is complete, and the same command does not climb it again"
    for name,place in places.items(): monkeypatch.setenv(name, place)
    words = ['pc_parts_mini', '--run', 'killed', '-p', 'size', '32', '-p', 'early', 'False']
    process = start(places, *words, '--minutes', '3')
    assert any('next:' in line for line in process.stdout), 'the first rung never ended'
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    runs = Run(places['IMGCLF_RUNS']).path
    record = Run(runs/'killed').record
    assert record['status'] == 'done' and record['chosen'] == 'killed-first' and (runs/'killed'/'predictions.csv').exists()
    began = Run(runs/'killed-first').record['started']
    for minutes in ('.5', '1.5', '4'):  # a busy machine needs more time for its second rung
        status, said = finish(places, *words, '--minutes', minutes)
        assert status == 0 and Run(runs/'killed-first').record['started'] == began, said
        table = pd.read_csv(runs/'killed'/'ladder.csv', keep_default_na=False, dtype=str).query("error == ''")
        if len(table) > 1: break
    assert list(table.kind)[:2] == ['first', 'ridge'] and table.run[table.chosen == 'True'].item() == Run(runs/'killed').record['chosen']
    status, said = finish(places, *words, '--minutes', '.001')  # no time for anything: what was found stays
    assert status == 0 and f'{len(table)} rungs of an earlier climb' in said
    again = pd.read_csv(runs/'killed'/'ladder.csv', dtype=str)
    assert again.run.tolist() == table.run.tolist() and again.chosen.tolist() == table.chosen.tolist()


def test_what_rungs_are_expected_to_bring_is_what_they_have_brought():
    "The share of errors removed on all measured sets; at least .02, so that a rung is still tried elsewhere"
    from imgclf_nb.results.measured import read_measured
    from imgclf_nb.training.rungs import GAINS, GUESSED
    rows = pd.DataFrame(read_measured('rungs').rows)
    rows = rows[rows.machine == rows.machine[0]]  # whoever measures anew adds rows
    summed = rows.groupby('rung')[['removed', 'errors_before']].sum()
    share = (summed.removed/summed.errors_before).clip(lower=.02).round(2)
    assert set(GAINS) - {'first'} == {*GUESSED, *share.index}
    assert {kind: GAINS[kind] for kind in share.index} == pytest.approx(share.to_dict())
