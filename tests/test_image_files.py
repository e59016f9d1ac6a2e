"Image files as people have them: formats, limits, depth, colour, and what each must become"
import ast, base64, faulthandler, io, json, os, resource, struct, time, zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import EpsImagePlugin, Image, ImageCms

from conftest import NOTEBOOKS, ROOT
from imgclf_nb.base.parallel import map_forked
from imgclf_nb.data import get_items
from imgclf_nb.images.depth import get_value_range
from imgclf_nb.images.formats import FORMATS, READABLE_SUFFIXES
from imgclf_nb.images.opening import MAX_PIXELS, UnreadableError, check_package
from imgclf_nb.images.preprocessing import Preprocessing, open_image
from imgclf_nb.images.properties import measure_image, measure_images

ORANGE = (200, 120, 40)
HEIC = base64.b64decode('AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAAB0AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAACVtZGF0AAAAGSgBrxOA+BDhp3/jSj/+2vzw+TDW/OikM+A=')


def near(im, colour, tolerance=6): return np.abs(np.asarray(im.convert('RGB')).astype(int) - colour).max() <= tolerance


# formats

SAVED = dict(
    jpg=dict(format='JPEG'), mpo=dict(format='MPO', save_all=True), png={}, gif={}, bmp={}, dib={}, tif={}, webp=dict(lossless=True), ppm={}, tga={}, jp2={},
    avif=dict(quality=100), jpe=dict(format='JPEG'), jfif=dict(format='JPEG'), apng=dict(format='PNG', save_all=True), j2k={}, pnm={})

@pytest.mark.parametrize('suffix', SAVED)
def test_each_format_is_read_with_its_colours_under_any_name(suffix, tmp_path):
    first, second = Image.new('RGB', (48, 32), ORANGE), Image.new('RGB', (48, 32), 'blue')
    options = SAVED[suffix]
    if options.get('save_all'): options = dict(options, append_images=[second])
    first.save(tmp_path/f'x.{suffix}', **options)
    assert f'.{suffix}' in READABLE_SUFFIXES
    for name in (f'x.{suffix}', 'y.jpg', 'without'):
        if name != f'x.{suffix}': os.link(tmp_path/f'x.{suffix}', tmp_path/name)
        facts = measure_image(tmp_path/name)
        assert facts['error'] == '' and (facts['width'], facts['height']) == (48, 32), (name, facts['error'])
        assert near(open_image(tmp_path/name), ORANGE, 12 if suffix == 'gif' else 6), name


@pytest.mark.parametrize('suffix', ['gif', 'webp', 'png', 'tif', 'avif'])
def test_of_an_animation_the_first_frame_is_read_and_the_frames_are_counted(suffix, tmp_path):
    frames = [Image.new('RGB', (32, 32), o) for o in (ORANGE, 'blue', 'green')]
    frames[0].save(tmp_path/f'x.{suffix}', save_all=True, append_images=frames[1:])
    assert measure_image(tmp_path/f'x.{suffix}')['frames'] == 3
    assert near(open_image(tmp_path/f'x.{suffix}'), ORANGE, 12)


@pytest.mark.parametrize('mode, options', [('CMYK', dict(compression='tiff_lzw')), ('YCbCr', {}), ('LAB', {}), ('1', dict(compression='group4')), ('L', {}), ('P', {}), ('LA', {}), ('RGBA', {})])
def test_tiff_in_each_mode(mode, options, tmp_path):
    im = Image.new('RGB', (32, 32), ORANGE)
    if mode == 'LAB': im = ImageCms.profileToProfile(im, ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB'), 1, 'LAB')
    elif mode in ('1', 'L', 'LA'): im = Image.new(mode, (32, 32), dict(zip(('1', 'L', 'LA'), (1, 77, (77, 255))))[mode])
    else: im = im.quantize(4) if mode == 'P' else im.convert(mode)
    im.save(tmp_path/'x.tif', **options)
    wanted = {'1': (255,)*3, 'L': (77,)*3, 'LA': (77,)*3}.get(mode, ORANGE)
    assert near(open_image(tmp_path/'x.tif'), wanted, 12 if mode == 'P' else 4)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif'])
def test_an_orientation_flag_is_followed(suffix, tmp_path):
    im = Image.new('RGB', (64, 32), ORANGE)
    im.paste('blue', (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x112] = 6
    im.save(tmp_path/f'x.{suffix}', exif=exif, **(dict(lossless=True) if suffix == 'webp' else {}))
    got = open_image(tmp_path/f'x.{suffix}')
    assert got.size == (32, 64) and near(got.crop((0, 4, 32, 28)), (0, 0, 255)) and near(got.crop((0, 36, 32, 60)), ORANGE)


def test_a_bitmap_with_transparency_is_put_on_white(tmp_path):
    im = Image.new('RGBA', (16, 16), (*ORANGE, 255))
    im.paste((0, 0, 0, 0), (0, 0, 8, 16))
    for name in ('x.bmp', 'x.tga', 'x.png', 'x.webp', 'x.tif'):
        im.save(tmp_path/name, **(dict(lossless=True) if name == 'x.webp' else {}))
        got = open_image(tmp_path/name)
        assert got.getpixel((12, 8)) == ORANGE
        assert name == 'x.bmp' or got.getpixel((2, 8)) == (255, 255, 255), name  # Pillow reads no transparency in a BITMAPINFOHEADER


def test_postscript_by_another_name_starts_nothing(tmp_path, monkeypatch):
    def refuse(*a, **kw): raise AssertionError('Ghostscript would have been started')
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', refuse)
    Image.new('RGB', (8, 8)).save(tmp_path/'x.eps')
    (tmp_path/'x.eps').rename(tmp_path/'x.jpg')
    assert 'PostScript' in measure_image(tmp_path/'x.jpg')['error']
    with pytest.raises(OSError, match='PostScript'): Preprocessing(8)(tmp_path/'x.jpg')


@pytest.mark.parametrize('start, name, said', [
    (b'\xff\x0a' + bytes(300), 'x.jxl', 'JPEG XL'), (b'8BPS\0\1' + bytes(300), 'x.psd', 'Photoshop'), (b'II*\0\x10\0\0\0CR\x02\0' + bytes(300), 'x.cr2', 'raw file'),
    (b'II*\0\x08\0\0\0\0\0' + bytes(300), 'x.dng', 'raw file'), (b'<!DOCTYPE html><html>', 'x.jpg', 'web page'), (b'<svg xmlns="x"/>', 'x.svg', 'vector'),
    (b'\x93NUMPY\1\0', 'x.npy', 'NumPy'), (b'PK\3\4' + bytes(90), 'x.jpg', 'archive'), (b'version https://git-lfs.github.com/spec/v1', 'x.jpg', 'Git LFS'),
    (bytes(4096), 'x.jpg', 'only zeros'), (b'', 'x.jpg', 'empty file'), (b'\0\0\1\0\1\0' + bytes(90), 'x.ico', 'icon'), (b'hello', 'x.jpg', 'not an image')])
def test_what_is_not_read_is_named(start, name, said, tmp_path):
    (tmp_path/name).write_bytes(start)
    assert said in measure_image(tmp_path/name)['error']


def test_heic_is_read_and_its_package_is_named(tmp_path, monkeypatch):
    pytest.importorskip('pi_heif', reason="the extra 'formats' reads HEIC")
    (tmp_path/'x.jpg').write_bytes(HEIC)
    assert near(open_image(tmp_path/'x.jpg'), ORANGE) and measure_image(tmp_path/'x.jpg')['format'] == 'HEIF'
    monkeypatch.setitem(__import__('sys').modules, 'pi_heif', None)
    assert 'pip install pi-heif' in measure_image(tmp_path/'x.jpg')['error']


def test_each_format_that_needs_a_package_says_so(monkeypatch):
    for module in ('pi_heif', 'pydicom'): monkeypatch.setitem(__import__('sys').modules, module, None)
    for name in FORMATS:
        if name not in ('HEIF', 'DICOM'): check_package(name); continue
        with pytest.raises(UnreadableError, match='pip install'): check_package(name)


def find_calls(code):
    "Calls of Image.open without formats, and of OpenCV's own readers"
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute): continue
        called = ast.unparse(node.func)
        if called in ('Image.open', 'PIL.Image.open') and 'formats' not in {o.arg for o in node.keywords}: yield ast.unparse(node)
        if called in ('cv2.imread', 'plt.imread', 'imageio.imread'): yield ast.unparse(node)


def test_no_image_is_opened_without_formats():
    assert list(find_calls('im = Image.open(path)\ncv2.imread(p)')) and not list(find_calls("Image.open(path, formats=['PNG'])"))
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            if cell['cell_type'] == 'code': assert not list(find_calls(''.join(cell['source']))), path
    for path in sorted((ROOT/'benchmarks').glob('*.py')):
        found = [o for o in find_calls(path.read_text(encoding='utf-8')) if not o.startswith('cv2')]  # others' way is measured there
        assert not found, path


# limits

def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def make_png(width, height, *extra):
    head = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + b''.join(extra) + chunk(b'IDAT', zlib.compress(bytes(9))) + chunk(b'IEND', b'')


def make_jpeg(width, height, **options):
    "A JPEG of a few hundred bytes that announces this size"
    out = io.BytesIO()
    Image.new('RGB', (64, 64)).save(out, 'JPEG', **options)
    data = bytearray(out.getvalue())
    at = max(data.find(b'\xff\xc0'), data.find(b'\xff\xc2'))
    data[at+5:at+9] = struct.pack('>HH', height, width)
    return bytes(data)


def make_pages(n):
    "A TIFF of so many pages, each 8 × 8"
    out, at = [b'II*\0\x08\0\0\0'], 8
    for i in range(n):
        tags = ((256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8), (279, 64))
        page = struct.pack('<H', len(tags)) + b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag,value in tags)
        at += len(page) + 4
        out.append(page + struct.pack('<I', at if i < n - 1 else 0))
    return b''.join(out) + bytes(64)


def make_gif(n, width, height):
    frame = b'\x2c' + struct.pack('<HHHHB', 0, 0, 1, 1, 0) + b'\x02\x02\x44\x01\0'
    return b'GIF89a' + struct.pack('<HHBBB', width, height, 0x80, 0, 0) + bytes(6) + frame*n + b';'


def measure_in_a_child(path):
    "`(facts, MB that it needed, s of CPU time)` of `measure_image` in a process of its own"
    import cv2, imagehash, scipy.fftpack  # noqa: F401
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, facts = time.process_time(), measure_image(path)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(theirs, json.dumps([facts['error'], facts['frames'], used/1024, time.process_time() - start]).encode())
        os._exit(0)
    os.close(theirs)
    os.waitpid(pid, 0)
    with open(ours, 'rb') as file: return json.loads(file.read())


BOMBS = {
    'long.png': (make_png(1, 178_000_000), 'longer than 100,000'), 'wide.png': (make_png(178_000_000, 1), 'longer than'), 'large.png': (make_png(60_000, 60_000), f'{MAX_PIXELS:,}'),
    'large.jpg': (make_jpeg(13_000, 13_000), ''), 'progressive.jpg': (make_jpeg(30_000, 30_000, progressive=True), 'progressive JPEG'), 'large.gif': (make_gif(1, 60_000, 60_000), f'{MAX_PIXELS:,}'),
    'frames.gif': (make_gif(100_000, 8, 8), ''), 'pages.tif': (make_pages(50_000), ''), 'large.ppm': (b'P6 60000 60000 255\n', f'{MAX_PIXELS:,}'),
    'text.png': (make_png(8, 8, chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(10**8)))), 'too large'), 'profile.png': (make_png(8, 8, chunk(b'iCCP', b'a\0\0' + zlib.compress(bytes(10**8)))), 'too large')}

@pytest.mark.parametrize('name', BOMBS)
def test_a_small_file_needs_little_memory_and_time(name, tmp_path):
    data, said = BOMBS[name]
    (tmp_path/name).write_bytes(data)
    error, frames, megabytes, seconds = measure_in_a_child(tmp_path/name)
    assert said in error if said else error == '', error
    assert megabytes < 400 and seconds < 30, (megabytes, seconds)
    if name in ('frames.gif', 'pages.tif'): assert frames == 1000


@pytest.mark.parametrize('suffix, n', [('webp', 12_000), ('jp2', 11_000), ('avif', 13_400), ('tif', 13_400)])
def test_costly_formats_have_their_own_limit_before_decoding(suffix, n, tmp_path, monkeypatch):
    "The limit is that of the announced size: a small file is made to announce a large one"
    from imgclf_nb.images import opening
    monkeypatch.setattr(opening, 'MAX_MEMORY', 64*64*8)
    Image.new('RGB', (80, 80)).save(tmp_path/f'x.{suffix}')
    assert 'pixels: make it smaller' in measure_image(tmp_path/f'x.{suffix}')['error']


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path):
    data = make_jpeg(3000, 3000, progressive=True)
    first = data.find(b'\xff\xda')
    second = data.find(b'\xff\xda', first + 2)
    (tmp_path/'x.jpg').write_bytes(data[:second] + data[first:second]*5000 + b'\xff\xd9')
    assert 'scans' in measure_image(tmp_path/'x.jpg')['error']


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path/'pipe.jpg')
    (tmp_path/'zero.jpg').symlink_to('/dev/zero')
    (tmp_path/'folder.jpg').mkdir()
    (tmp_path/'gone.jpg').symlink_to(tmp_path/'nothing')
    with open(tmp_path/'sparse.jpg', 'wb') as file: file.truncate(5 << 30)
    Image.new('RGB', (9, 9), ORANGE).save(tmp_path/'good.png')
    (tmp_path/'link.jpg').symlink_to(tmp_path/'good.png')
    found = measure_images(sorted(tmp_path.iterdir()), cache=False)
    said = {Path(path).stem: error for path,error in zip(found.path, found.error)}
    for name,text in dict(pipe='FIFO', zero='a device', folder='a folder', gone='missing, or a link', sparse='bytes, more than', good='', link='').items():
        assert text in said[name] if text else not said[name], said
    with pytest.raises(OSError, match='device'): open_image(tmp_path/'zero.jpg')  # the same for training


def test_sizes_that_people_have(tmp_path):
    for name,size in {'one.png': (1, 1), 'tall.png': (3, 5000), 'line.jpg': (1, 400), 'thread.jpg': (65_000, 2)}.items(): Image.new('RGB', size, ORANGE).save(tmp_path/name)
    (tmp_path/'photo.jpg').write_bytes(make_jpeg(12_000, 9_000))
    assert Preprocessing(32)(tmp_path/'photo.jpg').shape == (3, 32, 32)
    (tmp_path/'photo.jpg').unlink()  # a larger one is measured among the bombs
    for path in sorted(tmp_path.iterdir()):
        assert measure_image(path)['error'] == '' and Preprocessing(32)(path).shape == (3, 32, 32), path


def spin_or_crash(path):
    "Stands for a decoder that never ends, or crashes, at some files"
    while 'endless' in str(path): pass
    if 'crash' in str(path):
        faulthandler.disable()  # its report is about this test, not about a fault
        os.abort()
    return measure_image(path)


def test_a_decoder_that_hangs_or_crashes_costs_one_file(tmp_path):
    import cv2, imagehash, scipy.fftpack  # noqa: F401 – loaded here, not within the limit
    for name in ('a', 'crash', 'endless', 'z'): Image.new('RGB', (9, 9), ORANGE).save(tmp_path/f'{name}.png')
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    found = list(map_forked(spin_or_crash, paths, 1, failed=note_failure, seconds=1))
    assert [bool(o['error']) for o in found] == [False, True, True, False]
    assert 'crashes' in found[1]['error'] and ' 1 s of CPU time' in found[2]['error']


def note_failure(path, reason): return dict(error=reason)


# depth

def make_set(folder, arrays, suffix='tif'):
    for i,values in enumerate(arrays):
        path = folder/'ab'[i % 2]/f'{i}.{suffix}'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    return get_items(str(folder), cache=False)


def make_tiff(values, **tags):
    "A TIFF of 16-bit values, signed if they are, with further tags of one long value"
    height, width = values.shape
    data = values.tobytes()
    entries = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, height), (279, 4, len(data)), (339, 3, 2 if values.dtype.kind == 'i' else 1)]
    entries = sorted({**{o[0]: o for o in entries}, **{int(k[1:]): (int(k[1:]), 3, v) for k,v in tags.items()}}.values())
    ifd = b''.join(struct.pack('<HHII', tag, kind, 1, value) for tag,kind,value in entries)
    return b'II*\0' + struct.pack('<I', 8 + len(data)) + data + struct.pack('<H', len(entries)) + ifd + bytes(4)


RAMP = np.tile(np.linspace(0, 255, 64), (48, 1))

@pytest.mark.parametrize('top, dtype, suffix', [(4095, 'u2', 'png'), (4095, 'u2', 'tif'), (1023, 'u2', 'png'), (16383, 'u2', 'png'), (65535, 'u2', 'png'), (1, 'f4', 'tif'), (255, 'f4', 'tif'), (4095, 'i4', 'tif')])
def test_a_set_is_shown_on_the_scale_of_its_values(top, dtype, suffix, tmp_path):
    "A bright and a dark image: both come out as they were, and the same crop stays the same"
    def to_values(a): return (a*(top/255)).astype(dtype)
    items = make_set(tmp_path, [to_values(o) for o in (RAMP, RAMP/4, RAMP, RAMP/2)], suffix)
    pre = Preprocessing(48, value_range=items.attrs['value_range'])
    for path,share in zip(items.path, (1, 1, .25, .5)):  # by class: a/0, a/2, b/1, b/3
        assert np.abs(np.asarray(pre.read(path))[..., 0] - RAMP*share).max() <= 2, (path, share)
    assert Preprocessing.from_dict(json.loads(json.dumps(pre.to_dict()))) == pre


def test_ct_values_keep_their_contrast(tmp_path, capsys):
    values = (RAMP*16 - 1024).astype('<i2')  # -1024 to 3056
    for i,label in enumerate('abab'):
        (tmp_path/label).mkdir(exist_ok=True)
        (tmp_path/label/f'{i}.tif').write_bytes(make_tiff(values if i < 2 else values//2))
    items = get_items(str(tmp_path), cache=False)
    low, high = items.attrs['value_range']['int']
    assert -1030 < low < -1000 and 2990 < high <= 3056 and 'is shown as black' in capsys.readouterr().out
    got = [np.asarray(Preprocessing(48, value_range=items.attrs['value_range']).read(path))[..., 0] for path in items.path]
    assert np.abs(got[0] - RAMP).max() <= 6 and got[0].std() > 1.5*got[1].std()


def test_infinite_and_missing_values_and_a_hot_pixel(tmp_path):
    values = (RAMP/255).astype('f4')
    odd = values.copy()
    odd[0, :3] = np.inf, -np.inf, np.nan
    hot = values.copy()
    hot[0, 0] = 1e6
    items = make_set(tmp_path, [values, odd, hot, values])
    assert items.attrs['value_range'] == dict(float=[0, 1])
    for path in items.path: assert np.abs(np.asarray(Preprocessing(48, value_range=items.attrs['value_range']).read(path))[1:, :, 0] - RAMP[1:]).max() <= 1
    assert np.abs(np.asarray(Preprocessing(48).read(tmp_path/'b'/'1.tif'))[1:, :, 0] - RAMP[1:]).max() <= 1  # also a model of before


def test_a_file_that_states_its_range_is_believed(tmp_path):
    values = (RAMP*4).astype('<u2')
    for i,label in enumerate('abab'):
        (tmp_path/label).mkdir(exist_ok=True)
        (tmp_path/label/f'{i}.tif').write_bytes(make_tiff(values, t280=0, t281=2000))
    assert get_items(str(tmp_path), cache=False).attrs['value_range'] == dict(uint16=[0, 2000])


def test_white_is_zero_is_turned(tmp_path):
    (tmp_path/'x.tif').write_bytes(make_tiff((65535 - RAMP*257).astype('<u2'), t262=0))
    assert np.abs(np.asarray(open_image(tmp_path/'x.tif'))[..., 0] - RAMP).max() <= 1


def test_colours_of_12_bits_in_16(tmp_path):
    import cv2
    shades = (np.stack([RAMP, RAMP/2, RAMP/4], -1)*16).astype(np.uint16)
    for i,label in enumerate('abab'):
        (tmp_path/label).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path/label/f'{i}.{"png" if i < 2 else "tif"}'), shades[..., ::-1])
    items = get_items(str(tmp_path), cache=False)
    assert items.attrs['value_range'] == dict(colour16=[0, 4095])
    for path in items.path: assert np.abs(np.asarray(Preprocessing(48, value_range=items.attrs['value_range']).read(path)) - shades/16).max() <= 2, path


def test_constant_and_blank_deep_images(tmp_path):
    items = make_set(tmp_path, [np.full((20, 20), v, dtype) for v in (0, 700) for dtype in ('u2', 'f4', 'i4')])
    for path in items.path: assert np.isfinite(Preprocessing(16, value_range=items.attrs['value_range'])(path)).all()


def test_ordinary_sets_have_no_range(tmp_path):
    items = make_set(tmp_path, [RAMP.astype(np.uint8)]*4, 'png')
    assert items.attrs['value_range'] is None and Preprocessing().to_dict()['value_range'] is None


# a model's contract from before this field means what it meant
@pytest.mark.parametrize('values, wanted', [((RAMP*257).astype('u2'), RAMP), ((RAMP/255).astype('f4'), RAMP), ((RAMP*4).astype('f4'), RAMP), (RAMP.astype('i4'), RAMP), ((RAMP*16).astype('u2'), RAMP/16.06)])
def test_an_old_contract_reads_as_before(values, wanted, tmp_path):
    Image.fromarray(values).save(tmp_path/'x.tif')
    old = Preprocessing.from_dict(dict(size=48, channels=1, mean=[.5], std=[.5], bits=8))
    assert np.abs(np.asarray(old.read(tmp_path/'x.tif')) - wanted).max() <= 1


def test_an_old_table_of_facts_is_read_again(): assert get_value_range(pd.DataFrame(dict(depth=['', ''], range_by=['', ''], low=[0, 0], high=[0, 0]))) is None


# DICOM

def make_dicom(values, **details):
    pydicom = pytest.importorskip('pydicom', reason="the extra 'formats' reads DICOM")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = details.pop('syntax', pydicom.uid.ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
    file = pydicom.dataset.FileDataset('', {}, file_meta=meta, preamble=bytes(128))
    bits = values.dtype.itemsize*8
    plain = dict(Rows=values.shape[0], Columns=values.shape[1], SamplesPerPixel=1, BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1,
        PhotometricInterpretation='MONOCHROME2', PixelRepresentation=int(values.dtype.kind == 'i'), PixelData=values.tobytes())
    for name,value in {**plain, **details}.items(): setattr(file, name, value)
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def test_dicom_by_its_window_and_upside_down(tmp_path):
    values = (RAMP*16).astype('i2')
    window = dict(RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=1016.5, WindowWidth=4081)
    (tmp_path/'x.dcm').write_bytes(make_dicom(values, **window))
    (tmp_path/'y').write_bytes(make_dicom(values, **window, PhotometricInterpretation='MONOCHROME1'))
    assert np.abs(np.asarray(open_image(tmp_path/'x.dcm'))[..., 0] - RAMP).max() <= 2
    assert np.abs(np.asarray(Preprocessing(48).read(tmp_path/'y'))[..., 0] - (255 - RAMP)).max() <= 2
    assert (measure_image(tmp_path/'y')['format'], measure_image(tmp_path/'y')['error']) == ('DICOM', '')


def test_dicom_without_a_window_has_the_range_of_the_set(tmp_path):
    for i,label in enumerate('abab'):
        (tmp_path/label).mkdir(exist_ok=True)
        (tmp_path/label/f'{i}.dcm').write_bytes(make_dicom((RAMP*16/(1 + i//2)).astype('i2'), RescaleSlope=1, RescaleIntercept=-1024))
    facts = measure_images(sorted(tmp_path.rglob('*.dcm')), cache=False)
    low, high = get_value_range(facts)['dicom']
    assert -1030 < low < -1000 and 2990 < high <= 3056


def test_dicom_that_cannot_be_decoded_says_how_to_convert(tmp_path):
    pydicom = pytest.importorskip('pydicom')
    data = make_dicom(RAMP.astype('u1'), syntax=pydicom.uid.JPEGLSLossless, PixelData=pydicom.encaps.encapsulate([b'\xff\xd8\xff\xf7\0\0']))
    (tmp_path/'x.dcm').write_bytes(data)
    (tmp_path/'y.dcm').write_bytes(bytes(128) + b'DICM\2\0\0\0UL\4\0\0\0\0\0' + bytes(99))
    assert 'convert it' in measure_image(tmp_path/'x.dcm')['error'] and 'DICOM' in measure_image(tmp_path/'y.dcm')['error']


# colour

def test_adobe_cmyk_with_and_without_its_marker(tmp_path):
    Image.new('RGB', (32, 32), ORANGE).convert('CMYK').save(tmp_path/'x.jpg', quality=95)
    data = (tmp_path/'x.jpg').read_bytes()
    at = data.find(b'\xff\xee')
    length = struct.unpack('>H', data[at+2:at+4])[0]
    (tmp_path/'y.jpg').write_bytes(data[:at] + data[at+2+length:])
    assert near(open_image(tmp_path/'x.jpg'), ORANGE) and near(open_image(tmp_path/'y.jpg'), ORANGE)


def test_an_srgb_profile_changes_no_bit_and_a_broken_one_nothing(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(tmp_path/'plain.png')
    for name,profile in dict(srgb=ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes(), broken=b'not a profile'*20, lab=ImageCms.ImageCmsProfile(ImageCms.createProfile('LAB')).tobytes()).items():
        noise.save(tmp_path/f'{name}.png', icc_profile=profile)
        for channels in (1, 3): assert open_image(tmp_path/f'{name}.png', channels).tobytes() == open_image(tmp_path/'plain.png', channels).tobytes(), name


def test_patients_of_dicom_files_are_groups(tmp_path):
    "The patient that the headers name is never divided, and its name is not told"
    for i in range(12):
        path = tmp_path/'set'/'ab'[i % 2]/f'{i}.dcm'
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(i).integers(0, 4000, (48, 48), 'i2')
        path.write_bytes(make_dicom(values, PatientID=f'Doe {i//3}'))
    items = get_items(str(tmp_path/'set'), cache=False)
    numbers = items.file.str.extract(r'(\d+)')[0].astype(int)//3
    assert items.group.nunique() == 4 == len(set(zip(items.group, numbers)))
    assert not items.group.str.contains('Doe').any()
