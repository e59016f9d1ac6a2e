"Tables as people write them: read as they mean it, or named with the line and what to do"
import csv, io, itertools, json, os, zipfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from imgclf_nb.core import UserError
from imgclf_nb.datasets.cards import open_set
from imgclf_nb.datasets.delimited import read_delimited
from imgclf_nb.datasets.listing import list_items
from imgclf_nb.datasets.records import apply_decisions, decide, get_decisions_path, read_decisions
from imgclf_nb.datasets.tables import list_table

N = 12


@pytest.fixture(autouse=True)
def records(tmp_path_factory, monkeypatch):
    "Decisions of these sets stay in a folder of their own"
    monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path_factory.mktemp('records')))


@pytest.fixture
def folder(tmp_path):
    "Twelve empty images: listing opens none"
    (tmp_path/'my images').mkdir()
    for i in range(N): (tmp_path/'my images'/f'{i:02}.jpg').touch()
    return tmp_path


def get_path(i): return f'my images/{i:02}.jpg'
def get_class(i): return ('cat', 'dog')[i % 2]


def write(folder, header, row, name='a.csv', encoding='utf-8', end='\n'):
    "A table with a row for each image"
    lines = [header]*(header is not None) + [row(i) for i in range(N)]
    (folder/name).write_bytes(''.join(line + end for line in lines).encode(encoding))
    return str(folder/name)


def read(folder, header, row, **options):
    "The items that such a table lists"
    return list_items(write(folder, header, row, **options))


def refused(folder, header, row, *says, **options):
    "The message for such a table"
    with pytest.raises(UserError) as e: read(folder, header, row, **options)
    for text in says: assert text in str(e.value), str(e.value)
    return str(e.value)


def is_right(items): return len(items) == N and items.label.tolist() == [get_class(i) for i in range(N)]


# The text

def test_every_separator_encoding_and_line_ending():
    encodings = ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32']
    for sign,encoding,end in itertools.product(',;\t|', encodings, ['\n', '\r\n', '\r', '\n\n']):
        text = end.join([f'path{sign}label', f'"a{sign} b"{sign}é', f'c{sign}'])
        assert read_delimited('a.csv', text.encode(encoding)).to_dict('list') == dict(path=[f'a{sign} b', 'c'], label=['é', '']), (sign, encoding, end)


@pytest.mark.parametrize('header, row', [
    ('sep=;\npath;label', '{path};{label}'), ('# a tool\n#\npath,label', '{path},{label}'), ('\n\npath,label', '{path},{label}'),
    ('path,label', '{path},{label},'), ('path,label,,', '{path},{label},,'), ('"path","label"', '"{path}","{label}"'),
    ('path , label', ' {path} , {label} '), (',path,label', '0,{path},{label}'), (None, '{path},{label}'), (None, '{label}\t{path}'),
    (None, '{path} {label}'), ('#path,label', '{path},{label}')])
def test_heads_and_ends(folder, header, row):
    assert is_right(read(folder, header, lambda i: row.format(path=get_path(i), label=get_class(i))))


def test_a_table_without_a_header_says_so(folder):
    assert 'no header: line 1' in read(folder, None, lambda i: f'{get_path(i)},{get_class(i)}').attrs['notes'][0]
    refused(folder, None, lambda i: f'{get_path(i)},{get_class(i)},1', 'Line 1 of', 'names of the 3 columns')


def test_a_comment_below_the_header(folder):
    assert is_right(read(folder, 'path,label', lambda i: f'{get_path(i)},{get_class(i)}' + '\n# later'*(i == 3)))


def test_one_comma_too_many_names_the_line(folder):
    refused(folder, 'path,label', lambda i: f'{get_path(i)},{get_class(i)}' + ',x'*(i == 3), 'line 5 has 3 values for 2 columns')
    assert is_right(read(folder, 'path,label', lambda i: f'{get_path(i)},{get_class(i)}' + ','*(i == 3)))


@pytest.mark.parametrize('cell', ['"dog', '"dog" big'])
def test_a_wrong_quotation_mark_names_the_line(folder, cell):
    refused(folder, 'path,label', lambda i: f'{get_path(i)},{cell if i == 3 else "cat"}', 'line 5 has a quotation mark')


def test_western_text_is_read_and_other_text_named(folder):
    items = read(folder, 'path,label', lambda i: f'{get_path(i)},{("café", "thé")[i % 2]}', encoding='cp1252')
    assert set(items.label) == {'café', 'thé'} and "'café' in line 2" in items.attrs['notes'][0]
    refused(folder, 'path,label', lambda i: f'{get_path(i)},кот', 'line 2', 'save the table as UTF-8', encoding='cp1251')


def make_zip(name):
    "A zip with one file"
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as archive: archive.writestr(zipfile.ZipInfo(name), 'x')  # without the time: it names the test
    return data.getvalue()


@pytest.mark.parametrize('data, what', [
    (make_zip('xl/workbook.xml'), 'an Excel workbook (xlsx)'), (make_zip('word/document.xml'), 'a Word document'), (make_zip('a.csv'), 'a zip archive'),
    (b'\xd0\xcf\x11\xe0', 'an old Excel workbook'), (b'\x1f\x8b\x08', 'a gzip archive'), (b'\xff\xd8\xff\xe0', 'a JPEG image'), (b'\x89PNG\r\n', 'a PNG image'),
    (b'<!DOCTYPE html>', 'an HTML page'), (b'\n<html>', 'an HTML page'), (b'[{"path": "a.jpg"}]', 'JSON'), (b'{\n "a": 1\n}', 'JSON'), (b'%PDF-1.7', 'a PDF'),
    (b'version https://git-lfs.github.com/spec/v1', 'a pointer of Git LFS'), (b'path\0\1\2', 'no text'), (b'PAR1 broken', 'a broken Parquet'), (b'', 'it is empty')])
def test_another_type_of_file_is_named(tmp_path, data, what):
    (tmp_path/'a.csv').write_bytes(data)
    with pytest.raises(UserError, match='(is|:) ') as e: list_items(str(tmp_path/'a.csv'))
    assert what in str(e.value)


def test_json_lines_and_parquet_are_read(folder):
    (folder/'a.jsonl').write_text(''.join(json.dumps(dict(file_name=get_path(i), label=get_class(i))) + '\n' for i in range(N)))
    assert is_right(list_items(str(folder/'a.jsonl')))
    pd.DataFrame(dict(path=[get_path(i) for i in range(N)], label=pd.Categorical([get_class(i) for i in range(N)]))).to_parquet(folder/'a.csv')
    assert is_right(list_items(str(folder/'a.csv')))
    (folder/'b.jsonl').write_text('{"path": "my images/00.jpg", "label": "a"}\n{"path":\n')
    with pytest.raises(UserError, match='line 2 is not JSON'): list_items(str(folder/'b.jsonl'))


cells = st.text(st.characters(codec='utf-8', exclude_categories=('Cc', 'Cf', 'Cs', 'Zl', 'Zp')), min_size=1, max_size=8).filter(lambda o: o.strip() and o[0] != '#')

@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5), st.sampled_from(',;\t|'), st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16']),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from(['\n', '\r\n']), st.booleans())
def test_any_text_comes_back(rows, sign, encoding, quoting, end, is_named):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=sign, quoting=quoting, lineterminator=end)
    writer.writerows([('path', 'label'), *rows])
    head = f'sep={sign}{end}' if is_named else ''
    table = read_delimited('a.csv', (head + text.getvalue()).encode(encoding))
    assert [[o.strip() for o in row] for row in table.values.tolist()] == [[o.strip() for o in row] for row in rows]


# Columns

@pytest.mark.parametrize('name', '''patient PatientID patient_id patient-id subject subject_id SubjectID case_id lesion_id study StudyInstanceUID study_uid
    series site hospital video clip_id burst_id animal_id person participant slide_id individual group Anonymized_Patient_ID'''.split() + ['Patient ID'])
def test_a_known_column_is_the_group(folder, name):
    items = read(folder, f'path,label,{name}', lambda i: f'{get_path(i)},{get_class(i)},p{i//2}')
    assert items.group.tolist() == [f'p{i//2}' for i in range(N)] and any('never divided' in o for o in items.attrs['notes'])


@pytest.mark.parametrize('value, why', [('p{i}', 'another value in every line'), ('p', 'the same value in every line')])
def test_a_column_that_groups_nothing_is_said(folder, value, why):
    items = read(folder, 'path,label,patient', lambda i: f'{get_path(i)},{get_class(i)},{value.format(i=i)}')
    assert 'group' not in items and any(why in o for o in items.attrs['notes'])


def test_the_coarsest_of_nested_columns_is_the_group(folder):
    items = read(folder, 'path,label,series,study,patient,hospital', lambda i: f'{get_path(i)},{get_class(i)},r{i//2},s{i//3},p{i//6},h{i//9}')
    assert items.group.nunique() == 2 and any('series and study inside them' in o for o in items.attrs['notes'])
    assert any('hospital' in o and 'Not used' in o for o in items.attrs['notes'])


def test_columns_that_cross_are_joined_or_asked_about(folder):
    def row(i): return f'{get_path(i)},{get_class(i)},p{i//2},clip{(i + 1)//4}'
    refused(folder, 'path,label,patient,video', row, 'patient and video', 'cross', '--decide video column none')
    items = read(folder, 'path,label,patient,visit', lambda i: f'{get_path(i)},{get_class(i)},p{i//4},{i % 4}')
    assert items.group.nunique() == 3  # visits 1, 2, 3 begin again within each patient


def test_two_hospitals_are_asked_about(folder):
    refused(folder, 'path,label,hospital', lambda i: f'{get_path(i)},{get_class(i)},h{i//6}', 'three are needed', 'hospital column none')


def test_a_decision_says_what_a_column_is(folder):
    path = write(folder, 'path,label,Patient ID,clip', lambda i: f'{get_path(i)},{get_class(i)},p{i//6},c{i//2}')
    assert list_items(path).group.nunique() == 2
    decide(path, 'patient_id', 'column', 'none')
    assert list_items(path).group.nunique() == 6
    decide(path, 'no such', 'column', 'none')
    with pytest.raises(UserError, match="column 'no such'"): list_items(path)


@pytest.mark.parametrize('column, values', [
    ('split', 'train,val,TEST'), ('Set', 'Training,Validation,Testing'), ('Usage', 'Training,PublicTest,PrivateTest'), ('data set', 'train,valid,test'), ('datasetType', 'TRAIN,DEV,TEST'),
    ('partition', 'train,val,test'), ('phase', 'train,valid,test'), ('fold', 'train,valid,test'), ('subset', 'Train_Set,val_set,Test set')])
def test_a_known_column_is_the_split(folder, column, values):
    items = read(folder, f'path,label,{column}', lambda i: f'{get_path(i)},{get_class(i)},{values.split(",")[i % 3]}')
    assert items.split.tolist() == ['train', 'valid', 'test']*4


@pytest.mark.parametrize('yes, no', [('True', 'False'), ('1', '0'), ('1.0', '0.0'), ('yes', 'no')])
def test_flags(folder, yes, no):
    items = read(folder, 'path,label,is_valid', lambda i: f'{get_path(i)},{get_class(i)},{yes if i < 4 else no}')
    assert items.split.tolist() == ['valid']*4 + ['train']*8
    items = read(folder, 'path,label,IsValid,is_test', lambda i: f'{get_path(i)},{get_class(i)},{yes if i < 4 else no},{no if i < 8 else yes}')
    assert items.split.tolist() == ['valid']*4 + ['train']*4 + ['test']*4


def test_splits_that_are_not_clear(folder):
    refused(folder, 'path,label,split', lambda i: f'{get_path(i)},{get_class(i)},{"later" if i == 4 else "train"}', "split 'later' in line 6")
    refused(folder, 'path,label,fold', lambda i: f'{get_path(i)},{get_class(i)},{i % 4}', 'the numbers 0, 1, 2, 3', 'fold column split')
    decide(str(folder/'a.csv'), 'fold', 'column', 'split')
    assert list_items(str(folder/'a.csv')).split.tolist() == ['train', 'train', 'valid', 'test']*3
    items = read(folder, 'path,label,phase', lambda i: f'{get_path(i)},{get_class(i)},{("arterial", "venous")[i % 2]}', name='b.csv')
    assert set(items.split) == {''} and items.phase[0] == 'arterial'
    items = read(folder, 'path,label,split', lambda i: f'{get_path(i)},{get_class(i)},{"test" if i < 4 else "nan"}', name='c.csv')
    assert items.split.tolist() == ['test']*4 + ['']*8


@pytest.mark.parametrize('header', ['image_id,dx', 'Image Name,Diagnosis', 'filepaths,labels', 'Path,Target', 'id,breed', 'fileName,className', 'id_code,class_id', 'img,y'])
def test_known_names_of_path_and_label(folder, header): assert is_right(read(folder, header, lambda i: f'{i:02},{get_class(i)}'))


def test_label_and_number_of_the_label(folder):
    assert is_right(read(folder, 'path,label_id,label_name', lambda i: f'{get_path(i)},{i % 2},{get_class(i)}'))
    refused(folder, 'path,label_id,label', lambda i: f'{get_path(i)},{i % 3},{get_class(i)}', 'two columns that may be the label', 'label_id column label')
    decide(str(folder/'a.csv'), 'label', 'column', 'label')
    assert is_right(list_items(str(folder/'a.csv')))


# Labels

@pytest.mark.parametrize('values, classes', [
    ('0|0.0|1|1.0', {'0', '1'}), ('True|TRUE|false|False', {'True', 'False'}), ('e\u0301|\u00e9| \u00e9 |a', {'\u00e9', 'a'}), ('cat|cat\u00a0|dog|dog ', {'cat', 'dog'}),
    ('none|minor', {'none', 'minor'}), ("['a']|['b']", {'a', 'b'}), ('Felis catus|Felis silvestris', {'Felis catus', 'Felis silvestris'})])
def test_one_class_for_one_value(folder, values, classes):
    values = values.split('|')
    assert set(read(folder, 'path,label', lambda i: f'{get_path(i)},{values[i % len(values)]}').label) == classes


@pytest.mark.parametrize('value', ['', 'nan', 'NaN', '<NA>', 'null', ' '])
def test_a_missing_label_names_the_line(folder, value):
    refused(folder, 'path,label', lambda i: f'{get_path(i)},{value if i in (3, 7) else "cat"}', 'no label in line 5', '2 in all')


@pytest.mark.parametrize('value', ['None', 'NA', 'N/A', '-', '?'])
def test_a_word_that_may_be_a_class_is_asked_about(folder, value):
    path = write(folder, 'path,label', lambda i: f'{get_path(i)},{value if i % 2 else "cat"}')
    with pytest.raises(UserError, match='6 of 12 lines'): list_items(path)
    decide(path, value, 'label', value)
    assert set(list_items(path).label) == {value, 'cat'}


@pytest.mark.parametrize('a, b', [('Disc', 'disc'), ('No Finding', 'No_Finding'), ('01', '1'), ('no  finding', 'No finding')])
def test_labels_that_look_alike_are_asked_about(folder, a, b):
    path = write(folder, 'path,label', lambda i: f'{get_path(i)},{(a, b, "2")[i % 3]}')
    with pytest.raises(UserError, match='differ only in spelling'): list_items(path)
    decide(path, b, 'label', a)
    assert list_items(path).label.nunique() == 2


@pytest.mark.parametrize('values', ['Edema+Mass+Edema|Mass', 'a+b+a;b', 'scab+rust+scab rust', "a+b+['a', 'b']", 'a+b+"a,b"', 'Mass|Edema+Edema|Nodule+Mass'])
def test_several_labels_in_a_cell_are_refused(folder, values):
    values = [o if o[0] != '[' else f'"{o}"' for o in values.split('+')]
    refused(folder, 'path,label', lambda i: f'{get_path(i)},{values[i % 3]}', 'multi-label', 'line ')


def test_several_labels_in_lines_and_columns_are_refused(folder):
    path = write(folder, 'path,label', lambda i: f'{get_path(i//2)},{get_class(i)}')
    with pytest.raises(UserError, match="two labels: 'cat' and 'dog' in the lines 2 and 3 .6 such") as e: list_items(path)
    assert 'multi-label' in str(e.value)
    refused(folder, 'path,a,b', lambda i: f'{get_path(i)},1,{int(i == 3)}', 'multi-label', 'line 5 has the labels a and b')
    refused(folder, 'path,label', lambda i: f'{get_path(i)},a' + ',b'*(i == 3), 'multi-label', 'line 5')


def test_one_column_per_class(folder):
    assert is_right(read(folder, 'image,cat,dog', lambda i: f'{i:02},{1.0 - i % 2},{float(i % 2)}'))
    refused(folder, 'path,a,b', lambda i: f'{get_path(i)},{int(i != 3)},0', 'no label in line 5')
    path = write(folder, 'path,cat,dog,male,is_valid', lambda i: f'{get_path(i)},{1 - i % 2},{i % 2},{i//6},{i//9}', name='b.csv')
    with pytest.raises(UserError, match='multi-label'): list_items(path)
    decide(path, 'male', 'column', 'none')
    assert is_right(list_items(path)) and set(list_items(path).split) == {'train', 'valid'}


# Paths

@pytest.mark.parametrize('path', ['my images\\{i:02}.jpg', ' my images/{i:02}.jpg ', './my images/{i:02}.jpg', 'my%20images/{i:02}.jpg', 'file://{here}/my images/{i:02}.jpg', 'My Images/{i:02}.JPG',
    'my images/{i:02}', '{i:02}', '{i:02}.jpg', 'C:\\Users\\me\\my images\\{i:02}.jpg', '/kaggle/input/x/my images/{i:02}.jpg', '{name}/my images/{i:02}.jpg', '{here}/my images/{i:02}.jpg'])
def test_paths_as_people_write_them(folder, path):
    items = read(folder, 'path,label', lambda i: f'{path.format(i=i, here=folder, name=folder.name)},{get_class(i)}')
    assert is_right(items) and items.file[3] == 'my images/03.jpg'


def test_a_name_with_a_backslash_is_kept(folder):
    (folder/'my images\\00.jpg').touch()
    assert read(folder, 'path,label', lambda i: 'my images\\00.jpg,a').file.tolist() == ['my images\\00.jpg'.replace('\\', os.sep if os.sep == '\\' else '\\')]


@pytest.mark.parametrize('path, says', [
    ('', 'line 5 has no path'), ('  ', 'line 5 has no path'), ('my images', 'line 5 has the folder my images'), ('https://x.org/1.jpg', 'line 5 has the URL'),
    ('my images/99.jpg', '1 of 12 files'), ('99', '(line 5)'), ('other/03.jpg', '(line 5)')])
def test_a_path_without_a_file_names_the_line(folder, path, says):
    refused(folder, 'path,label', lambda i: f'{path if i == 3 else get_path(i)},{get_class(i)}', says)


def test_a_file_elsewhere_is_never_taken_for_another(folder):
    "Only if all paths lead elsewhere, and each to one file"
    (folder/'old').mkdir()
    (folder/'old'/'99.jpg').touch()
    refused(folder, 'path,label', lambda i: f'{"99.jpg" if i == 3 else get_path(i)},a', 'do not exist')
    refused(folder, 'path,label', lambda i: f'train/{i:02}.jpg,a', 'do not exist')
    (folder/'old'/'03.jpg').touch()
    refused(folder, 'path,label', lambda i: f'{i:02},{get_class(i)}', 'line 5: 03 may be', 'old folder none')
    decide(str(folder/'a.csv'), 'old', 'folder', 'none')
    assert is_right(list_items(str(folder/'a.csv')))


def test_masks_are_no_candidates(folder):
    (folder/'masks').mkdir()
    for i in range(N): (folder/'masks'/f'{i:02}.png').touch()
    assert read(folder, 'id,label', lambda i: f'{i:02},{get_class(i)}').file[0] == 'my images/00.jpg'


@pytest.mark.parametrize('is_beside', [True, False])
def test_a_linked_table(folder, tmp_path_factory, is_beside):
    "Its paths count from where the link lies, else from where it leads"
    store, other = tmp_path_factory.mktemp('store'), tmp_path_factory.mktemp('other')
    real = write(folder, 'path,label', lambda i: f'{get_path(i)},{get_class(i)}')
    link = (folder if is_beside else other)/'labels.csv'
    if is_beside: real = os.replace(real, store/'9f86d0') or store/'9f86d0'
    link.symlink_to(real)
    items = list_items(str(link))
    assert is_right(items) and items.file[0] == 'my images/00.jpg'


def test_the_records_of_a_linked_table(folder, tmp_path_factory):
    "They stay where the file that it leads to had them; a run records the link"
    from imgclf_nb.datasets.cards import fill_recipe
    store = tmp_path_factory.mktemp('store')
    real = store/'9f86d0'
    os.replace(write(folder, 'path,label', lambda i: f'{get_path(i)},{get_class(i)}'), real)
    link = folder/'labels.csv'
    link.symlink_to(real)
    assert open_set(str(link)).key.startswith('labels-')
    assert fill_recipe(dict(dataset=str(link)))['dataset'] == str(link.parent.resolve()/'labels.csv')
    older = get_decisions_path(str(real)).parent
    older.mkdir(parents=True)
    assert open_set(str(link)).key == older.name


def test_images_beside_the_table_are_counted(folder):
    items = read(folder, 'path,label', lambda i: f'{get_path(i//2)},a')
    assert len(items) == 6 and {'6 lines of a.csv repeat an image: each counts once.', '6 images in the same folders are not in a.csv, so they are not part of the set.'} <= set(items.attrs['notes'])


def test_an_image_in_two_splits(folder):
    refused(folder, 'path,label,split', lambda i: f'{get_path(i//2)},a,{("train", "test")[i % 2]}', 'two splits')


# A table beside the images

@pytest.mark.parametrize('name', ['metadata.csv', 'metadata.jsonl'])
def test_metadata_in_train_and_test(tmp_path, name):
    for split in ('train', 'test'):
        (tmp_path/split).mkdir()
        rows = [dict(file_name=f'{i}.jpg', label=get_class(i), patient_id=f'{split}{i//2}') for i in range(4)]
        for row in rows: (tmp_path/split/row['file_name']).touch()
        if name.endswith('csv'): pd.DataFrame(rows).to_csv(tmp_path/split/name, index=False)
        else: (tmp_path/split/name).write_text(''.join(json.dumps(row) + '\n' for row in rows))
    items = list_items(str(tmp_path))
    assert items.split.tolist() == ['test']*4 + ['train']*4 and items.group.nunique() == 4 and set(items.label) == {'cat', 'dog'}


def test_folders_and_metadata(tmp_path):
    for i in range(8):
        (tmp_path/get_class(i)).mkdir(exist_ok=True)
        (tmp_path/get_class(i)/f'{i}.jpg').touch()
    def put(row): (tmp_path/'metadata.csv').write_text('\n'.join(['file_name,label,patient', *(f'{get_class(i)}/{i}.jpg,{row(i)},p{i//4}' for i in range(6))]))
    put(get_class)
    items = list_items(str(tmp_path))
    assert len(items) == 8 and items.group.nunique() == 3  # the folders list all, the table groups some
    put(lambda i: get_class(i//2))
    with pytest.raises(UserError, match='name different classes'): list_items(str(tmp_path))
    decide(str(tmp_path), 'label', 'column', 'none')
    assert len(list_items(str(tmp_path))) == 8
    decide(str(tmp_path), 'label', 'column', 'label')
    items = list_items(str(tmp_path))
    assert len(items) == 6 and items.attrs['passed_over']


def test_a_metadata_table_of_something_else_changes_nothing(tmp_path):
    for i in range(4):
        (tmp_path/get_class(i)).mkdir(exist_ok=True)
        (tmp_path/get_class(i)/f'{i}.jpg').touch()
    for text in ('key,value\nauthor,me\n', 'id,label\n77,x\n', 'no table "at" all\n"'):
        (tmp_path/'metadata.csv').write_text(text)
        items = list_items(str(tmp_path))
        assert items.label.tolist() == ['cat', 'cat', 'dog', 'dog'] and any('is not used' in o for o in items.attrs['notes'])


# Decisions

def test_decisions_from_windows(folder):
    path = write(folder, 'path,label', lambda i: f'{get_path(i)},{get_class(i)}')
    file = get_decisions_path(path)
    file.parent.mkdir(parents=True)
    lines = ['path;action;value;reason', 'my images\\00.jpg;drop;;blurred', ';;;', '', 'My Images/01.JPG;DROP;;"no; really"', './my images/02.jpg ;relabel;dog;', 'gone.jpg;drop;;']
    file.write_bytes(('\r\n'.join(lines) + '\r\n').encode('utf-8-sig'))
    items, used = apply_decisions(list_items(path), read_decisions(path))
    assert (used['drop'], used['relabel'], used['missing']) == (2, 1, ['gone.jpg']) and len(items) == N - 2
    file.write_text('path,action,value,reason\na.jpg,drop,,\n\nb.jpg,throw,,\n')
    with pytest.raises(UserError, match='line 4'): read_decisions(path)


def test_list_table_hands_on_the_line_and_other_columns(folder):
    rows, passed_over = list_table(write(folder, 'path,label,camera,group', lambda i: f'{get_path(i)},{get_class(i)},c{i % 3},{i//2}'))
    assert rows.camera.nunique() == 3 and rows.group.nunique() == 6 and passed_over == []


@pytest.mark.parametrize('header', ['Dateiname;Klasse', 'fichier;catégorie', 'archivo;clase', '文件名;标签', 'image;has_stripes'])
def test_other_languages_and_a_single_column_that_may_be_the_label(folder, header):
    assert is_right(read(folder, header, lambda i: f'{get_path(i)};{get_class(i)}'))


def test_a_split_in_german(folder):
    items = read(folder, 'Datei,Klasse,Teil', lambda i: f'{get_path(i)},{get_class(i)},{"Trainingsdaten" if i < 8 else "Testdaten"}')
    assert items.split.tolist() == ['train']*8 + ['test']*4


@pytest.mark.parametrize('name', ['hospital_patient_id', 'Patientennummer', 'ptid', 'patient id number', 'Proband', 'paciente_id', '患者'])
def test_more_names_of_a_patient(folder, name):
    items = read(folder, f'path,label,{name}', lambda i: f'{get_path(i)},{get_class(i)},p{i//3}')
    assert items.group.nunique() == 4


def test_questions_about_columns_have_a_command_that_settles_them(folder):
    "A flag beside one-hot classes, and a column of splits with other words"
    for name,header,row in [
            ('male', 'path,cat,dog,male', lambda i: f'{get_path(i)},{1 - i%2},{i%2},{int(i > 5)}'),
            ('split', 'path,label,split', lambda i: f'{get_path(i)},{get_class(i)},{"TVE"[i%3]}')]:
        path = write(folder, header, row)
        with pytest.raises(UserError, match=f'imgclf_audit {path} --decide {name} column none'): list_items(path)
        decide(path, name, 'column', 'none')
        assert is_right(list_items(path))
        decide(path, name, 'forget')


def test_any_table_beside_the_folders_that_names_patients(tmp_path):
    files = [f'{get_class(i)}/{i}.jpg' for i in range(N)]
    for file in files:
        (tmp_path/file).parent.mkdir(exist_ok=True)
        (tmp_path/file).touch()
    lines = [f'{Path(file).name};P{i//3};{i%5}' for i,file in enumerate(files)]
    (tmp_path/'clinical.csv').write_text('\n'.join(['Image name;Patient ID;fold', *lines]))
    (tmp_path/'other.csv').write_text('a,b\n1,2')
    items = list_items(str(tmp_path))
    assert items.group.nunique() == 4 and set(items.split) == {''}
    assert items.attrs['notes'] == ['Read too: clinical.csv', 'Groups: column Patient ID (4 values): never divided.']
