"A share is written by one function, wherever it is written: 4,999 of 5,000 is never 100.0 %, 1.000 or 1.00"
import re

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from conftest import MODULES, get_source
from imgclf_nb.base.percentages import format_bounds, format_points, format_share, say_points, say_share
from imgclf_nb.core import format_value
from imgclf_nb.reporting.wording import say_number
from imgclf_nb.results.measured_tables import format_measured
from imgclf_nb.stats.intervals import get_share

counts = st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
small = settings(max_examples=30, derandomize=True, deadline=None)


def read(text): return float(re.match(r'[+−-]?[\d.]+', text)[0].replace('−', '-'))


WAYS = dict(
    card=lambda o: (say_number(o), 100),
    calibration=lambda o: (say_number(o, '.3f'), 1),
    sentence=lambda o: (say_share(o), 100),
    table=lambda o: (format_measured(o, '.1%'), 100),
    fraction=lambda o: (format_measured(o, '.3f'), 1),
    value=lambda o: (format_value(o), 1))


@pytest.mark.parametrize('way', WAYS)
@small
@given(counts)
def test_only_all_are_all_and_only_none_is_none(way, k_of_n):
    k, n = k_of_n
    share = get_share(k, n)
    text, whole = WAYS[way](share)
    assert (read(text) == whole, read(text) == 0) == (k == n, k == 0), text
    low, high = [float(o) for o in re.search(r'([\d.]+)–([\d.]+)\)', text).groups()]
    assert low <= read(text) <= high or abs(high - low) < whole/100, text
    assert (low == 0) == (share['low'] < 1e-9) and (high == whole) == (share['high'] > 1 - 1e-9), text


@small
@given(st.floats(-1, 1), st.integers(0, 2))
def test_a_difference_keeps_its_sign_and_its_digits(difference, digits):
    text = format_points(difference, digits)
    assert abs(float(text) - 100*difference) <= .51*10**-digits
    if abs(difference) > 1e-9: assert np.sign(float(text)) == np.sign(difference), text


def test_words_of_shares_and_of_differences():
    "Shares in per cent, differences in percentage points"
    assert say_share(dict(value=4999/5000, low=.9989, high=.99996)) == '99.98 % (95 % CI 99.9–99.996)'
    assert say_points(dict(value=.0003, low=-.001, high=.002)) == '+0.03 percentage points (95 % CI -0.1 to +0.2)'
    assert format_share(1 - 1e-15) == '100.0 %' and format_bounds(0, 1, 0) == '0–100'
    assert format_share(float('nan')) == 'not measured' == format_points(float('inf'))


# a number that a user chose, such as a level of .9, is repeated as it was given
CHOSEN = re.compile(r"100\*(wanted|prevalence|f\['level'\]|forecast\['level'\]):g|100\*share:\.3g")
BY_HAND = re.compile(r"\{\(?100\*|\{[^{}]*:[+,]?\.\d%\}|:\.\df\} ?%")


@pytest.mark.parametrize('module', MODULES)
def test_no_share_is_formatted_by_hand(module):
    "`base.percentages` is the place"
    lines = get_source(module).splitlines()
    assert not [o for o in lines if BY_HAND.search(CHOSEN.sub('', o))]


def test_hands_are_seen():
    "The rule finds what was there before"
    before = ["f\"{100*share['value']:.1f} %\"", "f'{share:.0%} of the lines'", "f'{100*(1 - row.distinct):.0f} %'", "f'{value:.1f} %'"]
    before[2] = before[2].replace('100*(', '(100*')
    assert all(BY_HAND.search(o) for o in before)
    assert not BY_HAND.search(CHOSEN.sub('', "f', at a prevalence of {100*prevalence:g} %'"))


def test_a_leaderboard_shows_what_is_not_one():
    from imgclf_nb.results.leaderboard import _format_list
    row = dict(rank=1, name='a', arch='x', policy='none', size=32, epochs=1, seeds=1, value=.9998, low=.9989, high=.99996, spread=np.nan,
        train_seconds=1., macs=1., metric='accuracy', dataset='d', n=5000, pretrained=True)
    text = _format_list(pd.DataFrame([row]))
    assert '0.9998' in text and '0.999–0.99996' in text and '1.000' not in text


def test_a_table_shows_what_is_not_one():
    "4,999 of 5,000 in a table of a page or a terminal; counts and texts stay as they are"
    from imgclf_nb.base.percentages import round_table
    table = pd.DataFrame(dict(recall=[1., 4999/5000], p=[1/5000, .25], n=[3, 5000], verdict=['better', 'worse']))
    shown = round_table(table)
    assert shown.values.tolist() == [[1, .0002, 3, 'better'], [.9998, .25, 5000, 'worse']] and shown.n.dtype == int
    assert '1.0000' in shown.to_string() and '0.9998' in shown.to_string() and '0.0002' in shown.to_string()
    assert round_table(pd.DataFrame([[np.nan, 0., -1., 1e-12, -.0001]])).values[0, 1:].tolist() == [0, -1, 0, -.0001]


TABLES = re.compile(r"(get_class_effects|get_decision_table|get_class_table|slices|board|of_groups|table)[^\n]*\.round\(")


def test_tables_of_shares_are_rounded_by_one_function():
    "In the pages of runs and studies"
    from pathlib import Path
    pages = [Path(__file__).parents[1]/'nbs'/f'{o}.ipynb' for o in ('05_evaluation', '05a_robustness', '07_comparison', '12_commands')]
    assert not [(o.name, found[0]) for o in pages if (found := TABLES.search(o.read_text()))]


def test_areas_and_calibration_errors_are_not_rounded_to_all_or_nothing():
    from imgclf_nb.results.metrics import _summarise_calibration
    from imgclf_nb.stats.roc_pr import plot_roc_pr
    said = _summarise_calibration(dict(ece=dict(value=.0002, low=0., high=.0031), ece_15=dict(value=.0004)))
    assert said == 'Expected calibration error 0.0002 (0.000–0.003), corrected for chance; 0.0004 with the usual 15 bins.'
    targs = np.arange(200) % 2
    score = np.where(np.arange(200) == 1, .05, targs*.8 + .1*(np.arange(200) == 0))
    fig = plot_roc_pr(targs, np.c_[1 - score, score], np.arange(200), ['a', 'b'], 'b', draws=20)
    assert 'area 1.000' not in fig.axes[0].get_legend().get_texts()[0].get_text()
