"Data that people really have: each fault gets a sentence, nothing is dropped in silence"
import os
import numpy as np, pandas as pd, pytest
from PIL import Image

from imgclf_nb.core import UserError
from imgclf_nb.data import get_items
from imgclf_nb.images.preprocessing import Preprocessing
from imgclf_nb.splitting import get_splits


def fill(folder, classes, n=6, size=24):
    "Class folders of `n` noise images each"
    rng = np.random.default_rng(0)
    for c in classes:
        (folder/c).mkdir(parents=True, exist_ok=True)
        for i in range(n): Image.fromarray(rng.integers(0, 255, (size,size,3), np.uint8)).save(folder/c/f'{i}.png')
    return folder


def refused(f, says):
    with pytest.raises(UserError) as e: f()
    sentence = str(e.value).partition('Decide with one of these')[0]  # commands that settle it follow, one a line
    assert says in sentence and '\n' not in sentence, str(e.value)


def test_an_empty_folder(tmp_path): refused(lambda: get_items(str(tmp_path)), 'no images')
def test_a_folder_of_other_files(tmp_path):
    (tmp_path/'a').mkdir(); (tmp_path/'a'/'x.txt').write_text('x'); (tmp_path/'README').touch()
    refused(lambda: get_items(str(tmp_path)), 'no images')
def test_one_class(tmp_path): refused(lambda: get_splits(get_items(str(fill(tmp_path, ['cat'])))), 'only one class')
def test_a_class_with_one_picture(tmp_path):
    fill(tmp_path, ['cat', 'dog']); fill(tmp_path, ['emu'], 1)
    refused(lambda: get_splits(get_items(str(tmp_path))), "'emu' has 1 image ")


def test_broken_files_are_named_and_counted(tmp_path, capsys):
    fill(tmp_path, ['cat', 'dog'])
    whole = (tmp_path/'cat'/'0.png').read_bytes()
    Image.open(tmp_path/'cat'/'0.png').save(tmp_path/'cat'/'whole.jpg')
    jpg = (tmp_path/'cat'/'whole.jpg').read_bytes()
    for name,data in (('zero.jpg', b''), ('cut.jpg', jpg[:len(jpg)*2//3]), ('text.jpg', b'<html>'), ('cut.png', whole[:300])): (tmp_path/'dog'/name).write_bytes(data)
    items = get_items(str(tmp_path))
    bad = {r['file']: r['reason'] for r in items.attrs['unreadable']}
    assert set(bad) == {'dog/zero.jpg', 'dog/cut.jpg', 'dog/text.jpg', 'dog/cut.png'} and len(items) == 13
    out = capsys.readouterr().out
    assert '4 of 17' in out and all(name in out for name in bad)
    refused(lambda: get_items(str(tmp_path), strict=True), 'cannot be read')


def test_names_in_any_script(tmp_path):
    names = ['grüne Äpfel', '🎸', '葡萄', 'a,b;"c"', 'tab le']
    items = get_splits(get_items(str(fill(tmp_path/'my images', names))))
    assert set(items.label) == set(names) and (items.groupby('label').split.nunique() == 3).all()


def test_ten_thousand_pixels(tmp_path):
    Image.new('L', (10_000, 10_000), 7).save(tmp_path/'huge.png')
    assert Preprocessing(size=32)(tmp_path/'huge.png').shape == (3,32,32)


def test_links_in_a_loop(tmp_path):
    fill(tmp_path, ['cat', 'dog'])
    os.symlink(tmp_path, tmp_path/'cat'/'loop'); os.symlink(tmp_path/'dog', tmp_path/'eland')
    assert get_items(str(tmp_path)).label.value_counts()['eland'] == 6


@pytest.mark.parametrize('text, says', [('path,kind\ncat/0.png,cat\n', 'no label column'), ('path,label\ncat/9.png,cat\n', 'do not exist'), ('path,label\ncat/0.png,\n', 'no label in line 2'),
                                        ('path,label,split\ncat/0.png,cat,later\n', "split 'later'"), ('', 'cannot be read as a CSV')])
def test_csv(tmp_path, text, says):
    fill(tmp_path, ['cat'])
    (tmp_path/'a.csv').write_text(text)
    refused(lambda: get_items(str(tmp_path/'a.csv')), says)


def test_a_csv_decides_the_split_and_keeps_its_columns(tmp_path):
    fill(tmp_path, ['cat', 'dog'])
    rows = [(f'{c}/{i}.png', c, ['training','training','val','val','test','test'][i], f'p{i}') for c in ('cat','dog') for i in range(6)]
    pd.DataFrame(rows, columns=['filename','class','split','camera']).to_csv(tmp_path/'a.csv', index=False)
    items = get_splits(get_items(str(tmp_path/'a.csv')))
    assert items.groupby('split').size().to_dict() == dict(train=4, valid=4, test=4) and 'camera' in items


def test_a_csv_that_repeats_a_picture(tmp_path, capsys):
    fill(tmp_path, ['cat', 'dog'])
    lines = [f'{c}/{i}.png,{c}' for c in ('cat','dog') for i in range(6)]
    (tmp_path/'a.csv').write_text('\n'.join(['path,label', *lines, lines[0], lines[3]]))
    assert len(get_items(str(tmp_path/'a.csv'))) == 12 and '2 lines' in capsys.readouterr().out
    (tmp_path/'b.csv').write_text('\n'.join(['path,label', *lines, 'cat/0.png,dog']))
    refused(lambda: get_items(str(tmp_path/'b.csv')), 'two labels')


@pytest.mark.parametrize('text, n', [('filename,path,label\nx,cat/0.png,cat\nx,dog/0.png,dog\n', 2), ('path,class,label\ncat/0.png,x,cat\n', 1), ('path;label\ncat/0.png;a, b, c\n', 1),
                                     ('path,label\ncat/0.png,cat,\n', 1), ('path,label,split\ncat/0.png, cat , test \n', 1), ('path,label,sequence,frame\ncat/0.png,cat,s,f1\n', 1),
                                     ('path,label,sequence\ncat/0.png,cat,s\n', 1)])
def test_csv_as_people_write_it(tmp_path, text, n):
    fill(tmp_path, ['cat', 'dog'])
    (tmp_path/'a.csv').write_text(text)
    items = get_items(str(tmp_path/'a.csv'))
    assert len(items) == n and items.label[0] in ('cat', 'a, b, c')


def test_a_header_alone(tmp_path):
    (tmp_path/'a.csv').write_text('path,label\n')
    refused(lambda: get_items(str(tmp_path/'a.csv')), 'no lines')


def test_split_folders_are_no_classes(tmp_path):
    fill(tmp_path, ['train', 'test'])
    refused(lambda: get_items(str(tmp_path)), 'no training folder with class folders')


def test_here_is_here_and_not_the_data_root(tmp_path, monkeypatch):
    fill(tmp_path, ['cat', 'dog'])
    monkeypatch.chdir(tmp_path)
    assert set(get_items('.').label) == {'cat', 'dog'}
    refused(lambda: get_items(''), 'empty')


def test_a_passing_fault_is_not_remembered(tmp_path, monkeypatch):
    from pathlib import Path
    fill(tmp_path, ['cat', 'dog'])
    read = Path.read_bytes
    def faulty(p):
        if p.name == '3.png': raise OSError(5, 'Input/output error')
        return read(p)
    monkeypatch.setattr(Path, 'read_bytes', faulty)
    assert len(get_items(str(tmp_path))) == 10
    monkeypatch.undo()
    assert len(get_items(str(tmp_path))) == 12


def test_a_class_that_cannot_be_read_at_all(tmp_path):
    fill(tmp_path, ['cat', 'dog', 'emu'])
    for p in (tmp_path/'emu').iterdir(): p.write_bytes(b'')
    refused(lambda: get_items(str(tmp_path)), "Class 'emu' has no image that can be read")


def test_names_that_are_not_utf8(tmp_path):
    fill(tmp_path, ['cat', 'dog'])
    try: os.rename(tmp_path/'cat'/'0.png', os.fsencode(tmp_path/'cat') + b'/\xe9t\xe9.png')
    except OSError: pytest.skip('this file system takes UTF-8 names only')
    items = get_items(str(tmp_path))
    assert len(items) == 11 and 'not UTF-8' in items.attrs['unreadable'][0]['reason']


def test_a_users_folder_is_not_taken_for_a_miniature(tmp_path):
    from imgclf_nb.datasets.miniatures import get_miniature
    (tmp_path/'pc_parts_mini').mkdir(); (tmp_path/'pc_parts_mini'/'precious.txt').write_text('x')
    refused(lambda: get_miniature('pc_parts_mini', tmp_path), 'is not a miniature')
    assert (tmp_path/'pc_parts_mini'/'precious.txt').exists() and len(list(tmp_path.iterdir())) == 1


def test_large_groups_do_not_swallow_a_split():
    "Any seed, groups of very different sizes: no group divided, every split has something, training keeps most"
    for sizes in ([30,3,3], [20,5,5,5], [30,3,3,3,3,3], [40]+[4]*10):
        rows = [(f'{c}/{g}/{i}', c, f'{c}{g}') for c in 'ab' for g,n in enumerate(sizes) for i in range(n)]
        items = pd.DataFrame(rows, columns=['file','label','group']).assign(split='', sequence='', frame=-1)
        for seed in range(20):
            s = get_splits(items, seed=seed)
            assert s.groupby('group').split.nunique().max() == 1 and (s.groupby('label').split.nunique() == 3).all() and (s.split == 'train').mean() > .5


def test_splitting_many_pictures_is_quick():
    import time
    n = 100_000
    items = pd.DataFrame(dict(file=[f'{i}.jpg' for i in range(n)], label=[f'c{i%20}' for i in range(n)], group='', split='', sequence='', frame=-1))
    t0 = time.process_time()
    s = get_splits(items)
    assert time.process_time() - t0 < 60 and abs((s.split == 'test').mean() - .2) < .01


def test_an_unknown_set_is_never_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv('IMGCLF_DATA', str(tmp_path))
    refused(lambda: get_items('chest_xray'), 'chest_xray_mini is a synthetic stand-in')
    refused(lambda: get_items('chest_xrai'), 'Did you mean')


def test_the_data_root_is_only_read(tmp_path, monkeypatch):
    fill(tmp_path/'pc_parts', ['cat', 'dog'])
    monkeypatch.setenv('IMGCLF_DATA', str(tmp_path))
    before = sorted(tmp_path.rglob('*'))
    get_splits(get_items('pc_parts'))
    assert sorted(tmp_path.rglob('*')) == before
