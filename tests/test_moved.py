"Images gone or moved after training: one sentence with the way out, or the evaluation at the new place"
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclf_nb import commands
from imgclf_nb.base.runs import Run, get_run
from imgclf_nb.core import UserError, write_csv
from imgclf_nb.data import get_items
from imgclf_nb.datasets.cards import get_card
from imgclf_nb.datasets.choices import get_decisions_path
from imgclf_nb.datasets.records import decide, log_opening, read_ledger
from imgclf_nb.images.preprocessing import Preprocessing
from imgclf_nb.results.artifacts import describe_data, get_split_hash, read_predictions, tabulate
from imgclf_nb.results.leaderboard import get_leaderboard
from imgclf_nb.results.manifest import open_run_set, place_predictions
from imgclf_nb.splitting import get_hash_splits, get_splits
from imgclf_nb.training.run_items import get_run_items

pytestmark = pytest.mark.xdist_group('moved')  # one worker makes what they share

def draw(folder, name, seed):
    "One image of random colours"
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder/name)


def make_run(folder, dataset):
    "A finished run of 04, as far as its images are concerned: without a network"
    parameters = dict(dataset=str(dataset), valid=.2, test=.2, split_seed=0, run=str(folder))
    run = get_run('04_train', parameters)
    items = get_splits(get_items(str(dataset)))
    classes = describe_data(run, items, get_card(str(dataset)))
    valid = items[items.split == 'valid']
    probs = np.random.default_rng(0).dirichlet([1, 1], len(valid))
    write_csv(folder/'predictions.csv', tabulate(probs, valid, Preprocessing(classes=classes)))
    run.finish(metrics=dict(valid=dict(accuracy=dict(value=.5, low=.4, high=.6))), arch='small_cnn')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Two classes of 15 images each, with one decision, as a folder and as a CSV, and a run of each"
    home = tmp_path_factory.mktemp('made')
    with pytest.MonkeyPatch.context() as patch:
        for name in ('RECORDS', 'RUNS'): patch.setenv(f'IMGCLF_{name}', str(home/name))
        lines = ['path,label']
        for k,label in enumerate(('crow', 'duck')):
            for i in range(15):
                draw(home/'birds'/label, f'{i:02}.png', 100*k + i)
                lines.append(f'{label}/{i:02}.png,{label}')
        (home/'birds'/'birds.csv').write_text('\n'.join(lines))
        shutil.copytree(home/'birds', home/'tables')
        (home/'birds'/'birds.csv').unlink()
        decide(str(home/'birds'), 'crow/00.png', 'relabel', 'duck')
        for run,dataset in (('folder', 'birds'), ('table', 'tables/birds.csv')):
            make_run(home/'RUNS'/run, home/dataset)
    return home


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    "A copy of the runs, and the images at the place of the training; what a test moves comes back"
    kept = tmp_path/'kept'
    shutil.copytree(made, kept, copy_function=shutil.copy2)
    for name in ('RECORDS', 'RUNS'): monkeypatch.setenv(f'IMGCLF_{name}', str(made/name))
    yield made
    shutil.rmtree(made)
    shutil.copytree(kept, made, copy_function=shutil.copy2)


def open_items(home, run='folder', place=''):
    "The images of a run, with its split"
    run = Run(home/'RUNS'/run)
    return get_run_items(run, open_run_set(run, str(place)))[1]


def get_split(items): return dict(zip(items.file, items.split))


GONE = r'The images of run folder are not here\. There is no data set, folder or CSV .*birds.*--dataset PLACE'
THERE = 'does not hold the images of run folder: of its 30 images, '
CHANGES = dict(
    folder_gone=(lambda d: shutil.rmtree(d), GONE),
    folder_moved=(lambda d: d.rename(d.with_name('ducks')), GONE),
    image_missing=(lambda d: (d/'crow'/'05.png').unlink(), THERE + '1 is not there; the first: crow/05.png'),
    image_changed=(lambda d: draw(d/'crow', '05.png', 999), THERE + '1 is there with another content; the first: crow/05'),
    image_broken=(lambda d: (d/'crow'/'05.png').write_bytes(b'PNG'), THERE + '1 is no longer readable; the first: crow/05'),
    class_renamed=(lambda d: (d/'crow').rename(d/'raven'),
        THERE + r'15 are not there; the first: crow/00.png \(its content is at raven/00.png\)'),
    image_in_another_class=(lambda d: (d/'crow'/'05.png').rename(d/'duck'/'x.png'),
        r'1 is not there; the first: crow/05.png \(its content is at duck/x.png\)'))


@pytest.mark.parametrize('change', CHANGES)
def test_what_happened_is_said(home, change):
    happen, says = CHANGES[change]
    happen(home/'birds')
    with pytest.raises(UserError, match=says): open_items(home)


def test_a_table_that_is_gone_or_says_something_else(home):
    table = home/'tables'/'birds.csv'
    text = table.read_text()
    before = get_split(open_items(home, 'table'))
    table.write_text(text.replace('crow/05.png,crow', 'crow/05.png,duck'))
    with pytest.raises(UserError, match='1 is there under another label; the first: crow/05.png'):
        open_items(home, 'table')
    table.unlink()
    with pytest.raises(UserError, match='The images of run table are not here.*birds.csv'):
        open_items(home, 'table')
    (home/'tables').rename(home/'elsewhere')
    (home/'elsewhere'/'new.csv').write_text(text)
    assert get_split(open_items(home, 'table', home/'elsewhere'/'new.csv')) == before


def test_new_images_are_left_out(home, capsys):
    before = get_split(open_items(home))
    for i in range(3): draw(home/'birds'/'duck', f'new{i}.png', 500 + i)
    assert get_split(open_items(home)) == before
    assert '3 images are new since the training of folder: they are left out.' in capsys.readouterr().out


def test_decisions_of_the_training_count(home):
    before = open_items(home)
    assert before.set_index('file').label['crow/00.png'] == 'duck'
    decide(str(home/'birds'), 'crow/01.png', 'drop')
    decide(str(home/'birds'), 'crow/00.png', 'forget')
    assert get_split(open_items(home)) == get_split(before)
    (home/'birds').rename(home/'moved')
    after = open_items(home, place=home/'moved')
    assert after.label.tolist() == before.label.tolist()
    assert not get_decisions_path(str(home/'moved')).exists()


def test_a_moved_set_is_told_where_its_decisions_are(home, capsys):
    file = get_decisions_path(str(home/'birds'))
    (home/'birds').rename(home/'moved')
    get_items(str(home/'moved'))
    said = capsys.readouterr().out
    assert f'{file} holds decisions' in said and str(get_decisions_path(str(home/'moved'))) in said
    shutil.copytree(home/'moved', home/'birds')
    get_items(str(home/'moved'))
    assert 'holds decisions' not in capsys.readouterr().out


def test_lost_decisions_are_named(home):
    (home/'RUNS'/'folder'/'decisions.csv').unlink()
    decide(str(home/'birds'), 'crow/00.png', 'forget')
    with pytest.raises(UserError, match='was trained with decisions that are no longer in'): open_items(home)


def test_a_place_that_holds_others_is_refused(home):
    for i in range(4):
        for label in ('crow', 'duck'): draw(home/'other'/label, f'{i:02}.png', 700 + i + len(label))
    with pytest.raises(UserError, match='of its 30 images, 22 are not there; .* 8 are there with another content'):
        open_items(home, place=home/'other')
    with pytest.raises(UserError, match='There is no data set, folder or CSV .*nowhere'):
        open_items(home, place=home/'nowhere')
    assert 'place' not in Run(home/'RUNS'/'folder').record


def test_a_run_without_a_manifest(home):
    "Runs of earlier versions: the same data are accepted at any place, others refused"
    run = Run(home/'RUNS'/'folder')
    (run.path/'manifest.csv').unlink()
    run.update(split_hash=get_split_hash(get_hash_splits(get_items(str(home/'birds')))))
    before = get_split(open_items(home))
    (home/'birds').rename(home/'moved')
    assert get_split(open_items(home, place=home/'moved')) == before
    (home/'moved'/'crow'/'05.png').unlink()
    with pytest.raises(UserError, match='have changed since run folder was trained'): open_items(home)


def make_foreign(run, root, sign='/'):
    "Let a run look as if it was made on another machine, with the images at `root`"
    record = run.record
    old = record['dataset']
    table = read_predictions(run)
    table['path'] = [path.replace(old, root).replace('/', sign) for path in table.path]
    table.to_csv(run.path/'predictions.csv', index=False)
    run.update(dataset=root.replace('/', sign), parameters=dict(dataset=root.replace('/', sign)))


@pytest.mark.parametrize('root, sign', [('/home/bob/birds', '/'), ('C:/Users/bob/birds', '\\')])
def test_predictions_of_another_machine_find_their_images(home, root, sign):
    run = Run(home/'RUNS'/'folder')
    own = read_predictions(run).path.tolist()
    make_foreign(run, root, sign)
    items = open_items(home, place=home/'birds')
    assert place_predictions(read_predictions(run), items, run).path.tolist() == own


def test_the_ledger_of_a_moved_set_goes_on(home):
    items = open_items(home)
    test = items[items.split == 'test']
    assert len(log_opening(str(home/'birds'), 'folder', test)) == 1
    (home/'birds').rename(home/'moved')
    assert read_ledger(str(home/'moved')).empty
    assert len(log_opening(str(home/'moved'), 'folder', test)) == 2


def test_an_unfinished_run_is_resumed_at_the_new_place(home):
    run = Run(home/'RUNS'/'folder')
    run.update(status='running')
    (home/'birds').rename(home/'moved')
    parameters = {**run.record['parameters'], 'dataset': str(home/'moved')}
    again = get_run('04_train', parameters)
    assert again.again and again.record['dataset'] == str(home/'moved')
    again.close()
    elsewhere = {**parameters, 'dataset': 'pc_parts_mini'}
    with pytest.raises(UserError, match='dataset was'): get_run('04_train', elsewhere)


def test_the_command_names_the_way_out(home, monkeypatch, capsys):
    make_foreign(Run(home/'RUNS'/'folder'), '/home/bob/birds')
    monkeypatch.setattr(sys, 'argv', ['imgclf_evaluate', 'folder'])
    with pytest.raises(SystemExit) as stopped: commands.imgclf_evaluate()
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and 'The images of run folder are not here' in said
    assert 'imgclf_evaluate folder --dataset PLACE' in said


def test_the_command_names_the_place_for_each_chapter(home, monkeypatch):
    given = {}
    def note(chapter, run, quiet, **parameters): given[chapter] = parameters
    monkeypatch.setattr(commands, 'run_notebook', note)
    monkeypatch.chdir(home)
    commands.evaluate_run('folder', dataset='birds', draws=100)
    place = dict(dataset=str(home/'birds'))
    assert given == {commands.CHAPTERS[0]: dict(place, draws=100), **dict.fromkeys(commands.CHAPTERS[1:], place)}
    with pytest.raises(UserError, match='no data set, folder or CSV .*nowhere'):
        commands.evaluate_run('folder', dataset='nowhere')


def test_the_leaderboard_needs_no_images(home):
    before = get_leaderboard(home/'RUNS')
    (home/'birds').rename(home/'moved')
    assert len(get_leaderboard(home/'RUNS')) == len(before) > 0
