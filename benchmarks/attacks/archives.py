"""Archives that are damaged, announce something else than they hold, lead out, or explode"""
import gzip, io, lzma, resource, stat, struct, tarfile, zipfile
from functools import partial

from imgclf_nb.datasets import archives as ours
from attacks.cases import Lost, Shown, Silent, ask, find_difference, read_tree
from attacks.mutants import MUTANTS, mutate, zero_end
from attacks.samples import ARCHIVES, add_member, draw_set, make_tar, make_zip

PLANTED = 60
FILES = draw_set()
MOST_MEMORY = 2 << 30  # bytes that this process may ever hold
MOST_WRITTEN = 100 << 20
BOMB = 150 << 20  # zeros

compress_gz = partial(gzip.compress, compresslevel=1)
compress_xz = partial(lzma.compress, preset=0)


def prepare(folder):
    "All whole archives, and what they unpack to"
    whole = {kind: make(FILES) for kind,make in ARCHIVES.items()}
    wanted = {}
    for kind,data in whole.items():
        wanted[kind] = read_tree(unpack(data, kind, folder/f'whole-{kind}'))
    return dict(whole=whole, wanted=wanted)


def unpack(data, kind, folder):
    "The folder to which these bytes are unpacked"
    folder.mkdir(parents=True)
    file = folder/f'archive.{kind}'
    file.write_bytes(data)
    if kind == 'parquet': return ours.unpack_parquet([file], folder/'set')
    return ours.unpack(file, folder/'set')


def check_place(folder):
    "`Lost` if anything but the archive and its folder appeared"
    found = {path.name for place in (folder.parent, folder) for path in place.iterdir()}
    extra = [name for name in found - {'in', 'set'} if not name.startswith('archive.')]
    if extra: raise Lost(f'something appeared or was left behind: {extra}')


def check_limits(folder):
    "`Shown` if too much memory or disk was used"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if used > MOST_MEMORY: raise Shown(f'{used:,} bytes of memory were used')
    size = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
    if size > MOST_WRITTEN: raise Silent(f'{size:,} bytes were written')


def try_archive(case, data, kind, wanted, checked=True):
    """Unpack: all files as wanted, or a sentence and no folder

    `checked`: whether the format has checksums; without, as in a tar, contents may differ"""
    folder = case.folder/'in'
    result, sentence = ask(unpack, data, kind, folder)
    check_limits(folder)
    if sentence:
        if (folder/'set').exists(): raise Lost(f'refused, but a part is there: {sentence}')
    else:
        got = read_tree(result)
        if not checked: wanted = {name: got.get(name, data) for name,data in wanted.items()}
        difference = find_difference(wanted, got) if wanted is not None else 'it must be refused'
        if difference: raise Silent(f'{len(got)} files unpacked: {difference}')
    check_place(folder)


def attack_mutant(case):
    "A damaged archive"
    kind = case.rng.choice(list(ARCHIVES))
    mutants = [o for o in MUTANTS if kind != 'tar' or o is not zero_end]  # a tar may end in zeros
    how, data = mutate(case.rng, case.shared['whole'][kind], mutants)
    case.title(f'{kind} {how}')
    try_archive(case, data, kind, case.shared['wanted'][kind], checked=kind != 'tar')


# ---- archives that announce something else than they hold

def flip_header(rng):
    "A tar with one flipped bit in the header of a member in the middle"
    data = bytearray(make_tar(FILES, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive: members = archive.getmembers()
    at = rng.choice(members[1:]).offset + rng.randrange(500)
    data[at] ^= 1 << rng.randrange(8)
    return bytes(data), 'tar'


def cut_at_member(rng):
    "A tar that ends at the border of a member"
    data = make_tar(FILES, tarfile.USTAR_FORMAT)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive: members = archive.getmembers()
    return data[:rng.choice(members[1:]).offset], 'tar'


def cut_and_close(rng):
    "A gzip that is whole, of a tar that is cut at the border of a member"
    data, _ = cut_at_member(rng)
    return gzip.compress(data), 'tar.gz'


def cut_and_compress(rng):
    "An xz that is whole, of a tar that is cut at the border of a member"
    data, _ = cut_at_member(rng)
    return lzma.compress(data), 'tar.xz'


def change_crc(rng):
    "A gzip with a wrong checksum"
    data = bytearray(gzip.compress(make_tar(FILES)))
    data[-8 + rng.randrange(4)] ^= 1 << rng.randrange(8)
    return bytes(data), 'tar.gz'


def change_size(rng):
    "A gzip with a wrong size at its end"
    data = bytearray(gzip.compress(make_tar(FILES)))
    data[-4 + rng.randrange(4)] ^= 1 << rng.randrange(8)
    return bytes(data), 'tar.gz'


def change_count(rng):
    "A zip whose end announces fewer entries and less directory than there are"
    data = bytearray(make_zip(FILES))
    end = data.rindex(b'PK\5\6')
    names = [at for at in range(len(data)) if data[at:at+4] == b'PK\1\2']
    kept = rng.randrange(1, len(names))
    size = names[kept] - names[0]
    struct.pack_into('<HHL', data, end + 8, kept, kept, size)
    return bytes(data[:names[kept]] + data[end:]) if rng.random() < .5 else bytes(data), 'zip'


def announce_more(rng):
    "A zip whose end announces more entries than there are"
    data = bytearray(make_zip(FILES))
    end = data.rindex(b'PK\5\6')
    struct.pack_into('<HH', data, end + 8, 60, 60)
    return bytes(data), 'zip'


def hide_directory(rng):
    "A zip whose directory lists one entry; the others are only in the body"
    whole, one = make_zip(FILES), make_zip(dict(list(FILES.items())[:1]))
    body = whole[:whole.index(b'PK\1\2')]
    directory = one[one.index(b'PK\1\2'):]
    data = bytearray(body + directory)
    end = data.rindex(b'PK\5\6')
    struct.pack_into('<L', data, end + 16, len(body))
    return bytes(data), 'zip'


def append_tar(rng):
    "Two tars, one after the other, as `cat a.tar b.tar`: the second is behind the end of the first"
    half = dict(list(FILES.items())[:6])
    rest = dict(list(FILES.items())[6:])
    return make_tar(half) + make_tar(rest), 'tar'


def empty_block(rng):
    "A tar with a block of zeros between two members"
    data = make_tar(FILES, tarfile.USTAR_FORMAT)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive: members = archive.getmembers()
    at = rng.choice(members[1:]).offset
    return data[:at] + bytes(512*rng.choice([1, 2])) + data[at:], 'tar'


def flip_parquet_page(rng):
    "A flipped bit in the bytes of an image inside a parquet with checksums"
    data = bytearray(ARCHIVES['parquet'](FILES))
    image = next(iter(FILES.values()))
    at = data.find(image[20:60])
    data[(at if at > 0 else len(data)//3) + rng.randrange(20)] ^= 1
    return bytes(data), 'parquet'


COUNTED = (flip_header, cut_at_member, cut_and_close, cut_and_compress, change_crc, change_size,
    change_count, announce_more, hide_directory, append_tar, empty_block, flip_parquet_page)


def attack_counted(case):
    "An archive that announces something else than it holds"
    how = COUNTED[case.number//3 % len(COUNTED)]
    case.title(how.__name__)
    data, kind = how(case.rng)
    wanted = case.shared['wanted']['parquet'] if kind == 'parquet' else dict(FILES)
    try_archive(case, data, kind, wanted)


# ---- archives that must be refused

def write_zip(*members):
    "A zip of good files and these `(name or ZipInfo, bytes)`"
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name,data in FILES.items(): archive.writestr(name, data)
        for name,data in members: archive.writestr(name, data)
    return out.getvalue(), 'zip'


def write_tar(name, data=b'', kind=tarfile.REGTYPE, link='', compress=compress_gz):
    "A compressed tar of good files and this member"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as archive:
        for path,content in FILES.items(): add_member(archive, path, content)
        add_member(archive, name, data, kind, link)
    return compress(out.getvalue()), 'tar.gz' if compress is compress_gz else 'tar.xz'


def lead_out_zip(rng):
    "A name that leads out of the folder"
    names = ['../../evil.jpg', '/evil.jpg', 'a\\..\\..\\evil.jpg', 'C:evil.jpg', 'pets/../../../x']
    return write_zip((rng.choice(names), b'x'))


def lead_out_tar(rng):
    "A name that leads out of the folder"
    names = ['../../evil.jpg', '/evil.jpg', 'pets/cat/../../../evil.jpg']
    return write_tar(rng.choice(names), b'x')


def link_zip(rng):
    "A link, a pipe or a device in a zip"
    info = zipfile.ZipInfo('pets/cat/link.jpg')
    kind = rng.choice([stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
    info.external_attr = (kind | 0o777) << 16
    return write_zip((info, '/etc/passwd'))


def link_tar(rng):
    "A link, a pipe or a device in a tar"
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
    return write_tar('pets/cat/link.jpg', kind=rng.choice(kinds), link='pets/cat/0.jpg')


def link_then_write(rng):
    "A link to another folder, and a file that would be written through it"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as archive:
        add_member(archive, 'pets', kind=tarfile.SYMTYPE, link='../..')
        add_member(archive, 'pets/evil.jpg', b'x')
    return out.getvalue(), 'tar'


def double_zip(rng):
    "One name with two contents"
    name = rng.choice(list(FILES))
    return write_zip((name, b'another content'))


def double_tar(rng):
    "One name with two contents"
    return write_tar(rng.choice(list(FILES)), b'another content')


def file_and_folder(rng):
    "A name that is a file and a folder"
    return write_zip(('pets/cat/0.jpg/x.jpg', b'x'))


def encrypt(rng):
    "A zip that says it is encrypted"
    data = bytearray(make_zip(FILES))
    data[data.index(b'PK\1\2') + 8] |= 1
    return bytes(data), 'zip'


def explode_zip(rng):
    "150 MB of zeros in a zip"
    return write_zip(('pets/cat/zeros.jpg', bytes(BOMB)))


def explode_nested(rng):
    "Ten times 15 MB of zeros in a zip"
    return write_zip(*[(f'pets/cat/zeros{i}.jpg', bytes(BOMB//10)) for i in range(10)])


def explode_gz(rng):
    "150 MB of zeros in a tar.gz"
    return write_tar('pets/cat/zeros.jpg', bytes(BOMB))


def explode_xz(rng):
    "150 MB of zeros in a tar.xz"
    return write_tar('pets/cat/zeros.jpg', bytes(BOMB), compress=compress_xz)


def explode_tail(rng):
    "150 MB of zeros behind the end of a tar, compressed"
    return compress_gz(make_tar(FILES) + bytes(BOMB)), 'tar.gz'


def explode_parquet(rng):
    "A parquet of 2 KB with 150 MB of images"
    import pyarrow as pa, pyarrow.parquet as pq
    images = [dict(bytes=bytes(BOMB//10), path='x.jpg')]*10
    out = io.BytesIO()
    table = pa.table(dict(image=images, label=['a']*10))
    pq.write_table(table, out, compression='zstd', row_group_size=10)
    return out.getvalue(), 'parquet'


REFUSED = (lead_out_zip, lead_out_tar, link_zip, link_tar, link_then_write, double_zip, double_tar,
    file_and_folder, encrypt, explode_zip, explode_nested, explode_gz, explode_xz, explode_parquet)
ALLOWED = (explode_tail,)  # may be refused, or unpacked without what follows its end


def attack_refused(case):
    "An archive that must be refused"
    hows = REFUSED + ALLOWED
    how = hows[case.number//3 % len(hows)]
    case.title(how.__name__)
    data, kind = how(case.rng)
    try_archive(case, data, kind, dict(FILES) if how in ALLOWED else None)


def attack(case):
    "One archive"
    case.pick((attack_mutant, attack_counted, attack_refused))(case)


# ---- wrong readers, which must be reported

def unpack_part(shared):
    "A reader that leaves out the last image of a damaged archive"
    good = ours.unpack
    def bad(archive, folder, **limits):
        try: good(archive, folder, **limits)
        except Exception:
            folder.mkdir()
            (folder/'0.jpg').write_bytes(b'x')
        return folder
    ours.unpack = bad


def raise_inner(shared):
    "A reader that lets the library's error through"
    def bad(archive, folder, **limits): return tarfile.open(archive)
    ours.unpack = bad


def leave_part(shared):
    "A reader that leaves a part of a refused archive behind"
    good = ours.unpack
    def bad(archive, folder, **limits):
        try: return good(archive, folder, **limits)
        finally:
            if not folder.exists(): folder.mkdir()
    ours.unpack = bad


PLANTS = {'silent': unpack_part, 'traceback': raise_inner, 'lost': leave_part}
