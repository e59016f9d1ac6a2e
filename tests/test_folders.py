"Folders as people have them: which images are samples, of which class and split, and that no file is lost"
import os, random, shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import command
from imgclf_nb.core import UserError
from imgclf_nb.data import get_items
from imgclf_nb.datasets.folders import list_folder
from imgclf_nb.datasets.records import decide


@pytest.fixture(autouse=True)
def records(tmp_path, monkeypatch):
    "Decisions of these tests only"
    monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path/'records'))


def fill(root, text):
    "Empty files, `file` or `folder*number`: folder/1.jpg to folder/number.jpg, with names of their own"
    for word in text.split():
        folder, _, n = word.partition('*')
        files = [f"{folder}/{i}-{folder.replace('/', '-')}.jpg" for i in range(int(n))] if n else [folder]
        for file in files:
            (root/file).parent.mkdir(parents=True, exist_ok=True)
            (root/file).touch()
    return root


def number(root, text, names=range(3)):
    "The same, but the files of all folders are numbered alike"
    for folder in text.split():
        (root/folder).mkdir(parents=True)
        for i in names: (root/folder/f'{i:03}.png').touch()
    return root


def count_files(root):
    "The files below a folder, counted by the system's own walk"
    return sum(len(files) for _,_,files in os.walk(root))


def read(root, **choices):
    "Images by split/label; no file of the folder may be lost"
    table, passed = list_folder(root, dict(folder=choices))
    assert len(table) + len(passed) == count_files(root)
    assert not {o['file'] for o in passed} & {os.path.relpath(o, root) for o in table.path}
    assert all(o['reason'] for o in passed)
    return {'/'.join(o): n for o,n in Counter(zip(table.split, table.label)).items()}


PLAIN = {  # files, and the images by split and class
    'prefixes': ('01_train/a*3 01_train/b*2 02_test/a*1 02_test/b*1', {'train/a': 3, 'train/b': 2, 'test/a': 1, 'test/b': 1}),
    'years': ('train2017/a*3 train2017/b*2 val2017/a*1', {'train/a': 3, 'train/b': 2, 'valid/a': 1}),
    'words': ('s/Train_Data/a*2 s/Train_Data/b*2 s/TestImages/a*1 s/imgs_val/b*1', {'train/a': 2, 'train/b': 2, 'test/a': 1, 'valid/b': 1}),
    'parts': ('train.X1/a*2 train.X2/a*2 train.X2/b*1 val.X/b*1', {'train/a': 4, 'train/b': 1, 'valid/b': 1}),
    'twice': ('seg_train/seg_train/a*2 seg_train/seg_train/b*2 seg_test/seg_test/a*1 seg_pred/seg_pred*3', {'train/a': 2, 'train/b': 2, 'test/a': 1}),
    'same name': ('train/train/a*2 train/train/b*2 test/test/b*1', {'train/a': 2, 'train/b': 2, 'test/b': 1}),
    'one stem': ('birds_train/a*2 birds_train/b*1 birds_test/a*1', {'train/a': 2, 'train/b': 1, 'test/a': 1}),
    'in names': ('cats_train*3 cats_test*1 dogs_train*2 dogs_test*1', {'train/cats': 3, 'test/cats': 1, 'train/dogs': 2, 'test/dogs': 1}),
    'below': ('set/disc/train*3 set/disc/test*1 set/box/Training*2 set/box/val*1', {'train/disc': 3, 'test/disc': 1, 'train/box': 2, 'valid/box': 1}),
    'images below': ('train/a/images*2 train/b/images*2 test/a/images*1', {'train/a': 2, 'train/b': 2, 'test/a': 1}),
    'detector': ('e/images/train/a*2 e/images/train/b*2 e/images/val/a*1 e/labels/train/a/1.txt', {'train/a': 2, 'train/b': 2, 'valid/a': 1}),
    'wrapper beside tables': ('Images/a*2 Images/b*1 Tables/x.xlsx Tables/x.arff read.txt', {'/a': 2, '/b': 1}),
    'flat test': ('train/a*2 train/b*2 test*4', {'train/a': 2, 'train/b': 2}),
    'test in one folder': ('train/a*2 train/b*2 test/unknown*4', {'train/a': 2, 'train/b': 2}),
    'to predict': ('train/a*2 train/b*2 valid/a*1 test/b*1 images_to_predict*3', {'train/a': 2, 'train/b': 2, 'valid/a': 1, 'test/b': 1}),
    'test beside classes': ('a*2 b*2 test/a*1 test/b*1', {'/a': 2, '/b': 2, 'test/a': 1, 'test/b': 1}),
    'vehicles': ('car*1 bus*1 train*1', {'/car': 1, '/bus': 1, '/train': 1}),
    'vehicles in splits': ('train/car*1 train/train*1 test/car*1 test/train*1', {'train/car': 1, 'train/train': 1, 'test/car': 1, 'test/train': 1}),
    'only like splits': ('latest*1 trained_dogs*1 steam-train*1 test_tube*1', {'/latest': 1, '/trained_dogs': 1, '/steam-train': 1, '/test_tube': 1}),
    'only in test': ('train/a*2 train/b*2 test/a*1 test/c*1', {'train/a': 2, 'train/b': 2, 'test/a': 1, 'test/c': 1}),
    'digits': ('training/0*1 training/90*1 testing/270*1', {'train/0': 1, 'train/90': 1, 'test/270': 1}),
    'cameras': ('cats/100CANON*2 cats/101CANON*1 dogs/batch_1*1', {'/cats': 3, '/dogs': 1}),
    'chapters of a set': ('part_1/a*1 part_1/b*1 part_2/a*1 part_2/b*1', {'/a': 2, '/b': 2}),
    'other languages': ('训练集/猫*1 训练集/狗*1 测试集/猫*1', {'train/猫': 1, 'train/狗': 1, 'test/猫': 1}),
    'stray images': ('cover.jpg s/a*1 s/b*1', {'/a': 1, '/b': 1}),
    'spellings': ('e\u0301pe\u0301e*2 \u00e9p\u00e9e*1 box*1', {'/épée': 3, '/box': 1}),
    'clutter': ('''a*1 b*1 a/._1.jpg a/Thumbs.db a/desktop.ini a/.DS_Store a/.ipynb_checkpoints/1-checkpoint.jpg
        $RECYCLE.BIN/S-1/$R0.jpg @eaDir/a/1.jpg/THUMB_M.jpg __MACOSX/a/._1.jpg .Trash-1000/files/1.jpg .git/objects/1
        lost+found/1.jpg a/~$x.docx #recycle/2.jpg''', {'/a': 1, '/b': 1}),
    'masks inside': ('ill/images/1.png ill/images/2.png ill/masks/1.png ill/masks/2.png well/images/3.png well/masks/3.png', {'/ill': 2, '/well': 1}),
    'masks beside': ('a/1.png a/1_mask.png a/2.png a/2_mask_1.png b/mask_3.png b/3.jpg b/4-gt.png b/4.png', {'/a': 2, '/b': 2}),
    'masks apart': ('images/a/1.jpg images/b/2.jpg masks/a/1.png masks/b/2.png', {'/a': 1, '/b': 1}),
    'masks by number': ('a/images/img_01.jpg a/SegmentationClass/seg_1.png b/images/img_02.jpg b/SegmentationClass/seg_2.png', {'/a': 1, '/b': 1}),
    'masks of splits': ('train/a/1.jpg train/b/2.jpg train_masks/a/1.png train_masks/b/2.png test/a/3.jpg test_masks/a/3.png', {'train/a': 1, 'train/b': 1, 'test/a': 1}),
    'ground truth': ('o/train/good*2 o/test/broken/1.png o/test/good/2.png o/ground_truth/broken/1_mask.png', {'train/good': 2, 'test/broken': 1, 'test/good': 1}),
    'faces': ('with_mask/1.jpg without_mask/1.jpg mask_worn_wrongly/1.jpg', {'/with_mask': 1, '/without_mask': 1, '/mask_worn_wrongly': 1}),
    'labels as a class': ('labels/p1.jpg boxes/b1.jpg', {'/labels': 1, '/boxes': 1}),
    'German': ('Trainingsdaten/Hund*2 Trainingsdaten/Uhu*1 Validierung/Hund*1 Testbilder/Uhu*1', {'train/Hund': 2, 'train/Uhu': 1, 'valid/Hund': 1, 'test/Uhu': 1}),
    'Korean': ('학습/개*2 학습/말*1 검증/개*1 테스트/말*1', {'train/개': 2, 'train/말': 1, 'valid/개': 1, 'test/말': 1}),
    'project': ('data/a*2 data/b*2 outputs/plot.png docs/img/logo.png', {'/a': 2, '/b': 2}),
    'project with splits': ('data/train/a*2 data/train/b*2 data/val/a*1 results_2/plot.png', {'train/a': 2, 'train/b': 2, 'valid/a': 1}),
    'test outside': ('s/s/train/a*2 s/s/train/b*2 s/s/valid/a*1 test/test*3', {'train/a': 2, 'train/b': 2, 'valid/a': 1}),
    'test outside with classes': ('s/train/a*2 s/train/b*2 test/a*1', {'train/a': 2, 'train/b': 2, 'test/a': 1}),
    'unlabelled beside': ('labeled/a*2 labeled/b*2 unlabeled*3', {'/a': 2, '/b': 2}),
    'runs of another tool': ('a*2 b*2 runs/classify/train/args.yaml runs/classify/train/results.csv runs/classify/train/loss.png env/pyvenv.cfg env/lib/x.png', {'/a': 2, '/b': 2}),
    'ground truth without pairs': ('train/good*2 test/good*1 test/broken*1 ground_truth/broken/m1.png', {'train/good': 2, 'test/good': 1, 'test/broken': 1}),
    'thumbnails': ('cats/1.jpg cats/thumbs/1.jpg dogs/2.jpg dogs/2_thumb.jpg thumbnails/cats/1.jpg thumbnails/dogs/2.jpg', {'/cats': 1, '/dogs': 1}),
}


@pytest.mark.parametrize('name', PLAIN)
def test_layouts(name, tmp_path):
    text, right = PLAIN[name]
    assert read(fill(tmp_path/'set', text)) == right


UNCLEAR = {  # folders, then for each decision what becomes of them
    'classes or groups': ('round/disc*1 round/ring*1 long/bar*1', {'*': {'/round', '/long'}, '*/*': {'/disc', '/ring', '/bar'}}, 'class'),
    'objects or defects': ('box/train/good*1 box/test/good*1 box/test/broken*1 disc/train/good*1 disc/test/good*1',
        {'*': {'train/box', 'test/box', 'train/disc', 'test/disc'}, '*/*/*': {'train/good', 'test/good', 'test/broken'}}, 'class'),
    'hospitals': ('A/sick*1 A/well*1 B/sick*1 B/well*1', {'*': {'/A', '/B'}, '*/*': {'/sick', '/well'}}, 'class'),
    'folds': ('fold_0/a*1 fold_0/b*1 fold_1/a*1 fold_1/b*1 fold_2/b*1', {'fold_0': {'test/a', 'test/b', 'train/a', 'train/b'}}, 'test'),
    'folds below': ('a/fold1*1 a/fold2*1 b/fold1*1 b/fold2*1', {'*/fold1': {'test/a', 'test/b', 'train/a', 'train/b'}}, 'test'),
    'test is a class': ('control*1 test*1', {'test': {'/control', '/test'}}, 'class'),
    'test has no labels': ('a*1 b*1 test*1', {'test': {'/a', '/b'}}, 'none'),
    'another split': ('train/a*1 train/b*1 eval/a*1 eval/b*1', {'eval': {'train/a', 'train/b', 'valid/a', 'valid/b'}}, 'valid'),
    'train is a class': ('train/steam*1 train/diesel*1 bus*1', {'train': {'/train', '/bus'}}, 'class'),
    'nothing but test': ('test_data/a*1 test_data/b*1', {'test_data': {'train/a', 'train/b'}}, 'train'),
    'a split in a split': ('train/a/test*1 train/a/x*1 train/b*1', {'train/a/test': {'train/a', 'train/b', 'test/a'}}, 'test'),
}


@pytest.mark.parametrize('name', UNCLEAR)
def test_two_readings_ask(name, tmp_path):
    "The question names each decision, and each decision is enough"
    text, answers, value = UNCLEAR[name]
    root = fill(tmp_path/'set', text)
    with pytest.raises(UserError) as asked: list_folder(root)
    for path,right in answers.items():
        quoted = f"'{path}'" if '*' in path else path
        assert f'imgclf_audit {root} --decide {quoted} folder {value}' in str(asked.value)
        decide(str(root), path, 'folder', value)
        assert set(read(root, **{path: value})) == right
        items, _ = list_folder(root, dict(folder={path: value}))
        decide(str(root), path, 'forget')


def test_questions_that_need_several_decisions(tmp_path):
    "Splits in a language without words here, folders beside the classes, and folds with splits inside"
    for i,(text,choices,right) in enumerate([
            ('nauka/a*3 nauka/b*3 sprawdzian/a*1 sprawdzian/b*1', dict(nauka='train', sprawdzian='test'), {'train/a': 3, 'train/b': 3, 'test/a': 1, 'test/b': 1}),
            ('big/a*2 big/b*2 banner*1 colours*1', dict(banner='none', colours='none'), {'/a': 2, '/b': 2}),
            ('fold0/train/a*2 fold0/train/b*2 fold0/val/a*1 fold1/train/a*2 fold1/val/b*1', dict(fold1='none'), {'train/a': 2, 'train/b': 2, 'valid/a': 1})]):
        root = fill(tmp_path/str(i), text)
        words = ' '.join(f'--decide {path} folder {value}' for path,value in choices.items())
        with pytest.raises(UserError, match=f'imgclf_audit {root} {words} +#'): list_folder(root)
        assert read(root, **choices) == right


def test_labels_that_differ_in_underscores_ask(tmp_path):
    root = fill(tmp_path/'set', 'train/no_tumor*2 train/tumor*2')
    (root/'test/no tumor').mkdir(parents=True)
    (root/'test/no tumor/9.jpg').touch()
    with pytest.raises(UserError, match='no tumor. label no_tumor'): list_folder(root)
    table, _ = list_folder(root, dict(label={'no tumor': 'no_tumor'}))
    assert set(table.label) == {'no_tumor', 'tumor'}


@pytest.mark.parametrize('text, path', [('mask hat glasses', 'mask'), ('train/mask train/hat test/mask test/hat', '*/mask'), ('thumb index', 'thumb')])
def test_masks_that_may_be_a_class_ask(text, path, tmp_path):
    root = number(tmp_path/'set', text)
    with pytest.raises(UserError, match='may be a class, or hold'): list_folder(root)
    n = len(text.split())
    assert sum(read(root, **{path: 'class'}).values()) == 3*n
    assert sum(read(root, **{path: 'none'}).values()) == 3*(n - text.count(path.split('/')[-1]))


def test_masks_used_on_purpose_share_the_group_of_their_image(tmp_path):
    root = fill(tmp_path/'set', 'ill/images/1.png ill/images/2.png ill/masks/1_mask.png ill/masks/2.png well/images/1.png well/masks/1.png')
    table, _ = list_folder(root, dict(folder={'*/masks': 'class'}))
    assert sorted(table.label) == ['images']*3 + ['masks']*3
    groups = table.groupby('group').path.agg(lambda o: sorted(os.path.relpath(p, root) for p in o))
    assert sorted(groups) == [['ill/images/1.png', 'ill/masks/1_mask.png'], ['ill/images/2.png', 'ill/masks/2.png'], ['well/images/1.png', 'well/masks/1.png']]


def test_own_results_are_no_samples(tmp_path):
    root = fill(tmp_path/'set', '''a*2 b*2 runs/one/figures/roc.png runs/leaderboard.csv runs/leaderboard.png
        audit/figures/classes.png report.html report_files/fig_1.png''')
    (root/'runs/one/run.json').write_text('{"run": "one", "notebook": "04_train", "dataset": "x"}')
    (root/'audit/audit.json').write_text('{"dataset": "x", "label_ceiling": 1.0}')
    assert read(root) == {'/a': 2, '/b': 2}
    (root/'runs/one/run.json').write_text('{"distance": 5}')  # a jogger's
    with pytest.raises(UserError, match='runs .* may be a class, or hold the results'): read(root)
    assert read(root, runs='class') == {'/a': 2, '/b': 2, '/runs': 1}
    assert read(root, runs='none') == {'/a': 2, '/b': 2}


def test_labels_that_differ_in_case_ask_once_for_all(tmp_path):
    root = fill(tmp_path/'set', 'train/Box*3 train/Disc*3 test/box*1 test/disc*1')
    with pytest.raises(UserError) as asked: list_folder(root)
    assert '--decide box label Box --decide disc label Disc  # one class' in str(asked.value)
    table, _ = list_folder(root, dict(label={'box': 'Box', 'disc': 'Disc'}))
    assert set(table.label) == {'Box', 'Disc'}
    table, _ = list_folder(root, dict(label={'box': 'box', 'disc': 'disc'}))
    assert table.label.nunique() == 4


def test_trailing_spaces_are_one_class(tmp_path):
    for name in ('disc', 'disc ', ' disc', 'box'):
        (tmp_path/'set'/name).mkdir(parents=True)
        (tmp_path/'set'/name/'1.jpg').touch()
    assert read(tmp_path/'set') == {'/disc': 3, '/box': 1}


@pytest.mark.parametrize('ending, advice', [('jxl', 'convert'), ('svg', 'PNG'), ('npy', 'PNG'), ('CR2', 'JPEG'), ('nef', 'JPEG'), ('dng', 'JPEG'), ('psd', 'export'), ('nii', 'slices')])
def test_a_class_in_a_format_that_is_not_read_stops(ending, advice, tmp_path):
    root = fill(tmp_path/'set', f'a*2 b*2 c/1.{ending} c/2.{ending}')
    with pytest.raises(UserError, match=f"(?s)Class 'c'.*2 × .*{advice}.*c folder none"): list_folder(root)
    assert read(root, c='none') == {'/a': 2, '/b': 2}
    (root/'c'/'3.jpg').touch()
    assert read(root) == {'/a': 2, '/b': 2, '/c': 1}


def test_other_files_have_a_reason_that_helps(tmp_path):
    endings = 'jxl svg npy cr2 psd pdf mp4 zip nii h5 txt csv ico part'.split()
    root = fill(tmp_path/'set', 'a*1 b*1 ' + ' '.join(f'a/x.{o}' for o in endings))
    _, passed = list_folder(root)
    reasons = {Path(o['file']).suffix[1:]: o['reason'] for o in passed}
    assert set(reasons) == set(endings)
    assert [o for o in endings if reasons[o] == 'no image'] == ['txt', 'csv']


def draw(path, **options):
    "A small image, different from all others"
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(path.name.encode(), 'big') % 2**32
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)).save(path, **options)


STRANGE = ['IMG_1234', 'a.jpg_large', 'b.jpg?w=640', 'c.jpeg.1', 'd.JPG!w', 'photo.orig', 'e.jpg;jsessionid=1']


def test_every_file_is_accounted_for(tmp_path, capsys):
    "Items, unreadable files and those passed over are together what the system counts"
    root = tmp_path/'set'
    for label in 'ab':
        for i in range(3): draw(root/label/f'{label}{i}.png')
    for name in STRANGE: draw(root/'a'/name, format='JPEG')
    fill(root, 'a/empty.jpg b/note b/Thumbs.db b/x.cr2 .hidden/1.jpg read.me')
    os.mkfifo(root/'b'/'pipe')
    os.mkfifo(root/'b'/'pipe.jpg')
    (root/'b'/'gone.jpg').symlink_to('nowhere')
    odd = os.fsencode(root/'b') + b'/\xe4.jpg'
    os.link(root/'b'/'b0.png', odd)
    decide(str(root), 'a/a0.png', 'drop')
    items = get_items(str(root))
    bad, passed = items.attrs['unreadable'], items.attrs['passed_over']
    assert len(items) + len(bad) + len(passed) == count_files(root)
    assert set(items[items.label == 'a'].file) == {'a/a1.png', 'a/a2.png', *(f'a/{o}' for o in STRANGE)}
    assert {o['file'] for o in bad} == {'a/empty.jpg', 'b/gone.jpg', 'b/?.jpg'}
    assert {o['file']: o['reason'] for o in passed}['b/pipe'] == 'no regular file'
    printed = capsys.readouterr().out
    assert f'{len(passed)} files are passed over: ' in printed and f'{len(bad)} of ' in printed
    assert 'camera raw: export it as JPEG (b/x.cr2)' in printed


def test_the_counts_outlive_the_steps_of_pandas(tmp_path):
    root = fill(tmp_path/'set', 'a/x.txt b/y.txt')
    for label in 'ab':
        for i in range(2): draw(root/label/f'{label}{i}.png')
    items = get_items(str(root))
    assert items[items.label == 'a'].reset_index(drop=True).attrs['passed_over'] is items.attrs['passed_over']


def test_a_folder_that_cannot_be_entered(tmp_path):
    "A recycle bin may be closed, a class may not"
    root = fill(tmp_path/'set', 'a*1 b*1 lost+found/1.jpg')
    (root/'lost+found').chmod(0)
    try: assert set(list_folder(root)[0].label) == {'a', 'b'}
    finally: (root/'lost+found').chmod(0o755)


def test_decisions_about_nothing_are_said(tmp_path):
    root = fill(tmp_path/'set', 'a*1 b*1')
    table, _ = list_folder(root, dict(folder={'masks': 'none'}, label={'x': 'y'}))
    assert table.attrs['notes'] == ['2 decisions are about folders or labels that do not exist, e.g. masks: they change nothing.']


def test_the_command_asks_and_takes_the_answer(tmp_path):
    "The question, then the same set with the decision, in fresh processes"
    root = tmp_path/'set'
    for folder in ('round/disc', 'round/ring', 'long/bar'):
        for i in range(3): draw(root/folder/f'{folder[-3:]}{i}.png')
    (root/'note.txt').touch()
    rc, out = command('imgclf_audit', root, '--no-labels')
    assert rc == 1 and "--decide '*/*' folder class  # classes bar, disc, ring" in out
    rc, out = command('imgclf_audit', root, '--no-labels', '--decide', '*/*', 'folder', 'class')
    assert rc == 0 and '9 images of 3 classes; 1 other file is passed over.' in out
    assert '1 file is passed over: 1 × no image (note.txt)' in out and 'Decisions used: folder 1' in out


def test_one_class_stops_the_audit(tmp_path):
    for i in range(3): draw(tmp_path/'set'/'cats'/f'{i}.png')
    rc, out = command('imgclf_audit', tmp_path/'set', '--no-labels')
    assert rc == 1 and "only one class, 'cats' (3 images)" in out


NAMES = ['train', 'test', 'val', 'a', 'b', 'images', 'masks', 'mask', 'thumbs', 'fold_0', 'fold_1', 'test_tube', '.git', '@eaDir', 'part_1',
    'part_2', 'unknown', 'labels', 'a_train', 'a_test', 'A', '7', 'Train_Data', 'x y', "it's"]
FILES = ['1.jpg', '2.jpg', '1_mask.png', 'x.txt', 'y.jxl', 'Thumbs.db', 'z']


def get_answers(question, root):
    "The decisions of each command that a question offers"
    lines = [shlex.split(line, comments=True) for line in str(question).splitlines() if line.startswith('  imgclf_audit ')]
    assert all(words[1] == str(root) for words in lines)
    return [[words[i + 1:i + 4] for i,word in enumerate(words) if word == '--decide'] for words in lines]


def settle(root, choices, pick, steps=30):
    "Answer all questions about a folder; its images by split and label, or None if it cannot be read"
    for _ in range(steps):
        try: return read(root, **choices['folder']) if not choices['label'] else list_folder(root, choices)
        except UserError as question: answers = get_answers(question, root)
        if not answers: return None
        for path,action,value in answers[pick % len(answers)]:
            assert choices[action].get(path) != value, f'{path} {action} {value} was asked twice'
            choices[action][path] = value
    raise AssertionError(f'still asked after {choices}')


def make_any(root, rng):
    "A folder with a few files, in folders whose names are drawn from a few of `NAMES`"
    names = rng.sample(NAMES, rng.randint(2, 7))
    for _ in range(rng.randint(1, 16)):
        folder = root.joinpath(*rng.choices(names, k=rng.randint(0, 4)))
        folder.mkdir(parents=True, exist_ok=True)
        (folder/rng.choice(FILES)).touch()


@pytest.mark.parametrize('tenth', range(10))
def test_any_folder_is_read_or_asked_about(tenth, tmp_path):
    "Whatever lies in a folder, each question can be answered, once, and no file is lost"
    for seed in range(20*tenth, 20*tenth + 20):
        root = tmp_path/f'set{seed}'
        root.mkdir()
        make_any(root, random.Random(seed))
        settle(root, dict(folder={}, label={}), pick=seed % 4)


def test_folders_of_patients_are_groups(tmp_path):
    "Below the classes or above them: never divided, and never classes beside others; persons who are the classes stay classes"
    rows, _ = list_folder(fill(tmp_path/'below', 'sick/patient_001*2 sick/patient_002*2 well/patient_003*2 well/patient_001*1'))
    assert set(zip(rows.label, rows.group)) == {('sick', 'patient_001'), ('sick', 'patient_002'), ('well', 'patient_003'), ('well', 'patient_001')}
    assert 'Groups: 3 folders such as patient_001' in rows.attrs['notes'][-1]
    rows, _ = list_folder(fill(tmp_path/'above', 'Subject-1/yes*2 Subject-1/no*2 Subject-2/yes*2 Subject-2/no*1'))
    assert set(zip(rows.label, rows.group)) == {(label, f'Subject-{i}') for label in ('yes', 'no') for i in (1, 2)}
    rows, _ = list_folder(fill(tmp_path/'faces', 'person_1*3 person_2*3'))
    assert set(rows.label) == {'person_1', 'person_2'} and 'group' not in rows
    rows, _ = list_folder(fill(tmp_path/'split', 'train/sick/case1*2 train/well/case2*2 test/sick/case3*1 test/well/case4*1'))
    assert set(rows.group) == {'case1', 'case2', 'case3', 'case4'} and set(rows.split) == {'train', 'test'}
