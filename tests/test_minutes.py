"What benchmarks/minutes.py plans and remembers, and what its rows say; nothing is trained here"
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from conftest import ROOT
from imgclf_nb.base.machine import get_commit


@pytest.fixture
def minutes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT/'benchmarks')
    monkeypatch.setattr('sys.argv', ['minutes.py'])
    import minutes
    return minutes


def test_a_share_is_met_as_closely_as_epochs_and_steps_allow(minutes):
    first, each = 60., 80.  # of a budget with three epochs
    budget = first + 3*each
    assert [minutes.plan_epochs(share*budget, first, each) for share in (.1, .25, 1, 4)] == [0, 0, 3, 14]
    assert minutes.plan_epochs(first + .6*each, first, each) == 1
    assert [minutes.plan_steps(seconds, 5, 2) for seconds in (0, 5, 6.5, 105)] == [1, 1, 2, 51]
    assert minutes.say_epochs(0) == '1 frozen epoch' and minutes.say_epochs(3) == '1 frozen epoch, 3 epochs'


def test_a_cell_is_remembered_unless_its_circumstances_change(minutes, tmp_path):
    store = minutes.Store(tmp_path/'cells.json')
    assert store.get('a') is None
    store.put('a', dict(seconds=2., budget=10.))
    store.put('b', dict(seconds=3., budget=20.))
    assert store.get('a', budget=10.)['seconds'] == 2. and store.get('b')['budget'] == 20.
    assert store.get('a', budget=11.) is None and store.get('a', data_hash='new') is None


@pytest.mark.skipif(get_commit() is None, reason='a cell needs the commit of a git clone')
def test_a_call_goes_on_where_another_has_ended(minutes, tmp_path):
    made = []
    def make(): return dict(seconds=made.append('once') or len(made))
    def call(again, **wanted):
        bench = SimpleNamespace(store=minutes.Store(tmp_path/'cells.json'), same=dict(data_hash='x'), items=range(3), fresh=set())
        return [minutes.Bench.recall(bench, 'a', make, again, **wanted)['seconds'] for _ in range(2)]
    assert call(False, budget=1.) == [1, 1] and call(False, budget=1.) == [1, 1]
    assert call(True, budget=1.) == [2, 2]  # once a call
    assert call(False, budget=2.) == [3, 3]


def test_answers_are_paired_by_image(minutes, tmp_path):
    items = pd.DataFrame(dict(path=list('abcd'), label=['x', 'y', 'x', 'y'], split='valid', file=list('abcd'), group='', sequence='', frame=0))
    minutes.write_answers(tmp_path, 'valid', items.iloc[::-1], ['y', 'x', 'x', 'x'])  # in another order: d, c, b, a
    answers = minutes.read_answers(tmp_path, 'valid', items)
    assert answers.preds.tolist() == [0, 0, 0, 1] and answers.targs.tolist() == [0, 1, 0, 1]
    assert minutes.read_answers(tmp_path, 'test', items) is None
    assert minutes.get_accuracy([answers])['value'] == pytest.approx(.75) == minutes.get_accuracy([answers]*2)['value']
    perfect = minutes.Answers(answers.targs, answers.targs, np.eye(2)[answers.targs], answers.units)
    points = minutes.get_difference_points([perfect], [answers])
    assert points['value'] == 25 and points['low'] <= 25 <= points['high']


def test_each_tool_has_a_colour_a_maker_and_a_name(minutes):
    from imgclf_nb.results.measured_minutes import TOOLS
    assert set(minutes.NAMES) == set(minutes.MAKE) == set(minutes.ANSWER) == set(TOOLS)
