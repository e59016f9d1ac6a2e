"An old image keeps its split, whatever arrives; the first split is as balanced as its units allow; old runs keep the old rule"
import hashlib
import multiprocessing
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgclf_nb.base.runs import Run
from imgclf_nb.core import UserError, write_csv, write_json
from imgclf_nb.data import get_items
from imgclf_nb.datasets import records
from imgclf_nb.datasets.assignments import get_assignments, get_assignments_path, read_assignments
from imgclf_nb.datasets.cards import get_card
from imgclf_nb.datasets.units import complete_items, get_unit_names
from imgclf_nb.results.artifacts import describe_data, get_split_hash
from imgclf_nb.results import studies
from imgclf_nb.results.manifest import open_run_set
from imgclf_nb.results.paired_predictions import check_one_setting
from imgclf_nb.results.studies import Study, name_run, run_study
from imgclf_nb.splitting import assign_splits, get_folds, get_hash_folds, get_hash_splits, get_split_table, get_splits
from imgclf_nb.training.run_items import get_run_items
from imgclf_nb.training.split_memory import get_fold_rule, preview_splits, remember_splits, take_splits
from imgclf_nb.training.subsets import take_fold, take_images

few = settings(max_examples=12, deadline=None, derandomize=True)
GIVEN = dict(valid=.2, test=.2, split_seed=0, split='remembered', splits='')


@pytest.fixture(autouse=True)
def own_records(tmp_path, monkeypatch):
    for name in ('records', 'runs', 'cache'): monkeypatch.setenv(f'IMGCLF_{name.upper()}', str(tmp_path/f'.{name}'))


def name(*parts): return hashlib.sha256(repr(parts).encode()).hexdigest()


def make(rows):
    "Items of `(name, label)` and more columns, each with a content of its own"
    items = pd.DataFrame(rows)
    for column in ('split', 'group', 'copies', 'sequence'):
        if column in items: items[column] = items[column].fillna('')
    if 'frame' in items: items['frame'] = items.frame.fillna(-1).astype(int)
    if 'file' not in items: items['file'] = [f'{i}.jpg' for i in range(len(items))]
    if 'sha256' not in items: items['sha256'] = [name(file) for file in items.file]
    return complete_items(items)


def remember(items, **more):
    "The split, and the table that the next one begins from"
    made, shares = assign_splits(items, **more)
    return get_assignments(made)


def count_moved(before, after):
    "How many of these images have another split now; left out is not another split"
    now = dict(zip(after.file, after.split))
    return sum(now.get(file, split) != split for file,split in zip(before.file, before.split))


# The four ways in which images moved


def make_copies(n=400):
    "Images, and each with a larger copy"
    small = [dict(file=f'{i}.jpg', label='ab'[i % 2], copies=f'c{i}', width=100, height=100) for i in range(n)]
    large = [dict(row, file=f'large {row["file"]}', width=300, height=300) for row in small]
    return make(small + large)


@pytest.mark.parametrize('seed', range(2))
def test_a_larger_copy_arrives(seed):
    both = make_copies()
    alone = both[:400].assign(copies='')
    before = get_splits(alone, seed=seed)
    after = get_splits(both, seed=seed, remembered=remember(alone, seed=seed))
    assert count_moved(before, after) == 0 and len(after) == 800
    assert after.groupby('copies').split.nunique().max() == 1  # the copy follows
    assert count_moved(get_hash_splits(alone, seed=seed), get_hash_splits(both, seed=seed)) > 100  # as it was


def make_video(n, first=0, label='a', name='v'):
    return [dict(file=f'{name}_{i:04}.jpg', label=label, sequence=name, frame=i) for i in range(first, n)]


@pytest.mark.parametrize('grown', [41, 60, 200])
@pytest.mark.parametrize('seed', range(2))
def test_a_video_grows(grown, seed):
    def film(n): return make(sum([make_video(n, label=c, name=c) for c in 'abcd'], []))
    before = get_splits(film(40), seed=seed)
    after = get_splits(film(grown), seed=seed, remembered=remember(film(40), seed=seed))
    assert count_moved(before, after) == 0
    assert set(before.file) <= set(after.file) | {o['file'] for o in after.attrs['left_out']}
    assert set(before.file) <= set(after.file)
    for _,video in after.groupby('sequence'):  # a frame beside one of another split is a leak
        video = video.sort_values('frame')
        near = video.frame.diff() == 1
        assert not (near & (video.split != video.split.shift())).any()
    if grown > 60: assert (after.split.value_counts(normalize=True) - pd.Series(dict(train=.6, valid=.2, test=.2))).abs().max() < .13


def test_frames_between_the_old_ones():
    "Every third frame first, then all"
    film = make(make_video(150) + make_video(150, label='b', name='w'))
    some = film[film.frame % 3 == 0]
    before = get_splits(some)
    after = get_splits(film, remembered=remember(some))
    assert count_moved(before, after) == 0 and len(after) > .8*len(film)


@pytest.mark.parametrize('seed', range(2))
def test_a_copy_joins_two_old_images(seed):
    items = make([dict(label='ab'[i % 2], width=9) for i in range(100)])
    table = remember(items, seed=seed)
    split = table.split
    for first,second in (('train', 'test'), ('valid', 'test'), ('train', 'valid')):
        pair = [split.index[split == o][0] for o in (first, second)]
        more = make([*items.to_dict('records'), dict(file='new.jpg', label='a', width=50)])
        more.loc[[*pair, 100], 'copies'] = 'same'
        after = get_splits(more, seed=seed, remembered=table)
        assert count_moved(table, after) == 0
        assert dict(zip(after.file, after.split))[items.file[pair[1]]] == second
        reasons = {o['file']: o['reason'] for o in after.attrs['left_out']}
        assert reasons == {items.file[pair[0]]: f'duplicate in {second}', 'new.jpg': 'related to images of several splits'}


def test_patients_that_turn_out_to_be_one():
    items = make([dict(label='ab'[i//4 % 2], group=f'p{i//4}') for i in range(160)])
    table = remember(items)
    of = table.drop_duplicates('unit').set_index('unit').split
    train, test = of.index[of == 'train'][0], of.index[of == 'test'][0]
    merged = items.assign(group=items.group.replace(train, test))
    after = get_splits(merged, remembered=table)
    assert count_moved(table, after) == 0 and after.groupby('group').split.nunique().max() == 1
    assert set(pd.DataFrame(after.attrs['left_out']).reason) == {'group in test'}


@pytest.mark.parametrize('seed', range(2))
def test_classes_of_about_eight_grow(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(6, 11, 20)
    items = make([dict(label=f'c{c}', file=f'{c}-{i}.jpg') for c,n in enumerate(sizes) for i in range(n)])
    table, all_items = remember(items, seed=seed), items
    for step in range(4):
        new = make([dict(label=f'c{c}', file=f'{c}-new{step}-{i}.jpg') for c in range(20) for i in range(rng.integers(0, 3))])
        all_items = pd.concat([all_items, new], ignore_index=True)
        after = get_splits(all_items, seed=seed, remembered=table)
        assert count_moved(table, after) == 0
        table = get_assignments(after)
        shown = get_split_table(after)
        assert (shown.largest_deviation <= shown.tolerance).all(), shown


# As balanced as the units allow


@pytest.mark.parametrize('seed', range(5))
def test_ten_classes_of_thirty_have_six_test_images_each(seed):
    items = make([dict(label=f'c{i % 10}', file=f'{seed}-{i}.jpg') for i in range(300)])
    counts = pd.crosstab(items.label, get_splits(items, seed=seed).split)
    assert set(counts.test) == set(counts.valid) == {6} and set(counts.train) == {18}


def test_the_seed_draws_every_image():
    "No image is in the test more often than chance explains: 30 seeds, 60 images, share .2"
    items = make([dict(label='ab'[i % 2]) for i in range(60)])
    tested = sum((get_splits(items, seed=seed).split == 'test').astype(int) for seed in range(30))
    assert tested.sum() == 360 and 0 < tested.min() and tested.max() < 16


@few
@given(st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=30), min_size=2, max_size=6), st.integers(0, 999),
    st.sampled_from([(.2, .2), (.1, .1), (.15, .3), (.2, 0), (.01, .2)]))
def test_any_units(sizes, seed, shares):
    "Each class deviates by at most its largest unit; no unit is divided; every split has a unit of every class"
    items = make([dict(label=f'c{c}', group=f'g{c}-{g}') for c,units in enumerate(sizes) for g,n in enumerate(units) for i in range(n)])
    splits = get_splits(items, *shares, seed=seed)
    assert splits.groupby('group').split.nunique().max() == 1 and len(splits) == len(items)
    assert (splits.groupby('label').split.nunique() == 2 + (shares[1] > 0)).all()
    for label,mine in splits.groupby('label'):
        largest = mine.group.value_counts().max()
        for split,share in zip(('valid', 'test'), shares):
            assert abs((mine.split == split).sum() - share*len(mine)) <= largest
    again = get_splits(items.sample(frac=1, random_state=seed), *shares, seed=seed)
    assert again.split.sort_index().tolist() == splits.split.tolist()
    folds = get_folds(items, 3, seed)
    assert (folds.groupby(items.label).nunique() == 3).all() and folds.groupby(items.group).nunique().max() == 1


@few
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2), st.integers(0, 2)), min_size=12, max_size=40), st.integers(0, 999))
def test_units_of_several_labels(units, seed):
    "Patients with images of two classes: none is divided, and both classes come near their shares"
    items = make([dict(label=f'c{[a, b][i % 2]}', group=f'p{p}') for p,(n,a,b) in enumerate(units) for i in range(n)]
        + [dict(label=f'c{i % 3}', group='') for i in range(90)])
    splits = get_splits(items, seed=seed)
    assert splits[splits.group != ''].groupby('group').split.nunique().max() == 1
    for label,mine in splits.groupby('label'):
        largest = mine.group[mine.group != ''].value_counts().max() if (mine.group != '').any() else 1
        for split in ('valid', 'test'): assert abs((mine.split == split).sum() - .2*len(mine)) <= largest + 1
    part = take_images(splits, 30, seed)
    train = splits[(splits.split == 'train') & (splits.group != '')].group.value_counts()
    kept = part[(part.split == 'train') & (part.group != '')].group.value_counts()
    assert (kept == train[kept.index]).all()


@few
@given(st.integers(20, 80), st.integers(1, 60), st.integers(0, 99))
def test_growing_in_any_steps(n, more, seed):
    "Old images keep their split, units stay whole, and the shares are restored"
    rng = np.random.default_rng(seed)
    items = make([dict(label='abc'[i % 3], group=f'g{rng.integers(0, 40)}' if rng.random() < .4 else '') for i in range(n + more)])
    items['label'] = items.label.where(items.group == '', items.group.map(lambda g: 'abc'[len(g) % 3]))
    try: table = remember(items[:n], seed=seed)
    except UserError: return
    after = get_splits(items, seed=seed, remembered=table)
    assert count_moved(table, after) == 0 and len(after) == n + more
    assert after[after.group != ''].groupby('group').split.nunique().max() == 1
    again = get_splits(items[:n], seed=seed, remembered=get_assignments(after))
    assert again.split.tolist() == table.split.tolist()


def test_what_is_remembered_is_what_was_made():
    "With the same images the remembered table changes nothing, also not with videos, groups and ties"
    items = make(make_video(60) + make_video(60, label='b', name='w')
        + [dict(file=f's{i}.jpg', label='ab'[i % 2], group=f'p{i//3}', copies='twin' if i in (5, 50) else '') for i in range(90)])
    for blocked in (False, True):
        first = get_splits(items, blocked=blocked)
        again = get_splits(items, blocked=blocked, remembered=remember(items, blocked=blocked))
        assert again.split.tolist() == first.split.tolist() and again.attrs['left_out'] == first.attrs['left_out']


# A set that people work on


def draw(folder, classes='ab', n=20, start=0):
    for c in classes:
        (folder/c).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + n):
            noise = np.random.default_rng([ord(c), i]).integers(0, 255, (24, 24, 3), np.uint8)
            Image.fromarray(noise).save(folder/c/f'{i}.png')
    return folder


def sides(items): return dict(zip(items.sha256, items.split))


def keeps(before, after): return all(sides(after).get(content, split) == split for content,split in sides(before).items())


def test_a_folder_that_lives(tmp_path, capsys):
    "Images come, go, come back, are renamed, relabelled, dropped and saved again"
    d = draw(tmp_path/'set')
    def now(**more): return remember_splits(get_items(str(d)), **more)[0]
    first = now()
    draw(d, 'ab', 5, start=20)
    grown = now()
    assert keeps(first, grown) and len(grown) == 50 and '10 images are new' in capsys.readouterr().out
    gone = first[first.split == 'test'].iloc[0]
    shutil.move(gone.path, tmp_path/'away.png')
    assert keeps(first, now())
    shutil.move(tmp_path/'away.png', d/gone.label/'back.png')
    assert sides(now())[gone.sha256] == 'test' and keeps(grown, now())
    for path in sorted((d/'a').glob('*.png')): path.rename(path.with_name(f'Bild {path.stem} ü.png'))
    assert keeps(grown, now())
    other = next(o for o in now().itertuples() if o.split == 'test')
    records.decide(str(d), other.file, 'relabel', 'a' if other.label == 'b' else 'b')
    assert sides(now())[other.sha256] == 'test' and keeps(grown, now())
    records.decide(str(d), other.file, 'drop')
    assert other.sha256 not in sides(now())
    records.decide(str(d), other.file, 'forget')
    assert sides(now()) == sides(grown)
    tested = next(o for o in now().itertuples() if o.split == 'test')
    Image.open(tested.path).point(lambda v: v//2).save(tested.path)  # saved again: another content
    after = now()
    assert dict(zip(after.file, after.split))[tested.file] == 'test' and tested.sha256 not in sides(after)
    assert keeps(grown, after)


def test_a_new_class_and_a_group_that_is_confirmed_later(tmp_path):
    d = draw(tmp_path/'set')
    first = remember_splits(get_items(str(d)))[0]
    draw(d, 'c', 15)
    grown = remember_splits(get_items(str(d)))[0]
    assert keeps(first, grown) and grown[grown.label == 'c'].split.value_counts().to_dict() == dict(train=9, valid=3, test=3)
    pair = [grown[grown.split == split].file.iloc[0] for split in ('train', 'test')]
    records.decide(str(d), pair, 'group', 'p1')
    after = remember_splits(get_items(str(d)))[0]
    assert keeps(grown, after) and after.attrs['left_out'] == [dict(file=pair[0], reason='group in test')]


def test_a_given_test_split_comes_and_changes(tmp_path):
    d = draw(tmp_path/'set'/'train', n=30)
    first = remember_splits(get_items(str(tmp_path/'set')))[0]
    draw(tmp_path/'set'/'test', n=5, start=100)
    given = remember_splits(get_items(str(tmp_path/'set')))[0]
    assert set(given[given.split == 'test'].sha256).isdisjoint(first.sha256)
    valid = first[first.split == 'valid']
    assert {sides(given)[o] for o in valid.sha256} == {'valid'}  # only what was test is drawn again
    moved = given[given.split == 'train'].iloc[0]
    shutil.move(moved.path, tmp_path/'set'/'test'/moved.label/'moved.png')
    changed = remember_splits(get_items(str(tmp_path/'set')))[0]
    assert sides(changed)[moved.sha256] == 'test' and keeps(given[given.sha256 != moved.sha256], changed)
    shutil.move(tmp_path/'set'/'test'/moved.label/'moved.png', moved.path)
    assert sides(remember_splits(get_items(str(tmp_path/'set')))[0])[moved.sha256] in ('train', 'valid')
    shutil.rmtree(tmp_path/'set'/'test')
    assert set(remember_splits(get_items(str(tmp_path/'set')))[0].split) == {'train', 'valid', 'test'}


def test_seeds_shares_and_blocked_have_tables_of_their_own(tmp_path):
    items = get_items(str(draw(tmp_path/'set')))
    for more in (dict(), dict(seed=1), dict(test=0), dict(valid=.1), dict(blocked=True)): remember_splits(items, **more)
    names = {path.name for path in get_assignments_path(str(tmp_path/'set'), 0, .2, .2).parent.glob('*.csv')}
    assert names == {'0-0.2-0.2.csv', '1-0.2-0.2.csv', '0-0.2-0.csv', '0-0.1-0.2.csv', '0-0.2-0.2-blocked.csv'}


def first_of_two(d, records, start, queue):
    import os
    os.environ['IMGCLF_RECORDS'] = records
    items = get_items(d)
    items = items.sample(frac=1, random_state=start)
    items.attrs['dataset'] = d
    out, table = remember_splits(items, split='fresh' if start else 'remembered')
    queue.put(sorted(zip(out.sha256, out.split)))


def test_two_processes_make_the_first_split(tmp_path, monkeypatch):
    import os
    d = str(draw(tmp_path/'set'))
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    both = [context.Process(target=first_of_two, args=(d, os.environ['IMGCLF_RECORDS'], i, queue)) for i in range(2)]
    for process in both: process.start()
    a, b = queue.get(timeout=120), queue.get(timeout=120)
    for process in both: process.join()
    table = read_assignments(get_assignments_path(d, 0, .2, .2))
    assert a == b == sorted(zip(table.sha256, table.split))


@pytest.mark.parametrize('text, says', [
    ('', 'is empty'), ('name,age\na,3\n', 'is no table of splits'), ('sha256,file,unit\n1,a,b\n', 'is no table of splits'),
    ('file,split\na/0.png,train\na/1.png,later\n', "line 3: 'later' is no split"), ('file,split\nx.png,train\n', 'none of the 40 images')])
def test_a_table_that_is_none(tmp_path, text, says):
    d = draw(tmp_path/'set')
    (tmp_path/'splits.csv').write_text(text)
    items = get_items(str(d))
    for call in (lambda: remember_splits(items, splits=str(tmp_path/'splits.csv')), lambda: preview_splits(items, {**GIVEN, 'splits': str(tmp_path/'splits.csv')})):
        with pytest.raises(UserError, match=says) as error: call()
        assert error.value.parameter == 'splits'
    assert read_assignments(get_assignments_path(str(d), 0, .2, .2)) is None


def test_a_table_from_another_machine(tmp_path, capsys):
    "As a run's folder, an old run's manifest, or a list of names that a person wrote in a spreadsheet"
    d = draw(tmp_path/'set')
    items = get_items(str(d))
    theirs = get_splits(items, seed=7)
    run = Run(tmp_path/'theirs')
    run.path.mkdir()
    write_json(run.path/'run.json', {})
    describe_data(run, theirs, get_card(str(d)))
    assert sides(remember_splits(items, splits=str(run.path))[0]) == sides(theirs)
    assert sides(remember_splits(items)[0]) == sides(theirs)  # nothing was remembered before
    own = get_splits(items)
    lines = ['Path;Split', *[f'{file};{dict(train="Training", valid="val", test="Test")[split]}' for file,split in zip(own.file, own.split)]]
    (tmp_path/'mine.csv').write_bytes(('\ufeff' + '\r\n'.join(lines)).encode())
    capsys.readouterr()
    assert sides(remember_splits(items, splits=str(tmp_path/'mine.csv'))[0]) == sides(own)
    assert 'keeps another one for later runs' in capsys.readouterr().out
    assert sides(remember_splits(items)[0]) == sides(theirs)
    assert sides(remember_splits(items, split='fresh', splits=str(tmp_path/'mine.csv'))[0]) == sides(own)
    assert sides(remember_splits(items)[0]) == sides(own)


def test_a_damaged_table_is_named(tmp_path):
    items = get_items(str(draw(tmp_path/'set')))
    remember_splits(items)
    path = get_assignments_path(str(tmp_path/'set'), 0, .2, .2)
    whole = path.read_text()
    for damaged in (whole[:-9], whole.replace('train', 'trian', 1), 'sha256,file\n1,2\n'):
        path.write_text(damaged)
        with pytest.raises(UserError, match='is damaged') as error: remember_splits(items)
        assert str(path) in str(error.value) and 'made anew' in str(error.value)
    remember_splits(items, split='fresh')
    assert path.read_text() == whole and len(list(path.parent.glob('*-old*.csv'))) == 1


# Runs


def begin(tmp_path, run, d, **more):
    run = Run(tmp_path/run)
    run.path.mkdir(exist_ok=True)
    if not run.record: write_json(run.path/'run.json', dict(dataset=str(d), parameters={**GIVEN, **more}, status='running'))
    return run


def test_a_run_is_evaluated_by_its_own_copy(tmp_path):
    d = draw(tmp_path/'set')
    run = begin(tmp_path, 'a', d)
    trained = take_splits(run, get_items(str(d)), run.record['parameters'])
    describe_data(run, trained, get_card(str(d)))
    draw(d, 'ab', 10, start=20)
    remember_splits(get_items(str(d)), split='fresh')
    whole, items = get_run_items(run, open_run_set(run))
    assert sides(items) == sides(trained)  # by its manifest: the set has grown
    for path in sorted(d.rglob('*.png')):
        if int(path.stem) >= 20: path.unlink()
    whole, items = get_run_items(run, open_run_set(run))
    assert sides(items) == sides(trained) and get_split_hash(items) == run.record['split_hash']
    assert run.record['splits'] == str(run.path/'split.csv')
    assert sides(remember_splits(get_items(str(d)))[0]) != sides(trained)


def make_frozen():
    "Items as an earlier version saw them: groups, duplicates, a video, large units"
    rows = [dict(file=f'{i}.jpg', label='abc'[i % 3], group=f'p{i//5}' if i % 2 else '', copies='x' if i in (2, 8) else '') for i in range(150)]
    rows += [dict(file=f'g{i}.jpg', label='a', group='large') for i in range(60)]
    rows += [dict(row, split="test" if row["frame"] > 30 else "train") for row in make_video(40, label="b")]
    return make(rows)


def digest(values): return hashlib.sha256(repr(list(values)).encode()).hexdigest()[:16]


@pytest.mark.parametrize('blocked, splits, folds', [(False, '406d6ef04a4ab31b', '0bbc0b3239b3a4d6'), (True, '76856b5b08262718', '0bbc0b3239b3a4d6')])
def test_the_old_rule_is_the_old_rule(blocked, splits, folds):
    "What commit 5629f5d made of these items"
    items = make_frozen()
    made = get_hash_splits(items, seed=3, blocked=blocked)
    assert digest(zip(made.file, made.split)) == splits
    assert digest(get_hash_folds(items, 4, 3)) == folds


def test_an_old_run_is_evaluated_by_the_old_rule(tmp_path):
    "Its folder has no split.csv; what is remembered by now does not matter"
    d = draw(tmp_path/'set')
    for more in (dict(), dict(folds=3, fold=1)):
        run = begin(tmp_path, f'old{len(more)}', d, **more)
        items = get_hash_splits(get_items(str(d)))
        if more: items = take_fold(items, 3, 1, 0, get_hash_folds)
        describe_data(run, items, get_card(str(d)))
        assert not (run.path/'split.csv').exists()
        remember_splits(get_items(str(d)))
        whole, now = get_run_items(run, open_run_set(run))
        assert get_split_hash(now) == run.record['split_hash'] and sides(now) == sides(items)
        assert len(whole) == 40 and 'split.csv' not in {path.name for path in run.path.iterdir()}
    resumed = take_splits(run, get_items(str(d)), run.record['parameters'])
    assert sides(resumed) == sides(get_hash_splits(get_items(str(d))))


def test_a_byte_copy_is_a_new_image():
    "A copy of a test image, filed under a training patient, is left out alone: the patient's old images stay"
    items = make([dict(label='ab'[i//4 % 2], group=f'p{i//4}') for i in range(160)])
    table = remember(items)
    train, test = [table.index[table.split == split][0] for split in ('train', 'test')]
    more = make([*items.to_dict('records'), dict(items.iloc[train], file='copy.jpg', sha256=items.sha256[test])])
    more.loc[[test, 160], 'copies'] = 'same'
    after = get_splits(more, remembered=table)
    assert len(after) == 160 and count_moved(table, after) == 0
    assert after.attrs['left_out'] == [dict(file='copy.jpg', reason='duplicate in test')]


def make_older_run(d, folder, **more):
    "A run as an earlier version left it, done, without split.csv"
    p = {**GIVEN, "dataset": str(d), "folds": 0, "fold": 0, **more}
    del p['split'], p['splits']
    run = Run(folder)
    run.path.mkdir(parents=True)
    write_json(run.path/'run.json', dict(dataset=str(d), parameters=p, status='running'))
    items = get_hash_splits(get_items(str(d)))
    if p['folds']: items = take_fold(items, p['folds'], p['fold'], 0, get_hash_folds)
    describe_data(run, items, get_card(str(d)))
    run.update(status='done')
    return run


def test_an_old_run_of_a_fold_is_opened_again(tmp_path):
    "04_train divides it by the old rule for folds too: its split is that of its run.json"
    d = draw(tmp_path/'set')
    run = make_older_run(d, tmp_path/'old', folds=3, fold=1)
    items = take_splits(run, get_items(str(d)), {**GIVEN, **run.record['parameters']})
    items = take_fold(items, 3, 1, 0, get_fold_rule(run))
    assert describe_data(run, items, get_card(str(d))) == ['a', 'b']  # not: the data have changed
    new = begin(tmp_path, 'new', d)
    take_splits(new, get_items(str(d)), GIVEN)
    assert get_fold_rule(new) is get_folds


@pytest.mark.parametrize('more', [dict(), dict(folds=3, fold=1)])
def test_a_study_that_an_earlier_version_began(tmp_path, monkeypatch, more):
    "Its runs are found under their names, and the missing ones take the same split"
    import os
    monkeypatch.setenv('IMGCLF_RUNS', str(tmp_path/'runs'))
    d = draw(tmp_path/'set')
    items = get_items(str(d))
    plan = [dict(dataset=str(d), arch='small_cnn', weights='none', epochs=1, seed=seed, **more) for seed in range(3)]
    study = Study(plan, items.attrs['data_hash'])
    first = make_older_run(d, tmp_path/'runs'/study.plan[0]['run'], **more)
    remember_splits(items)
    trained = []
    def train(notebook, run, quiet, seconds, **given):
        run = begin(tmp_path/'runs', run, d, **given)
        run.update(parameters={**GIVEN, **given})
        out = take_splits(run, items, run.record['parameters'])
        if more: out = take_fold(out, 3, 1, 0, get_fold_rule(run))
        describe_data(run, out, get_card(str(d)))
        if not trained: run.update(status='running')
        trained.append((run, given))
        if len(trained) == 1: raise studies.TimeUp('over')
    monkeypatch.setattr(studies, 'run_notebook', train)
    for file in ('predictions.csv', 'history.csv'): (first.path/file).touch()
    run_study(Study(plan, items.attrs['data_hash']))
    run_study(Study(plan, items.attrs['data_hash']))
    assert len(trained) == 4 and first.path not in {run.path for run,given in trained}
    for run,given in trained:
        assert given['splits'] == str(first.path)  # also when it is resumed
        assert run.record['split_hash'] == first.record['split_hash']
        run.update(status='done')
        assert get_split_hash(get_run_items(run, open_run_set(run))[1]) == first.record['split_hash']


def test_names_of_planned_runs_stay():
    "What commit 5629f5d called this run; a later parameter counts only where it is not the default"
    p = dict(dataset='pc_parts_mini', arch='small_cnn', weights='none', policy='light', epochs=3, seed=1)
    assert name_run(p, 'x') == 'pc_parts_mini-small_cnn-scratch-light-f80d-s1-d61b8c'
    assert name_run(dict(p, split='remembered', splits=''), 'x') == name_run(p, 'x')
    assert len({name_run(dict(p, **more), 'x') for more in ({}, dict(split='fresh'), dict(splits='a.csv'))}) == 3


def test_a_table_of_a_smaller_set_is_extended(tmp_path, capsys):
    "A run with the table that is remembered remembers the splits of new images too, without a warning"
    d = draw(tmp_path/'set')
    first = remember_splits(get_items(str(d)))[0]
    shutil.copy(get_assignments_path(str(d), 0, .2, .2), tmp_path/'splits.csv')
    draw(d, 'ab', 5, start=20)
    grown = remember_splits(get_items(str(d)), splits=str(tmp_path/'splits.csv'))[0]
    assert keeps(first, grown) and 'another one' not in capsys.readouterr().out
    assert len(read_assignments(get_assignments_path(str(d), 0, .2, .2))) == 50
    draw(d, 'ab', 5, start=40)
    assert keeps(grown, remember_splits(get_items(str(d)))[0])


def test_seeds_with_different_splits_are_not_one_setting(tmp_path):
    "As where an earlier version trained the first seed; a split that is named or remembered is one"
    def finish(folder, split_hash, **more):
        run = begin(tmp_path, folder, tmp_path, arch='small_cnn', **more)
        run.update(notebook='04_train', arch='small_cnn', split_hash=split_hash)
        return run
    first = finish('s0', 'a'*64, seed=0)
    check_one_setting([first, finish('s1', 'a'*64, seed=1, splits='runs/s0'), finish('s2', 'a'*64, seed=2, split='fresh')])
    with pytest.raises(UserError, match='differ in split'): check_one_setting([first, finish('s3', 'b'*64, seed=3)])
    check_one_setting([finish(f'f{fold}', str(fold)*64, seed=0, folds=2, fold=fold) for fold in range(2)])


def test_a_set_that_moved(tmp_path, capsys):
    "Its remembered split is named, and can be taken; a copy of a set that is still there is a set of its own"
    d = draw(tmp_path/'set')
    remember_splits(get_items(str(d)))
    draw(d, 'ab', 7, start=20)
    grown = remember_splits(get_items(str(d)))[0]
    path = get_assignments_path(str(d), 0, .2, .2)
    shutil.copytree(d, tmp_path/'copy')
    capsys.readouterr()
    remember_splits(get_items(str(tmp_path/'copy')))
    assert 'gone' not in capsys.readouterr().out
    d.rename(tmp_path/'moved')
    items = get_items(str(tmp_path/'moved'))
    remember_splits(items)
    assert f'--splits {path} -p split fresh' in capsys.readouterr().out
    assert sides(remember_splits(items, split='fresh', splits=str(path))[0]) == sides(grown)
    assert sides(remember_splits(items)[0]) == sides(grown)
