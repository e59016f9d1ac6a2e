"""Damaged, giant and false images: read as Pillow reads them, or unreadable with a reason"""
import io, os, resource, struct, warnings, zlib
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from imgclf_nb import pixels
from imgclf_nb.data import get_items
from imgclf_nb.images import properties
from imgclf_nb.models.features import get_preprocessing
from attacks.cases import Lost, Shown, Silent
from attacks.mutants import mutate
from attacks.samples import draw

PLANTED = 4
N = 40  # images in a case
MOST_MEMORY = 5 << 30  # of a process that reads an image
KINDS = {
    'jpg': dict(kind='jpeg'), 'progressive.jpg': dict(kind='jpeg', progressive=True),
    'grey.jpg': dict(kind='jpeg', mode='L'), 'cmyk.jpg': dict(kind='jpeg', mode='CMYK'),
    'png': dict(kind='png'), 'palette.png': dict(kind='png', mode='P'),
    'deep.png': dict(kind='png', mode='I;16'), 'alpha.png': dict(kind='png', mode='RGBA'),
    'bit.png': dict(kind='png', mode='1'), 'gif': dict(kind='gif', mode='P'), 'bmp': dict(kind='bmp'),
    'tif': dict(kind='tiff'), 'lzw.tif': dict(kind='tiff', compression='tiff_lzw'),
    'deflate.tif': dict(kind='tiff', compression='tiff_adobe_deflate'), 'webp': dict(kind='webp'),
    'lossless.webp': dict(kind='webp', lossless=True), 'jp2': dict(kind='jpeg2000'),
    'ppm': dict(kind='ppm'), 'tga': dict(kind='tga'), 'avif': dict(kind='avif')}


def draw_kinds():
    "`{ending: bytes}` for the formats that this Pillow writes"
    whole = {}
    for end,options in KINDS.items():
        options = dict(options)
        mode = options.pop('mode', 'RGB')
        try: whole[end] = draw(3, 48, mode='L' if mode == 'I;16' else mode, **options)
        except (KeyError, OSError, ValueError): continue  # this Pillow does not write it
        if mode == 'I;16': whole[end] = draw_deep()
    return whole | draw_film()


def draw_deep():
    "A PNG of 16 bits"
    values = (np.arange(48*48).reshape(48, 48)*20).astype(np.uint16)
    out = io.BytesIO()
    Image.fromarray(values).save(out, 'png')
    return out.getvalue()


def draw_film():
    "A GIF and a TIFF of several frames, and a DICOM file if pydicom is there"
    frames = [Image.new('L', (48, 48), 40*i) for i in range(4)]
    made = {}
    for end,kind in (('film.gif', 'gif'), ('pages.tif', 'tiff')):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:])
        made[end] = out.getvalue()
    return made | draw_dicom()


def draw_dicom():
    "A DICOM file, if pydicom is installed"
    try: from pydicom.dataset import Dataset, FileMetaDataset
    except ImportError: return {}
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    x = Dataset()
    x.file_meta = meta
    x.SOPClassUID, x.SOPInstanceUID = SecondaryCaptureImageStorage, meta.MediaStorageSOPInstanceUID
    x.Rows = x.Columns = 48
    x.SamplesPerPixel, x.PhotometricInterpretation = 1, 'MONOCHROME2'
    x.BitsAllocated, x.BitsStored, x.HighBit, x.PixelRepresentation = 16, 12, 11, 0
    x.PixelData = (np.arange(48*48, dtype=np.uint16) % 4096).tobytes()
    out = io.BytesIO()
    x.save_as(out, enforce_file_format=True)
    return {'dcm': out.getvalue()}


# ---- headers that promise too much

def make_png(width, height, rows=b'', colour=0, depth=8):
    "A PNG with this header and these compressed rows"
    def chunk(name, data):
        crc = struct.pack('>I', zlib.crc32(name + data))
        return struct.pack('>I', len(data)) + name + data + crc
    head = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')


def make_bomb(side):
    "A PNG of black pixels, all of them there"
    packer = zlib.compressobj(1)
    row = bytes(side + 1)
    rows = b''.join(packer.compress(row) for _ in range(side)) + packer.flush()
    return make_png(side, side, rows)


def patch(data, at, value):
    "The bytes with others at a place"
    return data[:at] + value + data[at+len(value):]


def make_giants(whole):
    "`{name: bytes}` of files with giant headers, and bombs"
    giant = struct.pack('<i', 2**31 - 1)
    text = make_png(48, 48, zlib.compress(bytes(49*48)))
    bomb = zlib.compress(bytes(100 << 20))
    chunk = b'zTXtx\0\0' + bomb
    ztxt = struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    giants = {'giant.png': make_png(2**31 - 1, 2**31 - 1, zlib.compress(b'\0')),
        'wide.png': make_png(2**31 - 1, 1, zlib.compress(bytes(999))),
        'bomb.png': make_bomb(14000), 'toolarge.png': make_bomb(13300), 'empty.png': make_png(0, 0),
        'text.png': text[:33] + ztxt + text[33:], 'giant.bmp': patch(whole['bmp'], 18, giant*2),
        'negative.bmp': patch(whole['bmp'], 18, b'\xff\xff\xff\xff'*2),
        'giant.gif': patch(whole['gif'], 6, b'\xff\xff\xff\xff'),
        'giant.ppm': b'P6\n99999999 99999999\n255\n' + bytes(99),
        'giant.tga': patch(whole['tga'], 12, b'\xff\xff\xff\xff'),
        'deep.ppm': b'P6\n48 48\n99999999\n' + bytes(9999), 'word.ppm': b'P6\n' + b'9'*5000 + b' 1\n255\n',
        'giant.jpg': patch_jpeg(whole['jpg']), 'many.gif': make_frames(whole['film.gif'])}
    return giants


def patch_jpeg(data):
    "A JPEG that says it has 65,500 by 65,500 pixels"
    at = data.index(b'\xff\xc0')
    return patch(data, at + 5, struct.pack('>HH', 65500, 65500))


def make_frames(data):
    "A GIF with the same frames again and again"
    start = data.index(b'!\xf9')
    return data[:start] + data[start:-1]*3000 + b';'


FALSE = {'empty.jpg': b'', 'page.jpg': b'<!DOCTYPE html><html><title>Log in</title></html>',
    'text.png': b'not an image', 'zeros.jpg': bytes(5000), 'zip.jpg': b'PK\3\4' + bytes(99),
    'notes.txt': b'notes', '.hidden.jpg': b'x', 'table.csv': b'a,b\n1,2\n', 'short.png': b'\x89PNG'}


def prepare(folder):
    "All whole images, and the giants"
    whole = draw_kinds()
    return dict(whole=whole, giants=list(make_giants(whole).items()))


# ---- a folder of damaged images

def write_folder(case):
    "Good and damaged images; `{path: whether it is whole}`"
    whole = case.shared['whole']
    files = {}
    for i in range(N):
        end = case.rng.choice(list(whole))
        name = Path('set')/('ab'[i % 2])
        if i % 8 == 0: data, name = whole[end], name/f'good{i}.{end}'
        else:
            how, data = mutate(case.rng, whole[end])
            name = name/f'{how}{i}.{end}'
        files[name] = data
    for name,data in FALSE.items(): files[Path('set')/'a'/name] = data
    end, data = case.pick(case.shared['giants'])
    files[Path('set')/'b'/f'giant.{end}'] = data
    for name,data in files.items():
        (case.folder/name).parent.mkdir(parents=True, exist_ok=True)
        (case.folder/name).write_bytes(data)
    return files


def read_plainly(path):
    "Whether plain Pillow reads all pixels of a file"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            with Image.open(path) as im: im.load()
        except Exception: return False
    return True


def check_counts(case, files, items):
    "`Lost` if a file is neither an item nor listed with a reason; all reasons are one line"
    rows = [*items.attrs['unreadable'], *items.attrs['passed_over']]
    known = {*items.file, *(row['file'] for row in rows)}
    names = {str(name.relative_to('set').as_posix()) for name in files}
    counted = len(items) + len(rows)
    if counted != len(names): raise Lost(f'{counted} of {len(names)} files are counted')
    if names - known: raise Lost(f'{sorted(names - known)[:3]} are not counted')
    for row in rows:
        reason = row['reason']
        plain = reason and '\n' not in reason and len(reason) < 400
        if not plain: raise Shown(f"reason of {row['file']}: {reason!r}")
    good = {name for name in names if '/good' in name} - set(items.file)
    if good: raise Lost(f'{sorted(good)} are whole and are not read')


def check_contents(case, files, items):
    "`Silent` for an image that Pillow cannot read, or whose content is another one"
    for file,digest in zip(items.file, items.sha256):
        data = files[Path('set')/file]
        if sha256(data).hexdigest() != digest: raise Silent(f'{file} has another hash')
        if file.endswith('.dcm') or 'giant' in file: continue
        if not read_plainly(case.folder/'set'/file): raise Silent(f'{file} was read, and Pillow cannot')


def check_pixels(case, items):
    "An image that was listed can be decoded, as from its file"
    pre = get_preprocessing('mobilenetv3_small_050', 32)
    pre.value_range = items.attrs.get('value_range')
    for path,digest in zip(items.path, items.sha256):
        got = pixels.decode((path, digest, pre, ('exact',)))
        if isinstance(got, str): raise Silent(f'{Path(path).name} was listed, and then: {got}')


def attack(case):
    "A folder of damaged images"
    case.tried = N + len(FALSE) + 1
    files = write_folder(case)
    case.title(f'{case.tried} files, with {case.pick(case.shared["giants"])[0]}')
    items = get_items(str(case.folder/'set'), cache=case.number % 2 == 0)
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    if used > MOST_MEMORY: raise Shown(f'a process used {used:,} bytes of memory')
    check_counts(case, files, items)
    check_contents(case, files, items)
    check_pixels(case, items)


# ---- wrong readers, which must be reported

def forget(shared):
    "A reader that forgets one unreadable image"
    import imgclf_nb.data as data
    real = data._get_unreadable
    data._get_unreadable = lambda *given: real(*given)[1:]


def accept(shared):
    "A reader that takes damaged images for whole ones"
    real = properties.measure_image
    def bad(path):
        facts = real(path)
        if facts['error'] and facts['bytes']: facts = real(good) | dict(sha256=facts['sha256'])
        return facts
    good = write_good(shared)
    properties.measure_image = bad


def write_good(shared):
    "The path of a good image"
    path = Path(os.environ['IMGCLF_RUNS'])/'good.jpg'
    path.write_bytes(shared['whole']['jpg'])
    return str(path)


def raise_inner(shared):
    "A reader that lets the library's error through"
    import imgclf_nb.data as data
    def bad(items, *given): return [Image.open(path).load() for path in items.path]
    data._read_facts = bad


PLANTS = {'lost': forget, 'silent': accept, 'traceback': raise_inner}
