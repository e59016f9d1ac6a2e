"Archives: whatever is damaged or hostile in them, either every file arrives unchanged or none does"
import bz2
import gzip
import io
import json
import lzma
import random
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conftest import ROOT
from imgclf_nb.core import UserError
from imgclf_nb.data import get_items
from imgclf_nb.datasets.archives import unpack, unpack_parquet
from imgclf_nb.datasets.table_files import read_table_file

FILES = {f'{label}/{i:03}.jpg': random.Random(f'{label}{i}').randbytes(300 + 7*i)
    for label in ('cat', 'dog') for i in range(50)}
PACK = dict(gz=gzip.compress, bz2=bz2.compress, xz=lzma.compress)


def make_tar(files, format=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=format) as archive:
        for name,data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return out.getvalue()


def make_zip(files, method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', method) as archive:
        for name,data in files.items(): archive.writestr(name, data)
    return out.getvalue()


def read_back(folder, data, **limits):
    "All files of an archive with these bytes, or the sentence with which it is refused"
    path = folder/'set.archive'
    path.write_bytes(data)
    try: unpacked = unpack(path, folder/'set', **limits)
    except UserError as error:
        assert not (folder/'set').exists() and not list(folder.glob('.*')), 'something is left'
        return str(error)
    found = {file.relative_to(unpacked).as_posix(): file.read_bytes()
        for file in unpacked.rglob('*') if file.is_file()}
    unpacked.rename(folder/f'done{len(list(folder.iterdir()))}')
    return found


def flip(data, place, bit=0):
    data = bytearray(data)
    data[place] ^= 1 << bit
    return bytes(data)


def get_headers(data):
    "Where the headers of a tar's members begin"
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [member.offset for member in archive.getmembers()]


# ---- tar

@pytest.mark.parametrize('format', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_bit_in_the_header_of_any_file_of_a_tar(tmp_path, format):
    "The 11th header of 100 was the end: 10 files, and no word"
    whole = make_tar(FILES, format)
    assert read_back(tmp_path, whole) == FILES
    for i,start in enumerate(get_headers(whole)):
        damaged = flip(whole, start + (i*13) % 500, i % 8)
        says = 'a header is damaged' if i else 'no zip and no tar archive'
        assert says in read_back(tmp_path, damaged), i


def test_an_overwritten_header_of_a_tar(tmp_path):
    "A block of zeros is the end of a tar, wherever a disk puts it"
    whole = make_tar(FILES)
    for start in get_headers(whole)[::9]:
        damaged = whole[:start] + bytes(512) + whole[start + 512:]
        says = 'other data follow its closing block' if start else 'cannot be unpacked'
        assert says in read_back(tmp_path, damaged)


@pytest.mark.parametrize('end,says', [
    (0, 'without its closing block'), (1, 'header is damaged'), (512, None), (700, None)])
def test_a_tar_that_ends_early(tmp_path, end, says):
    whole = make_tar(FILES)
    files_end = get_headers(whole + b'')[-1] + 512 + 1024
    got = read_back(tmp_path, whole[:files_end + end])
    assert got == FILES if says is None else says in got
    for cut in (513, 1000, files_end//2):
        assert 'cannot be unpacked' in read_back(tmp_path, whole[:files_end - cut])


def test_what_follows_the_end_of_a_tar(tmp_path):
    one, two = make_tar(dict(list(FILES.items())[:50])), make_tar(dict(list(FILES.items())[50:]))
    assert 'other data follow' in read_back(tmp_path, one + two)
    assert 'other data follow' in read_back(tmp_path, one + b'x')
    assert len(read_back(tmp_path, one + bytes(5000))) == 50
    for pack in PACK.values():
        assert 'other data follow' in read_back(tmp_path, pack(one) + pack(two))
        assert 'other data follow' in read_back(tmp_path, pack(one) + b'<html>')
        half = len(one)//2
        assert len(read_back(tmp_path, pack(one[:half]) + pack(one[half:]))) == 50


@pytest.mark.parametrize('end', ['gz', 'bz2', 'xz'])
def test_any_byte_of_a_compressed_tar(tmp_path, end):
    "What has a checksum arrives unchanged, or not at all; wrong CRCs at the end were not read"
    whole = PACK[end](make_tar(FILES))
    places = [*range(0, len(whole), len(whole)//25), *range(len(whole) - 20, len(whole))]
    for place in places:
        got = read_back(tmp_path, flip(whole, place, place % 8))
        assert isinstance(got, str) or got == FILES, f'byte {place}: {len(got)} files'
    for cut in (1, 4, 8, 12, len(whole)//2):
        assert 'cannot be unpacked' in read_back(tmp_path, whole[:-cut]), cut
    assert 'cannot be unpacked' in read_back(tmp_path, flip(whole, len(whole) - 6))


def announce(name, size, kind=tarfile.REGTYPE, data=b'', attributes={}):
    "A tar with one header that announces a size, and these bytes"
    header = tarfile.TarInfo(name)
    header.size, header.type, header.pax_headers = size, kind, attributes
    data += bytes(-len(data) % 512)
    return header.tobuf(tarfile.PAX_FORMAT) + data + bytes(1024)


def test_sizes_that_a_tar_announces(tmp_path):
    assert 'unexpected end of data' in read_back(tmp_path, announce('1.jpg', 5000))
    assert 'more than' in read_back(tmp_path, announce('1.jpg', 10**14))
    assert 'header' in read_back(tmp_path, announce('1.jpg', 512, attributes=dict(size='-1024')))
    first = announce('0.jpg', 0)[:512]
    long = first + announce('x', 1 << 30, tarfile.GNUTYPE_LONGNAME)
    assert 'announces 1,073,741,824 bytes' in read_back(tmp_path, long)
    many = make_tar({str(i): b'' for i in range(30)})
    assert 'more than 20 files' in read_back(tmp_path, many, max_files=20)
    assert 'more than 29 bytes' in read_back(tmp_path, make_tar({'1': bytes(30)}), max_bytes=29)


def test_a_sparse_file_is_counted(tmp_path):
    "A terabyte of holes in a kilobyte"
    sparse = {'GNU.sparse.major': '0', 'GNU.sparse.minor': '1', 'GNU.sparse.name': '1.jpg',
        'GNU.sparse.map': '0,512', 'GNU.sparse.size': str(10**12)}
    got = read_back(tmp_path, announce('1.jpg', 512, data=bytes(512), attributes=sparse))
    assert 'unpacks to more than 67,108,864 bytes' in got
    sparse['GNU.sparse.size'] = '2000'
    got = read_back(tmp_path, announce('1.jpg', 512, data=b'x'*512, attributes=sparse))
    assert got == {'1.jpg': b'x'*512 + bytes(1488)}


@pytest.mark.parametrize('end', ['gz', 'bz2', 'xz'])
def test_a_compressed_bomb_ends_at_the_limit(tmp_path, end):
    "A file of zeros, a header of zeros, and zeros behind the end: neither memory nor disk is filled"
    zeros = bytes(80 << 20)
    tracemalloc.start()
    inner = make_tar({'1.jpg': zeros})
    packed = PACK[end](inner)
    del inner
    tracemalloc.reset_peak()
    assert 'unpacks to more than' in read_back(tmp_path, packed)
    assert tracemalloc.get_traced_memory()[1] < 80 << 20
    tracemalloc.stop()
    behind = PACK[end](make_tar({'1.jpg': b'1'}) + zeros)
    assert 'unpacks to more than' in read_back(tmp_path, behind, max_files=100)


# ---- zip

def get_parts(data):
    "`(local files, entries of the table, end)` of a zip, as bytes"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start, n = archive.start_dir, len(archive.infolist())
    end = data.rindex(b'PK\5\6')
    table = [b'PK\1\2' + part for part in data[start:end].split(b'PK\1\2')[1:]]
    assert len(table) == n
    return data[:start], table, data[end:]


def join(files, table, announced=None, comment=b''):
    "A zip of these parts, whose end fits them"
    n = len(table) if announced is None else announced
    body = b''.join(table)
    end = struct.pack('<4s4H2LH', b'PK\5\6', 0, 0, n % 65536, n % 65536, len(body), len(files), len(comment))
    return files + body + end + comment


def test_what_a_zip_announces(tmp_path):
    "A zip that announces 6 files and lists one unpacked one"
    some = dict(list(FILES.items())[:6])
    files, table, _ = get_parts(make_zip(some))
    assert read_back(tmp_path, join(files, table)) == some
    assert 'announces 6 files and lists 1' in read_back(tmp_path, join(files, table[:1], 6))
    assert 'announces 1 files and lists 6' in read_back(tmp_path, join(files, table, 1))
    for i in range(6):
        got = read_back(tmp_path, join(files, table[:i] + table[i + 1:]))
        assert 'table of contents does not list the file at byte' in got, i
    assert read_back(tmp_path, join(files, table, comment=b'made by hand')) == some
    assert 'holds no files' in read_back(tmp_path, make_zip({}))


def test_two_zips_in_one(tmp_path):
    one, two = make_zip(dict(list(FILES.items())[:3])), make_zip(dict(list(FILES.items())[3:6]))
    assert 'does not list the file at byte 0' in read_back(tmp_path, one + two)
    assert 'does not list the file at byte' in read_back(tmp_path, one + two[:-30])
    assert 'other bytes lie before it' in read_back(tmp_path, b'HTTP/1.1 200 OK\r\n\r\n' + one)
    assert len(read_back(tmp_path, b'#!/bin/sh\nexit 0\n' + one)) == 3
    tar = make_tar({'1.jpg': b'1', 'inner.zip': one})
    assert set(read_back(tmp_path, tar)) == {'1.jpg', 'inner.zip'}  # and not the three of the zip


def test_entries_of_a_zip_that_overlap(tmp_path):
    files, table, _ = get_parts(make_zip({'1.jpg': bytes(5000), '2.jpg': bytes(5000)}))
    twice = table[0][:42] + table[1][42:46] + table[0][46:]
    assert 'files overlap' in read_back(tmp_path, join(files, [twice, table[1]]))
    longer = table[0][:20] + struct.pack('<L', 10**6) + table[0][24:]
    assert 'overlap' in read_back(tmp_path, join(files, [longer, table[1]]))


def test_sizes_that_a_zip_announces(tmp_path):
    files, table, _ = get_parts(make_zip({'1.jpg': b'1'*5000}))
    for size in (4999, 5001, 0):
        wrong = table[0][:24] + struct.pack('<L', size) + table[0][28:]
        assert 'cannot be unpacked' in read_back(tmp_path, join(files, [wrong])), size


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_any_byte_of_a_zip(tmp_path, method):
    "Every file arrives with its bytes, or none does; names in tables and headers must agree"
    some = {name: data[:90] for name,data in list(FILES.items())[:5]}
    whole = make_zip(some, method)
    lost = {}
    for place in range(0, len(whole), 5):
        got = read_back(tmp_path, flip(whole, place, place % 8))
        if not isinstance(got, str) and got != some: lost[place] = got.keys() ^ some.keys()
    assert not lost


def test_a_zip_of_more_files_than_two_bytes_count(tmp_path):
    many = make_zip({f'{i}': b'' for i in range(65_600)}, zipfile.ZIP_STORED)
    files, table, _ = get_parts(make_zip({'1.jpg': b'1'}))
    assert 'more than 9 files' in read_back(tmp_path, many, max_files=9)
    assert 'announces 0 files and lists 1' in read_back(tmp_path, join(files, table, 0))


# ---- names

@pytest.mark.parametrize('make', [make_zip, make_tar])
def test_names_that_some_disks_take_for_one(tmp_path, make, monkeypatch):
    "This disk keeps them apart; one that does not would join two classes or lose an image"
    both = {'Cat/1.jpg': b'1', 'cat/2.jpg': b'2', 'caf\u00e9.jpg': b'3', 'cafe\u0301.jpg': b'4'}
    assert read_back(tmp_path, make(both)) == both
    monkeypatch.setattr('imgclf_nb.datasets.archives.os.path.lexists', lambda path: True)
    assert "'Cat' and 'cat', which this disk takes for one name" in read_back(tmp_path, make(both))
    assert read_back(tmp_path, make(dict(list(both.items())[:1]))) == {'Cat/1.jpg': b'1'}


@pytest.mark.parametrize('names', [['a', 'a/b.jpg'], ['a/b.jpg', 'a']])
def test_a_file_and_a_folder_of_one_name(tmp_path, names):
    assert 'as a file and as a folder' in read_back(tmp_path, make_tar(dict.fromkeys(names, b'1')))


# ---- parquet

def write_parquet(path, rows, names=None, **options):
    features = dict(label=dict(_type='ClassLabel', names=names)) if names else {}
    about = {'huggingface': json.dumps(dict(info=dict(features=features)))}
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(about), path, **options)
    return path


def make_row(data, label='cat', path='1.png'): return dict(image=dict(bytes=data, path=path), label=label)


def test_a_small_parquet_writes_no_more_than_a_zip(tmp_path):
    "1,794 bytes wrote 300 MB"
    bomb = write_parquet(tmp_path/'a.parquet', [make_row(bytes(3 << 20))]*100, compression='zstd')
    assert bomb.stat().st_size < 5000
    with pytest.raises(UserError, match='unpack to more than 67,108,864 bytes'):
        unpack_parquet([bomb], tmp_path/'out')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.parquet']


MEMORY = """
import resource, sys
from pathlib import Path
from imgclf_nb.core import UserError
from imgclf_nb.datasets.archives import unpack_parquet
import pyarrow.parquet
def get_peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
for name in sys.argv[1:]:
    before = get_peak()
    try: unpack_parquet([Path(name)], Path(name).with_suffix(''))
    except UserError as error: print(get_peak() - before, error)
"""

def test_a_parquet_bomb_fills_no_memory(tmp_path):
    "A value of 100 MB is not read at all, and one of 20 MB in 30 rows is in memory once"
    files = [write_parquet(tmp_path/f'{n}.parquet', [make_row(bytes(size << 20))]*n, compression='zstd')
        for size,n in ((100, 1), (20, 30))]
    run = subprocess.run([sys.executable, '-c', MEMORY, *files], cwd=ROOT, capture_output=True,
        text=True, check=True)
    one, many = run.stdout.splitlines()
    assert 'unpacks to 104,' in one and int(one.split()[0]) < 50, one
    assert 'more than 67,108,864' in many and int(many.split()[0]) < 200, many


def test_images_in_parquet_have_the_limits_of_images(tmp_path, monkeypatch):
    out = io.BytesIO()
    Image.new('1', (20_000, 12_000)).save(out, 'png')
    rows = [make_row(out.getvalue()), make_row(PNG, 'dog', '2.png'), make_row(PNG, 'cat', '3.png')]
    path = write_parquet(tmp_path/'a.parquet', rows)
    items = get_items(str(unpack_parquet([path], tmp_path/'out')))
    assert len(items) == 2 and 'larger than 178,956,970 pixels' in items.attrs['unreadable'][0]['reason']
    with pytest.raises(UserError, match='more than 1 images'):
        unpack_parquet([path], tmp_path/'more', max_files=1)
    monkeypatch.setattr('imgclf_nb.datasets.archives.MAX_BYTES', 10)
    with pytest.raises(UserError, match='an image of .* bytes, more than 10'):
        unpack_parquet([path], tmp_path/'more')


PNG = io.BytesIO()
Image.new('L', (40, 30)).save(PNG, 'png')
PNG = PNG.getvalue()

@pytest.mark.parametrize('label,says', [(2, 'the label 2, but names only 2 classes'), (-2, 'label -2')])
def test_a_label_that_has_no_name(tmp_path, label, says):
    "-2 was the last class but one"
    path = write_parquet(tmp_path/'a.parquet', [make_row(PNG, 0), make_row(PNG, label)], ['cat', 'dog'])
    with pytest.raises(UserError, match=says): unpack_parquet([path], tmp_path/'out')


def test_a_damaged_parquet_is_a_sentence(tmp_path):
    rows = [make_row(PNG, path=f'{i}.png') for i in range(30)]
    options = dict(write_page_checksum=True, compression='none', use_dictionary=False)
    whole = write_parquet(tmp_path/'a.parquet', rows, **options).read_bytes()
    for place in range(0, len(whole), len(whole)//90):
        path = tmp_path/f'{place}.parquet'
        path.write_bytes(flip(whole, place, place % 8))
        try: out = unpack_parquet([path], tmp_path/f'{place}')
        except UserError as error: assert f'{place}.parquet' in str(error)
        else: assert all(file.read_bytes() == PNG for file in out.rglob('*.png')), place
    path.write_bytes(b'PAR1')
    with pytest.raises(UserError, match='cannot be read'): unpack_parquet([path], tmp_path/'out')


def test_a_table_of_images_is_not_read_to_be_refused(tmp_path, monkeypatch):
    "Reading it all took the memory of all images"
    path = write_parquet(tmp_path/'a.parquet', [make_row(PNG)])
    monkeypatch.setattr(pq, 'read_table', lambda *_, **__: 1/0)
    with pytest.raises(UserError, match='holds the images themselves'): read_table_file(path)
    monkeypatch.setattr('imgclf_nb.datasets.table_files.MAX_TABLE', 10**6)
    for n,says in ((1, 'unpacks to 1,2'), (200, 'unpacks to more than 1,000,000 bytes')):
        rows = [dict(path='1.png', label='x'*(1_200_000//n))]*n
        pq.write_table(pa.Table.from_pylist(rows), path, compression='zstd')
        with pytest.raises(UserError, match=says): read_table_file(path)


def test_a_program_that_unpacks_itself_may_compare_with_the_signature(tmp_path):
    code = b'\x81\x3d' + b'PK\3\4' + b'\x75\x10\x8b\x45\xfc\x50\xe8'  # cmp dword [x], 0x04034b50; jne
    data = b'MZ' + bytes(500) + code + bytes(500) + make_zip(FILES)
    assert read_back(tmp_path, data) == FILES


@pytest.mark.parametrize('kind', ['binary', 'large_binary', 'binary_view'])
def test_images_are_found_whatever_kind_of_bytes_the_writer_chose(kind, tmp_path):
    data = [FILES[f'cat/{i:03}.jpg'] for i in range(9)]
    images = pa.StructArray.from_arrays([pa.array(data, getattr(pa, kind)()), pa.array(['']*9)], ['bytes', 'path'])
    pq.write_table(pa.table(dict(image=images, label=['cat']*9)), tmp_path/'a.parquet')
    folder = unpack_parquet([tmp_path/'a.parquet'], tmp_path/'set')
    assert sorted(file.read_bytes() for file in (folder/'cat').iterdir()) == sorted(data)


def test_several_labels_for_an_image_are_a_sentence(tmp_path):
    image = dict(bytes=FILES['cat/000.jpg'], path='')
    pq.write_table(pa.table(dict(image=[image], label=[['cat', 'dog']])), tmp_path/'a.parquet')
    with pytest.raises(UserError, match='several labels'): unpack_parquet([tmp_path/'a.parquet'], tmp_path/'set')
