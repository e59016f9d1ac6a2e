"Rows that benchmarks and finished runs write into benchmarks/results/"
import json, shutil

import pandas as pd
import pytest

from conftest import ROOT
from imgclf_nb.base.machine import get_commit
from imgclf_nb.core import UserError
from imgclf_nb.results.measured import read_measured


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "The results in a folder of their own"
    shutil.copytree(ROOT/'benchmarks'/'results', tmp_path/'results')
    monkeypatch.syspath_prepend(ROOT/'benchmarks')
    monkeypatch.setattr('sys.argv', [str(ROOT/'benchmarks'/'loaders.py'), '--rounds', '5', '--keep', str(tmp_path/'here')])
    return tmp_path/'results'


def bench_row(what, against, rounds=3, **more):
    "A row as benchmarks/common.py makes it"
    return dict(what=what, against=against, ratio=2., low=1.9, high=2.2, rounds=rounds, images=256, images_per_second=900., **more)


MODELS = {'resnet18_128': ('resnet18', 128, 1.7)}
ROWS = {
    'loaders': bench_row('loader_224_pc_parts', 'fastai'),
    'first_pass': bench_row('loader_first_224_pc_parts', 'timm'),
    'steps': bench_row('train_resnet18_128', 'fastai'),
    'end_to_end': bench_row('end_to_end_resnet18_128', 'fastai', rounds=1),
    'whole_way': bench_row('probe_pc_parts', 'fastai', seconds=30., their_seconds=500., accuracy_difference=.065),
    'fast_path': bench_row('fast_path_pc_parts', 'plain', accuracy_difference=.01, accuracy_differences=[0., .02]),
    'others': bench_row('kernel_04_train', 'plain', seconds=3.)}


@pytest.mark.skipif(get_commit() is None, reason='a row needs the commit of a git clone')
def test_each_row_of_a_benchmark_has_its_file(folder):
    from kept import keep_results
    before = {file: len(read_measured(file, folder).rows) for file in ROWS}
    assert keep_results(list(ROWS.values()), MODELS, folder) == list(ROWS)
    for file in ROWS:
        rows = read_measured(file, folder).rows[before[file]:]  # a machine of its own: nothing is replaced
        assert len(rows) == (3 if file == 'fast_path' else 1), file
        assert rows[0]['command'] == 'python benchmarks/loaders.py --rounds 5 here'
    kept = read_measured('loaders', folder).rows[-1]
    assert kept['ratio'] == dict(value=2., low=1.9, high=2.2) and kept['title'] == 'PC parts'
    assert read_measured('end_to_end', folder).rows[-1]['ratio'] == 2.  # one round has no range
    assert [row['accuracy_points'] for row in read_measured('fast_path', folder).rows[-3:]] == [0., 2., 1.]


def test_a_row_has_a_command_that_can_be_typed(folder):
    from kept import get_command
    words = get_command(['/a/options.py', '--only', 'joint teacher, no mixup', '--keep', '/data/images'])
    assert words == "python benchmarks/options.py --only 'joint teacher, no mixup' images"


def value(x): return dict(value=x, low=x - .1, high=x + .05)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    "Finished runs of a set, as far as rows are read from them"
    record = dict(dataset='pc_parts', status='done', started='2026-11-26T01:00:00+00:00', git_commit='0fb65b4e42dbf564',
        environment=dict(platform='another', device='cpu, 2 cores'), classes=['a', 'b'], split_sizes=dict(train=6, valid=2, test=4),
        cost=dict(train_seconds=12.34), label_ceiling=.975, parameters=dict(seed=0), test_opened=1, temperature=1.,
        blend=[dict(share=0., valid_loss=.9, accuracy=.73), dict(share=.5, valid_loss=.7, accuracy=.77), dict(share=1., valid_loss=None, accuracy=.1)],
        metrics=dict(test=dict(accuracy=value(.8), ece=value(.2), majority_rate=value(.5))))
    leakage = dict(naive=value(.9), clean=value(.88), leakage=value(.02), twins=.5)
    table = pd.DataFrame(dict(path=list('wxyz'), label='a', split='test', predicted='a', p_a=.9, p_b=.1, group=['g', 'g', 'h', 'i']))
    for name, notebook, more in (('pc_parts', '04_train', {}), ('pc_parts-baseline', '03_baseline', {}), ('x', '01d_leakage', dict(leakage=leakage))):
        (tmp_path/'runs'/name).mkdir(parents=True)
        (tmp_path/'runs'/name/'run.json').write_text(json.dumps(record | dict(run=name, notebook=notebook, **more)))
        table.to_csv(tmp_path/'runs'/name/'predictions.csv', index=False)
    audit = tmp_path/'records'/'pc_parts'/'audit'
    audit.mkdir(parents=True)
    (audit/'audit.json').write_text(json.dumps(dict(pictures=12, seconds=3.2, label_ceiling=.975, findings=dict(blurred=7))))
    monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path/'records'))
    return tmp_path/'runs'


def test_finished_runs_become_the_rows_of_a_set(folder, runs, capsys):
    from imgclf_nb.results.measured import keep_measured
    from projects import collect
    rows = collect('pc_parts', runs)
    for table, row in rows.items(): assert row in keep_measured(table, [row], folder).rows
    assert list(rows) == ['sets', 'evaluation', 'audits', 'leakage']
    assert (rows['sets']['frozen_valid'], rows['sets']['kept_valid'], rows['sets']['train_seconds']) == (.73, .77, 12.3)
    assert rows['sets']['command'].startswith('make train DATASET=pc_parts') and rows['sets']['images'] == 12
    assert rows['evaluation']['units'] == 3 and rows['audits']['findings'] == dict(blurred=7)
    assert rows['leakage']['leakage_points']['value'] == 2. and rows['leakage']['shift_points'] is None
    assert rows['sets']['commit'] == '0fb65b4' and rows['sets']['machine'] == 'cpu, 2 cores (another)'
    busy = collect('pc_parts', runs, busy=True)
    assert busy['sets']['train_seconds'] is None and 'other work' in busy['sets']['note']
    shutil.rmtree(runs/'pc_parts')
    assert list(collect('pc_parts', runs)) == ['audits', 'leakage'] and 'no finished run pc_parts' in capsys.readouterr().out


def test_quick_results_are_never_kept(folder):
    from common import get_parser
    with pytest.raises(SystemExit): get_parser('').parse_args(['--quick', '--keep'])


def test_a_set_that_does_not_exist_is_refused(folder):
    from projects import find_run
    with pytest.raises(UserError, match='no finished run birds'): find_run(folder, 'birds')
