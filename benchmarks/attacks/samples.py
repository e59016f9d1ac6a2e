"""Small images and archives that are attacked; everything is drawn here"""
import bz2, gzip, io, lzma, tarfile, zipfile

from PIL import Image

CLASSES = ('cat', 'dog')


def draw(number, side=32, kind='jpeg', mode='RGB', **options):
    "The bytes of a small image, another one for each number"
    im = Image.linear_gradient('L').rotate(37*number).resize((side, side))
    red = Image.radial_gradient('L').rotate(90*number).resize((side, side))
    blue = Image.new('L', im.size, 20*number % 256)
    im = Image.merge('RGB', (im, red, blue)).convert(mode)
    out = io.BytesIO()
    im.save(out, kind, **options)
    return out.getvalue()


def draw_set(n=6, root='pets/', **options):
    "`{path: bytes}` of `n` images in each class"
    return {f'{root}{name}/{i}.jpg': draw(i + n*CLASSES.index(name), **options)
        for name in CLASSES for i in range(n)}


def make_zip(files, method=zipfile.ZIP_DEFLATED):
    "The bytes of a zip"
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', method) as archive:
        for name,data in files.items(): archive.writestr(name, data)
    return out.getvalue()


def make_stored(files):
    "The bytes of a zip without compression"
    return make_zip(files, zipfile.ZIP_STORED)


def add_member(archive, name, data=b'', kind=tarfile.REGTYPE, link=''):
    "Add a member of any kind to a tar"
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(data)
    archive.addfile(member, io.BytesIO(data))


def make_tar(files, kind=tarfile.PAX_FORMAT):
    "The bytes of a tar"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=kind) as archive:
        for name,data in files.items(): add_member(archive, name, data)
    return out.getvalue()


def make_gz(files): return gzip.compress(make_tar(files))


def make_bz2(files): return bz2.compress(make_tar(files))


def make_xz(files): return lzma.compress(make_tar(files))


def make_parquet(files):
    "The bytes of a parquet file with images and labels, with checksums, as pyarrow writes them"
    import pyarrow as pa, pyarrow.parquet as pq
    names = [name.split('/')[-2] for name in files]
    images = [dict(bytes=data, path=name.replace('/', '-')) for name,data in files.items()]
    out = io.BytesIO()
    pq.write_table(pa.table(dict(image=images, label=names)), out, write_page_checksum=True)
    return out.getvalue()


ARCHIVES = {'zip': make_zip, 'stored.zip': make_stored, 'tar': make_tar, 'tar.gz': make_gz,
    'tar.bz2': make_bz2, 'tar.xz': make_xz, 'parquet': make_parquet}
