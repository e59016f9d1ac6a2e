"Runs held against each other by the commands, and studies that are killed in the middle"
import json, os, shutil, signal, sys, threading, time
from pathlib import Path

import numpy as np, pandas as pd
import pytest

from conftest import command, start_script
from imgclf_nb.base.kernels import KernelServer, can_fork
from test_weights import hub, weights

read = lambda p: json.loads((p/'run.json').read_text())
EXE = Path(sys.executable).parent


def make(home, name, skill, seed=0, n=200, groups=True, **more):
    "A finished run whose model is right so often, made by hand as the contract of the run folder says"
    rng, d = np.random.default_rng([seed, int(1000*skill)]), home/name
    d.mkdir(parents=True)
    label, p = np.where(np.random.default_rng(0).random(n) < .5, 'yes', 'no'), rng.uniform(.5, 1, n)
    yes = np.where((label == 'yes') == (rng.random(n) < skill), p, 1-p)
    t = pd.DataFrame(dict(path=[f'/nowhere/{i}.png' for i in range(n)], label=label, split='valid', predicted=np.where(yes > .5, 'yes', 'no'), probability=p, p_no=1-yes, p_yes=yes))
    if groups: t['group'] = [f'patient{i//4}' for i in range(n)]
    pd.concat([t, t.assign(split='test', path=t.path.str.replace('.png', '_t.png'))]).to_csv(d/'predictions.csv', index=False)
    pd.DataFrame(dict(epoch=[1], train_loss=[1.], valid_loss=[1.], accuracy=[skill], seconds=[1.])).to_csv(d/'history.csv', index=False)
    record = dict(run=name, notebook='04_train', dataset='somewhere', arch='resnet18', status='done', error=None, seed=seed, split_seed=0, data_hash='1', split_hash='1', classes=['no', 'yes'],
        positive_class='yes', parameters=dict(dataset='somewhere', arch='resnet18', weights='auto', policy='medium', size=224, epochs=1, seed=seed, skill=skill), split_sizes=dict(train=9, valid=n, test=n),
        metrics={}, test_opened=1, cost=dict(train_seconds=1., images_per_second=1., parameters=10, macs=100*skill, peak_memory_mb=1.))
    (d/'run.json').write_text(json.dumps(record | more))
    return d


def compare(*args): return command('imgclf_compare', *args)


def test_the_command_says_it_and_writes_it(tmp_path):
    good, poor = make(tmp_path, 'good', .95), make(tmp_path, 'poor', .7)
    rc, out = compare(good, poor, '--json', tmp_path/'c.json')
    assert rc == 0 and 'good is better than poor' in out and 'One seed per setting' in out
    d = json.loads((tmp_path/'c.json').read_text())
    assert set('metric split a b difference low high p test n groups smallest_detectable verdict'.split()) <= set(d)
    a, b = [pd.read_csv(o/'predictions.csv').query("split == 'valid'") for o in (good, poor)]
    assert d['difference'] == pytest.approx((a.label == a.predicted).mean() - (b.label == b.predicted).mean())
    assert d['low'] < d['difference'] < d['high'] and d['verdict'] == 'better' and (d['n'], d['groups']) == (200, 50)
    rc, out = compare(poor, good, '--metric', 'log_loss', '--json', tmp_path/'c.json')
    assert rc == 0 and json.loads((tmp_path/'c.json').read_text())['verdict'] == 'worse'
    rc, out = compare(good, good)
    assert rc == 0 and 'No difference found' in out


def test_seeds_are_paired_and_several_are_corrected(tmp_path):
    for s in range(4): make(tmp_path, f'good-s{s}', .9, s); make(tmp_path, f'poor-s{s}', .75, s)
    rc, out = compare(f'{tmp_path}/good-*', f'{tmp_path}/poor-*', f'{tmp_path}/good-*', '--json', tmp_path/'c.json')
    rows = json.loads((tmp_path/'c.json').read_text())
    assert rc == 0 and [r['verdict'] for r in rows] == ['better', 'no difference found'] and rows[0]['seeds'] == 4 and 'Holm' in out
    shutil.rmtree(tmp_path/'poor-s3')
    rc, out = compare(f'{tmp_path}/good-*', f'{tmp_path}/poor-*')
    assert rc == 0 and 'Without a partner of the same seed: good-s3' in out and '3 seeds' in out


@pytest.mark.parametrize('change, says', [(dict(data_hash='2'), 'different data'), (dict(split_hash='2'), 'different splits'), (dict(dataset='elsewhere', data_hash='2'), 'different data sets'),
    (dict(classes=['no', 'maybe']), 'no column p_maybe'), (dict(classes=['yes', 'no']), 'different classes'), (dict(parameters={}), 'no parameters'), (dict(status='running'), 'its status is running, not done'), (dict(status='failed', error=dict(parameter=None, message='no space left')), 'no space left')])
def test_what_cannot_be_compared_is_said(change, says, tmp_path):
    good, other = make(tmp_path, 'good', .9), make(tmp_path, 'other', .8, **change)
    rc, out = compare(good, other)
    assert rc == 1 and says in out and 'Traceback' not in out


def test_broken_folders_are_said(tmp_path):
    good, other = make(tmp_path, 'good', .9), make(tmp_path, 'other', .8)
    (other/'predictions.csv').unlink()
    rc, out = compare(good, other)
    assert rc == 1 and 'predictions.csv is missing' in out
    (other/'predictions.csv').write_text('')
    rc, out = compare(good, other)
    assert rc == 1 and 'predictions.csv cannot be read' in out and 'Traceback' not in out
    (other/'run.json').write_text('{"half')
    for args in ((good, other), (good, tmp_path/'none'), (good,), (good, 'none-*')):
        rc, out = compare(*args)
        assert rc == 1 and 'Traceback' not in out and out.strip()
    rc, out = command('imgclf_leaderboard', tmp_path)  # the others stand
    assert rc == 0 and 'good' in out and 'Left out: other' in out and 'is damaged' in out


def test_a_mixture_is_no_side(tmp_path):
    "Runs of one side differ in seed and fold alone; the same seed twice is said"
    for s, policy in ((0, 'none'), (1, 'strong')): make(tmp_path, f'x-{policy}', .9, s, parameters=dict(arch='resnet18', policy=policy, seed=s)); make(tmp_path, f'y-s{s}', .8, s)
    rc, out = compare(f'{tmp_path}/x-*', f'{tmp_path}/y-*')
    assert rc == 1 and 'differ in policy (none and strong)' in out and 'Traceback' not in out
    make(tmp_path, 'y-s0-again', .8, 0, started='2026-01-02T00:00:00')
    rc, out = compare(f'{tmp_path}/y-*', tmp_path/'x-none')
    assert rc == 0 and 'trained more than once: the newest run counts (y-s0-again), left out: y-s0' in out


def test_an_evaluation_is_no_better_model(tmp_path):
    "predictions.csv at a fitted temperature against the same model without an evaluation"
    plain, cold = make(tmp_path, 'plain', .9), make(tmp_path, 'cold', .9)
    t = pd.read_csv(cold/'predictions.csv')
    z = t[['p_no', 'p_yes']].to_numpy()**.5
    t[['p_no', 'p_yes']] = z/z.sum(1, keepdims=True)
    t.assign(temperature=2.).to_csv(cold/'predictions.csv', index=False)
    rc, out = compare(plain, cold, '--metric', 'log_loss', '--json', tmp_path/'c.json')
    d = json.loads((tmp_path/'c.json').read_text())
    assert rc == 0 and abs(d['difference']) < 1e-9 and 'at temperature 1' in out and '80 % power' not in out


def test_one_bad_folder_does_not_stop_the_leaderboard(tmp_path):
    make(tmp_path, 'good', .9)
    t = pd.read_csv(make(tmp_path, 'odd', .8, seed=1)/'predictions.csv')
    t.assign(predicted='maybe').to_csv(tmp_path/'odd'/'predictions.csv', index=False)
    for i,k in enumerate(('cost', 'notebook', 'split_sizes')):
        r = read(make(tmp_path, f'no-{k}', .7, seed=2+i))
        (tmp_path/f'no-{k}'/'run.json').write_text(json.dumps({o: v for o,v in r.items() if o != k}))
    for metric in ('accuracy', 'macro_f1'):
        rc, out = command('imgclf_leaderboard', tmp_path, '--metric', metric)
        assert rc == 0 and 'good' in out and "holds 'maybe', which is none of its classes" in out and 'Traceback' not in out
        assert all(f'no-{k}: its run.json has no {k}' in out for k in ('cost', 'notebook', 'split_sizes'))


def test_the_test_is_counted(tmp_path):
    good, poor = make(tmp_path, 'good', .95), make(tmp_path, 'poor', .7)
    rc, out = compare(good, poor, '--split', 'test')
    assert rc == 0 and 'test images' in out and [read(o)['test_opened'] for o in (good, poor)] == [2, 2]


def test_probabilities_that_are_no_numbers(tmp_path):
    good, other = make(tmp_path, 'good', .9), make(tmp_path, 'other', .8)
    t = pd.read_csv(other/'predictions.csv')
    t.loc[3, 'p_yes'] = np.nan
    t.to_csv(other/'predictions.csv', index=False)
    rc, out = compare(good, other)
    assert rc == 1 and 'not finite numbers' in out and 'Traceback' not in out
    third = make(tmp_path, 'third', .7)  # and the others stand
    rc, out = compare(good, other, third)
    assert rc == 0 and 'good is better than third' in out and 'Left out' in out


def test_unknown_groups_are_said(tmp_path):
    rc, out = compare(make(tmp_path, 'good', .9, groups=False), make(tmp_path, 'poor', .7, groups=False))
    assert rc == 0 and 'each image counts as its own group' in out


def test_the_set_has_moved(tmp_path):
    good, poor = make(tmp_path, 'good', .95), make(tmp_path, 'poor', .7)
    t = pd.read_csv(poor/'predictions.csv')
    t.assign(path=t.path.str.replace('/nowhere', '/another/place')).to_csv(poor/'predictions.csv', index=False)
    rc, out = compare(good, poor)
    assert rc == 0 and 'good is better than poor' in out


def test_07_accepts_the_old_names_of_its_parameters(tmp_path):
    "`-p a` and `-p b` do what `-p run_a` and `-p run_b` do, and the new names are printed"
    good, poor = make(tmp_path, 'good', .95), make(tmp_path, 'poor', .7)
    chapter, out = 'nbs/07_comparison.ipynb', tmp_path/'out.ipynb'
    rc, said = command('papermill', chapter, out, '-p', 'a', good, '-p', 'b', poor, '-p', 'draws', '200', IMGCLF_RUNS=str(tmp_path))
    assert rc == 0, said[-3000:]
    assert 'now called run_a and run_b' in out.read_text() and 'good is better than poor' in out.read_text()
    rc, said = command('papermill', chapter, out, '-p', 'run_a', good, IMGCLF_RUNS=str(tmp_path))
    assert rc == 1 and 'Give both run_a and run_b' in said


def test_leaderboard_never_mixes(tmp_path):
    for s in range(2): make(tmp_path, f'good-s{s}', .9, s); make(tmp_path, f'poor-s{s}', .75, s)
    make(tmp_path, 'elsewhere', .99, data_hash='2')
    r = read(make(tmp_path, 'scratch', .8))
    (tmp_path/'scratch'/'run.json').write_text(json.dumps(r | dict(parameters=r['parameters'] | dict(weights='none'))))
    rc, out = command('imgclf_leaderboard', tmp_path, '--out', tmp_path/'board')
    t = pd.read_csv(tmp_path/'board'/'leaderboard.csv')
    assert rc == 0 and len(t) == 4 and (t.groupby(['data_hash', 'pretrained'])['rank'].min() == 1).all()
    assert t[(t.data_hash == 1) & t.pretrained].sort_values('rank').seeds.tolist() == [2, 2] and t.set_index('name').spread['good-*'] > 0
    assert t[t.data_hash == 1].apart.str.contains('others are trained from scratch').all()
    assert 'ranked in several lists' in out and 'trained from scratch' in out and len(list((tmp_path/'board').glob('*.png'))) == 2


STUDY = '-p dataset instruments_mini -p arch tutorial_cnn -p epochs 2 -p seeds 2 -p run study'.split()


@pytest.mark.xdist_group('studies')  # long ones begin early
def test_a_killed_study_loses_no_finished_run(tmp_path):
    "kill -9 after the first run; the same command repeats none, and answers"
    (tmp_path/'study').mkdir()
    env = {**os.environ, 'IMGCLF_RUNS': str(tmp_path)}
    args = [EXE/'papermill', '--log-output', 'nbs/07a_augmentation_study.ipynb', tmp_path/'study'/'out.ipynb', *STUDY]
    p = start_script(args, env)
    late = threading.Timer(900, lambda: os.killpg(p.pid, signal.SIGKILL))  # for a machine that hangs, not for a slow one
    late.start()
    try: assert any('1 of 4 runs done' in line for line in p.stdout), 'the first run never ended'
    finally: late.cancel()
    time.sleep(3)  # somewhere in the second
    os.killpg(p.pid, signal.SIGKILL); p.wait()
    before = {o.parent.name: read(o.parent) for o in tmp_path.glob('*-s*/run.json')}
    done = {k for k,r in before.items() if r['status'] == 'done'}
    assert done
    rc, out = command('papermill', 'nbs/07a_augmentation_study.ipynb', tmp_path/'study'/'out.ipynb', *STUDY, IMGCLF_RUNS=str(tmp_path))
    assert rc == 0, out[-3000:]
    after = {o.parent.name: read(o.parent) for o in tmp_path.glob('*-s*/run.json')}
    assert all(after[k]['started'] == before[k]['started'] and not after[k]['resumed'] for k in done)
    assert len(after) == 4 and all(r['status'] == 'done' for r in after.values())
    r = read(tmp_path/'study')
    assert r['status'] == 'done' and r['complete'] and len(r['comparisons']) == 1 and r['comparisons'][0]['seeds'] == 2
    rc, out = command('imgclf_leaderboard', tmp_path)
    assert rc == 0 and out.count('tutorial_cnn') == 4, out  # name and arch of two rows


@pytest.mark.xdist_group('studies')  # long ones begin early
def test_models_from_a_hub_and_one_without_weights(weights, tmp_path, monkeypatch):
    "07b with pretrained weights from a server of our own; a model that the server does not have is left out with the reason"
    (tmp_path/'study').mkdir()
    for name in os.environ:
        if name.lower() in ('http_proxy', 'https_proxy', 'all_proxy'): monkeypatch.setenv(name, '')
    with hub(weights[0]) as (endpoint, asked):
        own = dict(HF_HOME=tmp_path/'hf', HF_ENDPOINT=endpoint, HF_HUB_OFFLINE=0, HF_HUB_DISABLE_XET=1)
        for name,value in own.items(): monkeypatch.setenv(name, str(value))
        # libraries read these while they load: the kernels need a server of their own
        if can_fork(): monkeypatch.setenv('IMGCLF_KERNELS', KernelServer().wait().path)
        rc, out = command('papermill', 'nbs/07b_model_study.ipynb', tmp_path/'study'/'out.ipynb',
            '-y', 'archs: [test_resnet, resnet18]', '-y', 'scratch: [tutorial_cnn]',
            '-p', 'run', 'study', '-p', 'size', '32', IMGCLF_RUNS=str(tmp_path))
    assert rc == 0 and asked, out[-3000:]
    r = read(tmp_path/'study')
    assert [(m['arch'], m['pretrained']) for m in r['models']] == [('test_resnet', True), ('tutorial_cnn', False)]
    assert [o['arch'] for o in r['left_out']] == ['resnet18'] and r['advice']['pretrained']['most_accurate'] == 'test_resnet'
    for m in r['models']: assert m['macs'] > 0 and m['parameters'] > 0 and m['many'] > 0 and m['one'] > 0


@pytest.mark.xdist_group('studies')  # long ones begin early
def test_options_of_04_together(tmp_path):
    "Smaller images first, pasted images, smoothing, clipping, a fold and a part of the images"
    (tmp_path/'r').mkdir()
    rc, out = command('papermill', 'nbs/04_train.ipynb', tmp_path/'r'/'out.ipynb', *'-p dataset chest_xray_mini -p size 64 -p epochs 2 -p progressive True -p cutmix 1.0 -p label_smoothing 0.1 -p clip 1.0'.split(),
        *'-p folds 3 -p fold 1 -p pictures 40 -p run'.split(), tmp_path/'r')
    assert rc == 0, out[-3000:]
    r = read(tmp_path/'r')
    assert r['status'] == 'done' and 30 <= r['pictures'] <= 45 and r['split_sizes']['train'] > 80
    rc, out = command('papermill', 'nbs/05_evaluation.ipynb', tmp_path/'r'/'e.ipynb', '-p', 'run', tmp_path/'r')
    assert rc == 0 and read(tmp_path/'r')['test_opened'] == 1, out[-2000:]


def test_what_a_new_class_costs(tmp_path):
    old = make(tmp_path, 'old', .9)
    new = make(tmp_path, 'new', .9, classes=['no', 'perhaps', 'yes'], data_hash='2', split_hash='2')
    t = pd.read_csv(new/'predictions.csv').assign(p_perhaps=0.)
    more = t[:40].assign(path=[f'/nowhere/new{i}.png' for i in range(40)], label='perhaps', predicted=['perhaps']*30 + ['no']*10)
    pd.concat([t[:150], t[150:200].assign(split='train'), t[200:], more.assign(group='')]).to_csv(new/'predictions.csv', index=False)
    rc, out = compare(old, new, '--json', tmp_path/'c.json')
    assert rc == 0 and 'No change of the accuracy on the old classes is shown' in out and 'new class perhaps' in out
    d = json.loads((tmp_path/'c.json').read_text())
    assert d['old classes']['images'] == 150 and d['new class perhaps']['new']['value'] == .75  # not the 50 that one was trained on
    assert compare(new, old)[1] == out  # which one is older is seen by the classes
    t.assign(path='/moved' + t.path).to_csv(new/'predictions.csv', index=False)
    rc, out = compare(old, new)
    assert rc == 1 and 'have no valid image in common' in out
