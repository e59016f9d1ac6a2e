"The attack counts what it should: outcomes, processes that hang or die, and wrong readers"
import os
import re
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from imgclf_nb.core import UserError

SCRIPT = ROOT/'benchmarks'/'attack.py'


@pytest.fixture
def attacks(monkeypatch):
    "The package of the attacks"
    monkeypatch.syspath_prepend(ROOT/'benchmarks')
    from attacks import cases, mutants, workers
    return dict(cases=cases, mutants=mutants, workers=workers)


def judge(attacks, tmp_path, attack, seconds=100):
    "The outcome and the reason of one attack"
    cases = attacks['cases']
    case = cases.make_case('x', 0, 3, tmp_path, {}, print)
    row = cases.judge(attack, case, seconds)
    return row['outcome'], row['reason']


def raises(error):
    "An attack that ends so"
    def attack(case): raise error
    return attack


def test_each_end_of_an_attack_has_its_name(attacks, tmp_path):
    cases = attacks['cases']
    def end(attack): return judge(attacks, tmp_path, attack)[0]
    assert end(lambda case: None) == 'survived'
    assert end(raises(cases.Lost('x'))) == 'lost'
    assert end(raises(cases.Silent('x'))) == 'silent'
    assert end(raises(KeyError('x'))) == 'traceback'
    assert end(raises(UserError('a sentence that no attack asked for'))) == 'traceback'
    assert end(lambda case: os.write(1, b'Traceback (most recent call last)')) == 'traceback'
    said = "import sys; print('Traceback (most recent call last)', file=sys.stderr)"
    assert end(lambda case: subprocess.run([sys.executable, '-c', said])) == 'traceback'


def test_what_hangs_is_stopped(attacks, tmp_path):
    outcome, reason = judge(attacks, tmp_path, lambda case: time.sleep(600), 1)
    assert outcome == 'traceback' and 'hung' in reason


def test_a_sentence_is_asked_for(attacks):
    cases = attacks['cases']
    def refuse(text): raise UserError(text)
    assert cases.ask(refuse, 'x is damaged: fetch it again.') == (None, 'x is damaged: fetch it again.')
    with pytest.raises(cases.Shown): cases.ask(refuse, 'no')
    with pytest.raises(cases.Shown): cases.ask(refuse, "'list' object has no attribute 'get': try again")
    with pytest.raises(cases.Silent): cases.expect_sentence(str, 3)
    with pytest.raises(KeyError): cases.ask({}.__getitem__, 'x')


def test_a_case_is_the_same_for_the_same_seed(attacks, tmp_path):
    make, mutate = attacks['cases'].make_case, attacks['mutants'].mutate
    data = bytes(range(200))
    def get(seed, number): return mutate(make('x', seed, number, tmp_path, {}, print).rng, data)
    assert get(0, 5) == get(0, 5) and get(0, 5) != get(0, 6) and get(0, 5) != get(1, 5)
    for mutant in attacks['mutants'].MUTANTS:
        rng = make('x', 0, 1, tmp_path, {}, print).rng
        assert isinstance(mutant(rng, data), bytes)


ENDS = {'import os; os._exit(7)': 'code 7', 'import time; time.sleep(600)': 'hung'}

@pytest.mark.parametrize('code', ENDS)
def test_a_process_that_dies_or_hangs_is_a_failure(attacks, code, monkeypatch):
    workers = attacks['workers']
    first = dict(number=0, name='a', tried=1, outcome='survived', reason='', seconds=0)
    lines = [dict(ready=True), first, dict(number=1, name='b')]
    says = f"import json, sys\nfor o in {lines!r}: print(json.dumps(o), flush=True)\n{code}"
    starts = []
    def start(group, seed, first, *_):
        starts.append(first)
        given = says if first == 0 else "print('{\"ready\": true}\\n{\"end\": true}')"
        return subprocess.Popen([sys.executable, '-c', given], stdout=subprocess.PIPE, start_new_session=True)
    monkeypatch.setattr(workers, 'start', start)
    monkeypatch.setattr(workers, 'load_limit', lambda group: -18)
    rows = workers.run_group('x', 0, 0, 9, 60, report=lambda row: None)
    assert [(row['name'], row['outcome']) for row in rows] == [('a', 'survived'), ('b', 'traceback')]
    assert ENDS[code] in rows[1]['reason'] and starts == [0, 2]


def attack(tmp_path, *args):
    "Exit code and output of the script, with a place of its own"
    env = {**os.environ, 'IMGCLF_RUNS': str(tmp_path), 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, SCRIPT, *map(str, args)], capture_output=True, text=True,
        timeout=400, env=env)
    return done.returncode, done.stdout + done.stderr


def test_damaged_archives_lose_nothing(tmp_path):
    rc, out = attack(tmp_path, '--group', 'archives', '--n', 12, '--quick')
    assert rc == 0, out
    assert re.search(r'archives +12 +12 +0 +0 +0', out), out
    assert (tmp_path/'bench-quick'/'attack.csv').exists()


def test_wrong_readers_are_reported(tmp_path):
    rc, out = attack(tmp_path, '--group', 'archives', '--self-test', '--n', 9)
    assert rc == 0 and out.count('was reported') == 3, out
