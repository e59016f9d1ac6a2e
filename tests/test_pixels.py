"The store of decoded images where things go wrong: a full disk, another version, two processes, changed files"
import os, resource, shutil, signal, textwrap
from pathlib import Path

import numpy as np, pytest

from conftest import command, run_code, start_script


@pytest.fixture
def mini(tmp_path, monkeypatch):
    "Items of a copied miniature, the contract, and a cache of the test's own"
    from imgclf_nb.data import get_items
    from imgclf_nb.datasets.miniatures import get_miniature
    from imgclf_nb.images.preprocessing import Preprocessing
    monkeypatch.setenv('IMGCLF_CACHE', str(tmp_path/'cache'))
    monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path/'records'))
    shutil.copytree(get_miniature('instruments_mini'), tmp_path/'set')
    return get_items(str(tmp_path/'set')), Preprocessing(size=48)


def check(items, pre, view='exact'):
    "Every image is there and right"
    from imgclf_nb.pixels import get_pixels, to_rgb
    got = get_pixels(items, pre, view)
    for i,p in enumerate(items.path): assert np.array_equal(to_rgb(got[i], pre.channels), pre.pixels(p)), p


def count_decoded(monkeypatch):
    "How many images are decoded from here on"
    import imgclf_nb.pixels as m
    real, seen = m.decode, []
    def decode(job): seen.append(job[0]); return real(job)
    monkeypatch.setattr(m, 'decode', decode)
    return seen


def test_ten_changed_files_are_ten_decodings(mini, monkeypatch):
    from PIL import Image
    from imgclf_nb.data import get_items
    items, pre = mini
    seen = count_decoded(monkeypatch)
    check(items, pre)
    assert len(seen) == items.sha256.nunique()
    for p in items.path[:10]: Image.open(p).convert('RGB').rotate(3).save(p)
    os.rename(items.path[20], items.path[20] + '.png')  # another name, the same image
    seen.clear()
    check(get_items(str(Path(items.path[0]).parents[1])), pre)
    assert len(seen) == 10


def test_a_store_that_was_cut_off(mini, capsys, monkeypatch):
    from imgclf_nb.pixels import fill_stores
    items, pre = mini
    pixels = fill_stores(items, pre, ('exact',))[0]/'pixels.bin'
    os.truncate(pixels, pixels.stat().st_size//2)
    seen = count_decoded(monkeypatch)
    check(items, pre)
    assert 0 < len(seen) < len(items) and 'is incomplete' in capsys.readouterr().out


@pytest.mark.parametrize('name, text', [('recipe.json', '{"version": 0}'), ('recipe.json', '{'), ('index.npy', 'sha256,offset'), ('index.npy', '')])
def test_a_store_of_another_version_is_made_again(name, text, mini, capsys):
    from imgclf_nb.pixels import fill_stores
    items, pre = mini
    (fill_stores(items, pre, ('exact',))[0]/name).write_text(text)
    check(items, pre)
    assert 'decoded again' in capsys.readouterr().out


def test_other_preprocessing_has_a_store_of_its_own(mini):
    import dataclasses
    items, pre = mini
    for other in (dict(), dict(resize='squash'), dict(interpolation='bilinear'), dict(size=32), dict(channels=1)):
        check(items, dataclasses.replace(pre, **other))


def test_a_file_that_changed_meanwhile(mini):
    from imgclf_nb.core import UserError
    from imgclf_nb.data import get_items
    from imgclf_nb.pixels import fill_stores
    items, pre = mini
    Path(items.path[50]).write_bytes(Path(items.path[3]).read_bytes())
    with pytest.raises(UserError, match='has changed since') as e: fill_stores(items, pre, ('exact',))
    assert items.path[50] in str(e.value)
    check(get_items(str(Path(items.path[0]).parents[1])), pre)


def test_no_space_is_said_before_the_first_byte(mini, monkeypatch):
    from imgclf_nb.core import UserError
    from imgclf_nb.pixels import fill_stores, get_store
    items, pre = mini
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: type('', (), dict(free=50 << 20)))
    with pytest.raises(UserError, match='cache=False'): fill_stores(items, pre, ('exact',))
    assert (get_store(items.attrs['dataset'], pre, 'exact')/'pixels.bin').stat().st_size == 0


def test_a_disk_that_fills_up(mini, monkeypatch):
    "The system refuses to write on: a sentence, what was decoded stays, the next call goes on"
    from imgclf_nb.core import UserError
    from imgclf_nb.pixels import fill_stores
    items, pre = mini
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
        with pytest.raises(UserError, match='what was decoded is kept'): fill_stores(items, pre, ('exact',))
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before); signal.signal(signal.SIGXFSZ, ignored)
    seen = count_decoded(monkeypatch)
    check(items, pre)
    assert 0 < len(seen) < items.sha256.nunique()


def test_two_processes_fill_one_store(mini, tmp_path):
    "Both end well, every image is decoded once and right"
    items, pre = mini
    code = textwrap.dedent(f"""
        import imgclf_nb.pixels as m, time
        from imgclf_nb.data import get_items
        from imgclf_nb.images.preprocessing import Preprocessing
        real, n = m.decode, []
        def decode(job): n.append(1); time.sleep(.01); return real(job)
        m.decode = decode
        m.fill_stores(get_items({str(tmp_path/'set')!r}), Preprocessing(size=48), ('exact', 'wide'), workers=0)
        print(len(n))""")
    (tmp_path/'fill.py').write_text(code)
    two = [start_script([tmp_path/'fill.py'], os.environ.copy()) for _ in range(2)]
    done = [int(p.communicate(timeout=300)[0].split()[-1]) for p in two]
    assert [p.returncode for p in two] == [0, 0] and sum(done) == items.sha256.nunique()
    check(items, pre)


def test_a_killed_filling_goes_on(mini, tmp_path, monkeypatch):
    "kill -9 in the middle: no orphans, no damage, and not everything again"
    items, pre = mini
    code = textwrap.dedent(f"""
        import imgclf_nb.pixels as m, os, signal
        from imgclf_nb.data import get_items
        from imgclf_nb.images.preprocessing import Preprocessing
        add, n = m._Writer.add, []
        def slow(self, *a):
            add(self, *a); n.append(1)
            if len(n) == 40: self.keep()
            if len(n) == 60: os.kill(os.getpid(), signal.SIGKILL)
        m._Writer.add = slow
        m.fill_stores(get_items({str(tmp_path/'set')!r}), Preprocessing(size=48), ('exact',))""")
    assert run_code(code, os.environ.copy())[0] == -signal.SIGKILL
    seen = count_decoded(monkeypatch)
    check(items, pre)
    assert len(seen) == items.sha256.nunique() - 40


def test_the_command_lists_and_clears(mini):
    from imgclf_nb.pixels import fill_stores
    items, pre = mini
    fill_stores(items, pre, ('exact',))
    rc, out = command('imgclf_cache')
    assert rc == 0 and 'pixels' in out and 'MB in' in out
    rc, out = command('imgclf_cache', '--clear', 'pixls')
    assert rc != 0 and 'pixels' in out and 'Traceback' not in out
    rc, out = command('imgclf_cache', '--clear', 'pixels')
    assert rc == 0 and 'cleared' in out and 'pixels' not in command('imgclf_cache')[1].split('MB in')[0]
    check(items, pre)


def test_a_batch_larger_than_the_set_and_a_set_of_one(mini):
    from imgclf_nb.training.loaders import get_dls
    items, pre = mini
    pre.classes[:] = sorted(items.label.unique())
    few = items.head(4).assign(split=['train']*3 + ['valid'])
    dls = get_dls(few, pre, 'medium', 4096)
    assert [len(y) for _,y in dls.train] == [3] and [len(y) for _,y in dls.valid] == [1]
    one = items.head(2).assign(split=['train', 'valid'])
    assert [tuple(x.shape) for x,_ in get_dls(one, pre, 'medium', 32).train] == [(1, 3, 48, 48)]


def test_a_store_that_may_not_be_written_is_not_called_a_full_disk(mini, capsys, monkeypatch):
    "The folder of another user, in a cache that is shared: the lock can be taken, the store not be made"
    import imgclf_nb.pixels as m
    items, pre = mini
    def refuse(*args): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(m._Writer, 'open_file', refuse)
    check(items, pre)
    said = capsys.readouterr().out
    assert 'cannot be written (Permission denied)' in said and 'free some space' not in said


def put_folder(path): path.unlink(missing_ok=True); path.mkdir()
def put_pipe(path): path.unlink(missing_ok=True); os.mkfifo(path)
def put_link(path): path.unlink(missing_ok=True); path.symlink_to('/nowhere/at/all')


@pytest.mark.parametrize('put', [put_folder, put_pipe, put_link])
@pytest.mark.parametrize('name', ['index.npy', 'pixels.bin', 'recipe.json'])
def test_what_is_in_the_place_of_a_file_is_said(name, put, mini):
    "Before, a folder raised an IsADirectoryError and a pipe hung"
    from imgclf_nb.core import UserError
    from imgclf_nb.pixels import fill_stores, get_pixels
    items, pre = mini
    folder = fill_stores(items, pre, ('exact',))[0]
    put(folder/name)
    with pytest.raises(UserError, match=f'{name} is a .*: delete {folder} and run again') as error: get_pixels(items, pre, 'exact')
    assert error.value.parameter == 'cache'
    shutil.rmtree(folder)
    check(items, pre)


def test_a_file_in_the_place_of_a_store(mini):
    from imgclf_nb.core import UserError
    from imgclf_nb.pixels import get_pixels, get_store
    items, pre = mini
    folder = get_store(items.attrs['dataset'], pre, 'exact')
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text('')
    with pytest.raises(UserError, match=f'{folder} is no folder: delete'): get_pixels(items, pre, 'exact')


@pytest.mark.parametrize('name', ['index.npy', 'pixels.bin'])
@pytest.mark.parametrize('put', [put_folder, put_link, lambda path: path.write_bytes(b'')])
def test_a_store_that_another_process_spoils_is_said(name, put, mini):
    "Between the filling and the opening"
    from imgclf_nb.core import UserError
    from imgclf_nb.pixels import PixelView, fill_stores
    items, pre = mini
    folder = fill_stores(items, pre, ('exact',))[0]
    put(folder/name)
    with pytest.raises(UserError, match=f'{folder} cannot be read .*: delete it and run again'): PixelView(folder, items.sha256)
