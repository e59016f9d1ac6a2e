"Data that can be trusted: the audit's counts against counts made here, splits that stay, decisions that are applied, a test that is sealed"
import hashlib, json, os, shutil
from collections import defaultdict
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from conftest import command
from imgclf_nb.training.split_memory import remember_splits
from imgclf_nb.images import duplicates as copies, properties as facts
from imgclf_nb.auditing import findings
from imgclf_nb import leakage, splitting
from imgclf_nb.datasets import records
from imgclf_nb.audit import audit, describe_audit, find_all
from imgclf_nb.base.runs import Run
from imgclf_nb.core import UserError, write_json
from imgclf_nb.data import get_data_hash, get_items, get_manifest
from imgclf_nb.datasets.miniatures import get_miniature, get_planted_defects


@pytest.fixture(autouse=True)
def own_records(tmp_path, monkeypatch): monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path/'records'))


def draw(folder, classes='ab', n=6, start=0, **kw):
    "Small noisy images, each of its own"
    for c in classes:
        (folder/c).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + n):
            rng = np.random.default_rng([ord(c), i])
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder/c/f'{i}.png', **kw)
    return folder


def count_by_hand(folder):
    "Copies and contradictions, counted by md5 without the package"
    groups, labels = defaultdict(int), defaultdict(lambda: defaultdict(int))
    for p in sorted(folder.rglob('*')):
        if p.suffix.lower() not in ('.jpg', '.jpeg', '.png'): continue
        h = hashlib.md5(p.read_bytes()).hexdigest()
        groups[h] += 1; labels[h][p.parent.name] += 1
    n = sum(groups.values())
    return dict(pictures=n, duplicate_groups=sum(k > 1 for k in groups.values()), surplus_files=n - len(groups),
        contradictory_groups=sum(len(l) > 1 for l in labels.values()),
        contradictory_files=sum(sum(l.values()) for l in labels.values() if len(l) > 1),
        label_ceiling=sum(max(l.values()) for l in labels.values())/n)


@pytest.mark.parametrize('name', ['pc_parts', 'cats_vs_dogs', 'chest_xray', 'instruments', 'fruits360'])
def test_the_audit_counts_as_we_count(name, real, tmp_path):
    rc, out = command('imgclf_audit', name, '--no-labels', '--out', tmp_path, IMGCLF_DATA=str(real))
    assert rc == 0, out
    got, want = json.loads((tmp_path/'audit.json').read_text()), count_by_hand(real/name)
    assert {k: got[k] for k in want if k != 'label_ceiling'} == {k: v for k,v in want.items() if k != 'label_ceiling'}
    assert got['label_ceiling'] == pytest.approx(want['label_ceiling'])
    table = pd.read_csv(tmp_path/'findings.csv', keep_default_na=False)
    assert table.kind.value_counts().to_dict() == got['findings']
    assert (table.kind == 'contradictory').sum() == want['contradictory_files']
    assert (tmp_path/'audit.html').stat().st_size > 10_000 and list((tmp_path/'figures').glob('*.png'))


def test_audit_json_of_a_miniature(tmp_path):
    rc, out = command('imgclf_audit', 'pc_parts_mini', '--out', tmp_path)
    assert rc == 0 and 'label ceiling is 97.3 %' in out, out
    got = json.loads((tmp_path/'audit.json').read_text())
    assert {'dataset', 'pictures', 'seconds', 'label_ceiling', 'duplicate_groups', 'surplus_files', 'contradictory_groups',
        'contradictory_files', 'unreadable', 'findings'} <= set(got)
    assert got['findings']['suspicious_label'] == 4 and got['suspicious_not_looked_for'] == ''


def test_a_second_audit_opens_no_picture(tmp_path, monkeypatch):
    first = audit('instruments_mini', tmp_path, labels=False)
    def refuse(*a): raise AssertionError(f'opened {a}')
    monkeypatch.setattr(facts, 'measure_image', refuse); monkeypatch.setattr(copies, '_get_small', refuse)
    again = find_all('instruments_mini', labels=False)
    pd.testing.assert_frame_equal(first['findings'], again['findings'])


def test_without_weights_the_audit_says_so_and_goes_on(monkeypatch, tmp_path):
    from imgclf_nb.models import features
    def none(*a, **kw): raise UserError('No pretrained weights.', 'weights')
    monkeypatch.setattr(features, 'get_frozen_features', none)
    a = find_all(str(draw(tmp_path/'set', n=20)))
    assert a['summary']['suspicious_not_looked_for'] == a['summary']['outliers_not_looked_for'] == 'No pretrained weights.'
    assert describe_audit(a['summary'])[-1] == 'Suspicious labels and outliers were not searched for: No pretrained weights.'
    assert len(a['items']) == 40 and a['outliers'].empty


def test_few_pictures_have_no_outliers_and_the_audit_says_why(tmp_path):
    a = audit(str(draw(tmp_path/'set', n=8)), tmp_path/'out')
    assert 'can be said from 30 images, not from 16' in a['summary']['outliers_not_looked_for']
    assert 'Outliers were not searched for: what is usual' in (tmp_path/'out'/'audit.html').read_text()


def test_planted_outliers_are_findings(tmp_path):
    rc, out = command('imgclf_audit', 'cats_vs_dogs_mini', '--out', tmp_path)
    assert rc == 0 and '2 images are unlike every class of the set' in out, out
    truth = get_planted_defects('cats_vs_dogs_mini').query("kind == 'outlier'")
    table = pd.read_csv(tmp_path/'findings.csv', keep_default_na=False).query("kind == 'outlier'")
    assert set(table.path) == set(truth.path) and table.detail.str.startswith('nearest to ').all()
    assert json.loads((tmp_path/'audit.json').read_text())['findings']['outlier'] == len(truth) == 2
    assert (tmp_path/'figures'/'outliers.png').exists() and '<h2>Outliers</h2>' in (tmp_path/'audit.html').read_text()


@pytest.mark.parametrize('n, says', [(1, 'small_class'), (2, 'small_class')])
def test_tiny_sets_are_audited(n, says, tmp_path):
    a = audit(str(draw(tmp_path/'set', n=n)), tmp_path/'out')
    assert a['summary']['pictures'] == 2*n and says in a['summary']['findings']


def test_one_class_left_is_a_question(tmp_path):
    with pytest.raises(UserError, match="only one class, 'a'"): audit(str(draw(tmp_path/'set', 'a', 3)), tmp_path/'out')


def test_no_pictures_is_a_sentence(tmp_path):
    (tmp_path/'set'/'a').mkdir(parents=True)
    rc, out = command('imgclf_audit', tmp_path/'set')
    assert rc == 1 and 'holds no images' in out and 'Traceback' not in out


def test_planted_defects_in_a_set_of_our_own(tmp_path):
    d = draw(tmp_path/'set', n=30)
    im = Image.open(d/'a'/'0.png').resize((400, 300), Image.Resampling.BICUBIC); im.save(d/'a'/'big.jpg', quality=92)
    im.resize((200, 150)).save(d/'b'/'half.jpg', quality=80)
    shutil.copy(d/'a'/'3.png', d/'b'/'copy.png'); shutil.copy(d/'a'/'4.png', d/'A.png'); shutil.copy(d/'a'/'4.png', d/'a'/'5 copy.png')
    Image.open(d/'a'/'6.png').save(d/'a'/'6 again.png', compress_level=0)  # other bytes, same pixels
    (d/'b'/'broken.png').write_bytes((d/'b'/'1.png').read_bytes()[:900]); (d/'b'/'x.jpg').write_bytes((d/'b'/'2.png').read_bytes())
    Image.new('RGB', (40, 40), 'white').save(d/'b'/'white.png')
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40), np.uint8)) for i in range(3)]
    frames[0].save(d/'b'/'moving.gif', save_all=True, append_images=frames[1:])
    Image.fromarray(np.random.default_rng(99).integers(0, 255, (40, 400, 3), np.uint8)).save(d/'b'/'long.png')
    f = find_all(str(d), labels=False)['findings']
    kinds = f[f.path != ''].groupby('path').kind.agg(set).to_dict()
    want = {'a/3.png': 'contradictory', 'b/copy.png': 'contradictory', 'a/4.png': 'exact_duplicate', 'a/5 copy.png': 'exact_duplicate',
        'a/6.png': 'exact_duplicate', 'a/6 again.png': 'exact_duplicate', 'a/big.jpg': 'contradictory_near', 'b/half.jpg': 'contradictory_near',
        'b/broken.png': 'unreadable', 'b/white.png': 'nearly_empty', 'b/moving.gif': 'animated', 'b/long.png': 'extreme_aspect'}
    for path,kind in want.items(): assert kind in kinds.get(path, ()), (path, kinds.get(path))
    assert 'wrong_extension' in kinds['b/x.jpg'] and 'exact_duplicate' in kinds['b/x.jpg']
    clean = {f'{c}/{i}.png' for c in 'ab' for i in range(7, 30)}
    assert not clean & set(kinds)


def test_decisions_are_applied_said_and_undone(tmp_path, capsys):
    d = draw(tmp_path/'set')
    raw = get_items(str(d))
    records.decide(str(d), 'a/0.png', 'drop', reason='blurred'); records.decide(str(d), 'a/1.png', 'relabel', 'b')
    records.decide(str(d), ['a/2.png', 'b/2.png'], 'group', 'one'); records.decide(str(d), 'b/gone.png', 'drop')
    capsys.readouterr()
    items = get_items(str(d))
    says = capsys.readouterr().out
    assert 'drop 1, relabel 1, group 2' in says and 'b/gone.png' in says
    assert len(items) == 11 and (items.label == 'b').sum() == 7
    assert items[items.group != ''].file.tolist() == ['a/2.png', 'b/2.png']
    assert items.attrs['decisions']['missing'] == ['b/gone.png'] and items.attrs['data_hash'] != raw.attrs['data_hash']
    assert len(records.read_decisions(str(d))) == 5  # the one that waits is still there
    records.decide(str(d), raw.file.tolist() + ['b/gone.png'], 'forget')
    assert get_items(str(d)).attrs['data_hash'] == raw.attrs['data_hash']


@pytest.mark.parametrize('text, says', [('path,action\na/0.png,delete\n', "line 2: 'delete' is not an action"), ('path\na\n', 'no column action'),
    ('path,action,value\na/0.png,relabel,\n', 'needs a value')])
def test_a_broken_decisions_file_is_named(text, says, tmp_path):
    d = draw(tmp_path/'set')
    path = records.get_decisions_path(str(d))
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match=says): get_items(str(d))


def test_a_decisions_file_from_a_spreadsheet(tmp_path):
    d = draw(tmp_path/'set')
    path = records.get_decisions_path(str(d))
    path.parent.mkdir(parents=True)
    path.write_bytes('\ufeffpath;action;value;reason\r\na/0.png;Drop;;blurred\r\na/1.png;drop;;\r\na/1.png;keep;;fine\r\na/2.png;relabel;b ;\r\n;;;\r\n'.encode())
    items = get_items(str(d))
    assert len(items) == 11 and 'a/0.png' not in set(items.file) and (items.label == 'b').sum() == 7


def test_the_data_hash_is_the_manifest_s(tmp_path):
    items = get_items(str(draw(tmp_path/'set')))
    (tmp_path/'manifest.csv').write_text(get_manifest(items), newline='')
    assert hashlib.sha256((tmp_path/'manifest.csv').read_bytes()).hexdigest() == get_data_hash(items) == items.attrs['data_hash']


def sides(items): return dict(zip(items.sha256, items.split))


def test_old_pictures_keep_their_side(tmp_path):
    before = remember_splits(get_items(str(draw(tmp_path/'set', 'abc', 40))))[0]
    after = remember_splits(get_items(str(draw(tmp_path/'set', 'abc', 30, start=40))))[0]
    assert len(after) == 210 and all(sides(after)[k] == v for k,v in sides(before).items())


def test_names_and_order_do_not_decide(tmp_path):
    a = splitting.get_splits(get_items(str(draw(tmp_path/'one', 'ab', 40))))
    for p in sorted((tmp_path/'one').rglob('*.png')): p.rename(p.with_name(f'Bild {999 - int(p.stem)} ü.png'))
    b = splitting.get_splits(get_items(str(tmp_path/'one')))
    assert sides(a) == sides(b)


def test_a_picture_that_ties_two_sides_is_left_out(tmp_path, capsys):
    "A new film of one patient that is a copy of another patient's"
    d = tmp_path/'set'
    lines = ['path,label,patient']
    for p in range(40):
        c = 'ab'[p % 2]
        draw(d, c, 2, start=2*p)
        lines += [f'{c}/{i}.png,{c},p{p}' for i in (2*p, 2*p + 1)]
    (d/'set.csv').write_text('\n'.join(lines))
    before = remember_splits(get_items(str(d/'set.csv')))[0]
    of = dict(zip(before.group, before.split))
    train, test = [next(g for g,s in of.items() if s == side) for side in ('train', 'test')]
    source = before[before.group == test].iloc[0]
    shutil.copy(source.path, d/'a'/'tie.png')
    (d/'set.csv').write_text('\n'.join([*lines, f'a/tie.png,{source.label},{train}']))
    capsys.readouterr()
    after = remember_splits(get_items(str(d/'set.csv')))[0]
    assert after.attrs['left_out'] == [dict(file='a/tie.png', reason='duplicate in test')] and 'Left out: 1' in capsys.readouterr().out
    assert dict(zip(after.file, after.split)) == dict(zip(before.file, before.split))


def test_a_hand_made_split_wins(tmp_path, capsys):
    d = draw(tmp_path, 'ab', 6)
    shutil.copy(d/'a'/'0.png', d/'a'/'twin.png')
    split = dict(zip(range(6), ['train', 'train', 'train', 'valid', 'test', 'test']))
    lines = [f'{c}/{i}.png,{c},{s}' for c in 'ab' for i,s in split.items()] + ['a/twin.png,a,test']
    (d/'set.csv').write_text('\n'.join(['path,label,split', *lines]))
    s = splitting.get_splits(get_items(str(d/'set.csv')))
    assert dict(zip(s.file, s.split)) == {l.split(',')[0]: l.split(',')[2] for l in lines} and 'made by hand' in capsys.readouterr().out


def test_splits_are_within_their_tolerance():
    rng = np.random.default_rng(0)
    for seed in range(20):
        n = 1500
        items = pd.DataFrame(dict(path=[f'{seed}-{i}' for i in range(n)], label=rng.choice(list('abc'), n, p=[.6, .3, .1]),
            group=[f'g{seed}-{i}' for i in rng.integers(0, 600, n)]))
        t = splitting.get_split_table(splitting.get_splits(items, seed=seed))
        assert (t.largest_deviation <= t.tolerance).all(), t


def test_the_test_is_sealed_and_its_openings_add_up(tmp_path, capsys):
    items = splitting.seal_test(splitting.get_splits(get_items('pc_parts_mini')))
    assert set(items[items.split == 'test'].label) == {''} and '' not in set(items[items.split != 'test'].label)
    for name in ('one', 'two'):
        (tmp_path/name).mkdir(); run = Run(tmp_path/name); write_json(run.path/'run.json', {})
        opened = splitting.open_test(run, items)
    splitting.open_test(run, items)
    assert run.record['test_opened'] == 2 and 'opened 2 times by this run; 3 openings by 2 runs' in capsys.readouterr().out
    assert all(Path(p).parent.name == l for p,l in zip(opened.path, opened.label))


def test_planted_leakage_is_billed_and_none_is_not():
    "Groups with a look of their own and labels by chance leak all that there is to learn; images without one leak nothing"
    rng = np.random.default_rng(0)
    n, k = 600, 4
    group, label = np.arange(n)//k, np.repeat(rng.choice(['a', 'b'], n//k), k)
    items = pd.DataFrame(dict(file=[f'{i}' for i in range(n)], label=label, group=[f'g{g}' for g in group], copies='', sequence='', frame=-1, split=''))
    look = rng.normal(0, 1, (n//k, 400))[group] + rng.normal(0, .3, (n, 400))
    bill = leakage.get_leakage(leakage.measure_leakage(items, look, 6)[0])
    assert bill['leakage']['low'] > .2 and abs(bill['clean']['value'] - .5) < .1 and 'were leakage' in leakage.describe_leakage(bill)
    fair = rng.normal(0, 1, (n, 40)); fair[:, 0] += (label == 'a')*2
    bill = leakage.get_leakage(leakage.measure_leakage(items, fair, 6)[0])
    assert bill['leakage']['low'] <= 0 <= bill['leakage']['high'] and 'no leakage can be shown' in leakage.describe_leakage(bill)


def test_paths_that_differ_by_case_and_links_in_circles(tmp_path):
    d = draw(tmp_path/'set', n=8)
    Image.fromarray(np.random.default_rng(7).integers(0, 255, (40, 40, 3), np.uint8)).save(d/'a'/'X.png')
    Image.fromarray(np.random.default_rng(8).integers(0, 255, (40, 40, 3), np.uint8)).save(d/'a'/'x.png')
    (d/'a'/'loop').symlink_to(d); (d/'self').symlink_to('self'); (d/'b'/'self.png').symlink_to('self.png')
    f = find_all(str(d), labels=False)
    assert len(f['items']) == 18 and len(f['items'].attrs['unreadable']) == 1 and (f['findings'].kind == 'case_clash').sum() == 2


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    d, scandir = draw(tmp_path/'set'), os.scandir
    def refuse(p):
        if str(p).endswith('b'): raise PermissionError(13, 'Permission denied', str(p))
        return scandir(p)
    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(UserError, match='set/b cannot be read'): get_items(str(d))


def test_a_run_says_which_decisions_it_used(tmp_path):
    from imgclf_nb.results.artifacts import describe_data
    from imgclf_nb.datasets.cards import get_card
    d = draw(tmp_path/'set', n=20)
    records.decide(str(d), 'a/0.png', 'drop')
    (tmp_path/'run').mkdir(); run = Run(tmp_path/'run'); write_json(run.path/'run.json', {})
    describe_data(run, splitting.get_splits(get_items(str(d))), get_card(str(d)))
    assert run.record['decisions']['drop'] == 1 and len(run.record['decisions']['sha256']) == 64 and run.record['left_out'] == 0


def test_a_patient_column_wins_over_films(tmp_path):
    d, lines = tmp_path/'set', ['path,label,patient,sequence,frame']
    for i in range(80):
        draw(d, 'ab'[i//10 % 2], 1, start=i)
        lines.append(f"{'ab'[i//10 % 2]}/{i}.png,{'ab'[i//10 % 2]},p{i//10},s{i//10},{i % 10}")
    (d/'set.csv').write_text('\n'.join(lines))
    s = splitting.get_splits(get_items(str(d/'set.csv')))
    assert s.groupby('group').split.nunique().max() == 1 and s.group.nunique() == 8


def test_reading_goes_on_after_threaded_opencv(tmp_path):
    import cv2
    cv2.cvtColor(np.zeros((3000, 3000, 3), np.uint8), cv2.COLOR_RGB2GRAY)
    files = sorted(draw(tmp_path/'set', n=120).rglob('*.png'))
    assert (facts.measure_images(files, cache=False, workers=2).error == '').all()


def test_colours_make_another_picture(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        g = np.asarray(Image.fromarray(rng.integers(0, 255, (12, 12), np.uint8)).resize((120, 120), Image.Resampling.BICUBIC)).astype(float)
        for c,tint in dict(red=(1, .4, .4), green=(.4, 1, .4)).items():
            (tmp_path/c).mkdir(exist_ok=True); Image.fromarray((g[..., None]*tint).astype(np.uint8)).save(tmp_path/c/f'{i}.png')
    assert len(find_all(str(tmp_path), labels=False)['findings'].query("kind == 'contradictory_near'")) == 0


def test_look_alikes_tie_nothing_and_keep_unties(tmp_path, capsys):
    base = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    for i in range(60):
        a = np.asarray(Image.fromarray(base).resize((160, 160), Image.Resampling.BICUBIC)).astype(int) + np.random.default_rng(i+1).normal(0, 4, (160, 160, 3))
        (tmp_path/'ab'[i % 2]).mkdir(exist_ok=True); Image.fromarray(a.clip(0, 255).astype(np.uint8)).save(tmp_path/'ab'[i % 2]/f'{i}.png')
    items = get_items(str(tmp_path))
    assert (items.copies == '').all() and 'too many to be duplicates' in capsys.readouterr().out
    assert set(splitting.get_splits(items).split) == {'train', 'valid', 'test'}
    two = draw(tmp_path/'two', 'ab', 8)
    Image.open(two/'a'/'0.png').resize((200, 200), Image.Resampling.BICUBIC).save(two/'a'/'big.png')
    Image.open(two/'a'/'big.png').resize((150, 150)).save(two/'a'/'mid.png')
    tied = get_items(str(two))
    pair = tied[tied.copies != ''].file.tolist()
    assert {'a/big.png', 'a/mid.png'} <= set(pair)
    records.decide(str(two), pair, 'keep')
    assert (get_items(str(two)).copies == '').all()


def test_a_smaller_copy_moves_nobody(tmp_path):
    d = tmp_path/'set'
    for c in 'ab':
        (d/c).mkdir(parents=True)
        for i in range(30):
            a = np.random.default_rng([ord(c), i]).integers(0, 255, (14, 14, 3), np.uint8)
            Image.fromarray(a).resize((140, 140), Image.Resampling.BICUBIC).save(d/c/f'{i}.png')
    before = remember_splits(get_items(str(d)))[0]
    for p in sorted(d.rglob('*.png')): Image.open(p).resize((90, 90)).save(p.with_name(f'{p.stem}_small.jpg'), quality=85)
    after = remember_splits(get_items(str(d)))[0]
    assert (after.copies != '').sum() == 120 and after.groupby('copies').split.nunique().max() == 1
    assert all(sides(after)[k] == v for k,v in sides(before).items())


def test_a_dropped_test_picture_is_the_same_test(tmp_path):
    d = draw(tmp_path/'set', n=40)
    (tmp_path/'run').mkdir(); run = Run(tmp_path/'run'); write_json(run.path/'run.json', {})
    s = splitting.seal_test(remember_splits(get_items(str(d)))[0])
    splitting.open_test(run, s)
    records.decide(str(d), s[s.split == 'test'].file.iloc[0], 'drop')
    with pytest.raises(UserError, match='make the split again'): splitting.open_test(run, s)
    splitting.open_test(run, splitting.seal_test(remember_splits(get_items(str(d)))[0]))
    test = s[s.split == 'test']
    assert len(records.log_opening(str(d), 'other', test.assign(label='a'))) == 3
