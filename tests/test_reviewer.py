"The reviewer: what is decided is written at once, taken up again, and shown as a table where nobody can press a key"
import io, json, subprocess, sys, time
from pathlib import Path

import nbformat, numpy as np, pandas as pd, pytest
from PIL import Image

from imgclf_nb.core import UserError
from imgclf_nb.datasets.records import decide, get_decisions_path, read_decisions
from imgclf_nb.auditing.review_page import get_jpeg, is_live, render_page
from imgclf_nb.auditing.reviewer import Reviewer, show_reviewer
from imgclf_nb.auditing import review_page as module


@pytest.fixture(autouse=True)
def records(tmp_path, monkeypatch): monkeypatch.setenv('IMGCLF_RECORDS', str(tmp_path/'records'))


@pytest.fixture
def pets(tmp_path):
    "Three cats and three dogs"
    for label in ('cat', 'dog'):
        (tmp_path/'pets'/label).mkdir(parents=True)
        for i in range(3): Image.fromarray(np.full((700, 900, 3), 40*i, np.uint8)).save(tmp_path/'pets'/label/f'{i}.jpg')
    return str(tmp_path/'pets')


def found(*rows): return pd.DataFrame(rows, columns=['path', 'kind', 'detail', 'group', 'severity'])

PETS = found(('', 'size', 'few images', '', 'note'), ('cat/0.jpg', 'label', 'says cat, looks like dog 0.97', '', 'warning'),
    ('cat/1.jpg', 'copy', 'two labels', 'g', 'error'), ('cat/0.jpg', 'dark', '', '', 'note'), ('dog/1.jpg', 'copy', 'two labels', 'g', 'note'))
decided = lambda d: [tuple(r) for r in read_decisions(d).itertuples(index=False)]


def test_one_step_a_picture_and_groups_side_by_side(pets):
    r = Reviewer(pets, PETS)
    assert r.queue == ['cat/1.jpg', 'dog/1.jpg', 'cat/0.jpg']
    assert (r.current['others'], r.current['suggested'], r.current['chosen']) == (['dog/1.jpg'], '', 'dog')
    assert (r.look(2)['suggested'], r.look(2)['says']) == ('dog', ['label: says cat, looks like dog 0.97', 'dark'])


def test_each_decision_is_written_at_once_with_its_reason(pets):
    r = Reviewer(pets, PETS)
    r.drop()
    assert decided(pets) == [('cat/1.jpg', 'drop', '', 'copy: two labels')]
    r.keep().relabel('dog')
    assert decided(pets)[1:] == [('dog/1.jpg', 'keep', '', 'copy: two labels'),
        ('cat/0.jpg', 'relabel', 'dog', 'label: says cat, looks like dog 0.97; dark')]
    assert r.current is None and r.progress == '3 of 3, 1 dropped, 1 relabelled'
    with pytest.raises(UserError, match='reviewed'): r.keep()


def test_a_new_reviewer_goes_on_and_can_go_back(pets):
    Reviewer(pets, PETS).drop()
    r = Reviewer(pets, PETS)
    assert r.current['path'] == 'dog/1.jpg' and r.progress == '1 of 3, 1 dropped'
    assert r.back().current['decided'][0] == 'drop'
    assert [a for _,a,*_ in decided(r.keep().dataset)] == ['keep'] and r.current['path'] == 'dog/1.jpg'


def test_a_killed_process_loses_nothing(pets, tmp_path):
    PETS.to_csv(tmp_path/'f.csv', index=False)  # empty texts come back as NaN
    code = f"import os, pandas as pd; from imgclf_nb.auditing.reviewer import Reviewer; Reviewer({pets!r}, pd.read_csv({str(tmp_path/'f.csv')!r})).keep(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == -9
    assert Reviewer(pets, PETS).current['path'] == 'dog/1.jpg'


def test_skipped_ones_come_again_at_the_end(pets):
    r = Reviewer(pets, PETS).skip().keep().keep()
    assert r.current is None and 'skipped' in render_page(r, {})
    assert r.skip().current['path'] == 'cat/1.jpg'
    r.keep()
    assert r.skip().skip().current is None and 'skipped' not in render_page(r, {})
    assert r.back().current['path'] == 'cat/1.jpg'


def test_undo_restores_what_was_there(pets):
    decide(pets, 'cat/1.jpg', 'group', 'one cat')
    r = Reviewer(pets, PETS)
    r.drop().undo()
    assert decided(pets) == [('cat/1.jpg', 'group', 'one cat', '')] and r.current['path'] == 'cat/1.jpg' and r.progress == '0 of 3'
    r.drop().back().keep().undo()
    assert [a for _,a,*_ in decided(pets)] == ['group', 'drop'] and r.decided['cat/1.jpg'][0] == 'drop'
    r.undo()
    with pytest.raises(UserError, match='no decision'): r.undo()


def test_a_wrong_class_is_refused(pets):
    r = Reviewer(pets, PETS)
    with pytest.raises(UserError, match='Did you mean dog'): r.relabel('dogs')
    with pytest.raises(UserError, match='Choose a class'): r.relabel('')
    assert r.at == 0 and not get_decisions_path(pets).exists()


def test_a_suggested_column_comes_first_and_whole_names_only(pets):
    assert Reviewer(pets, PETS.assign(suggested='cat')).look(2)['suggested'] == 'cat'
    assert Reviewer(pets, PETS.assign(suggested='horse')).look(2)['suggested'] == 'dog'  # no class of this set
    assert Reviewer(pets, PETS.assign(detail='looks like dogfish 0.9')).look(2)['suggested'] == ''


def test_dropped_and_unreadable_files_are_found_without_items(pets):
    from imgclf_nb.data import get_items
    (Path(pets)/'cat'/'2.jpg').write_bytes(b'no image')
    decide(pets, 'cat/0.jpg', 'drop')
    items = get_items(pets)
    assert not {'cat/0.jpg', 'cat/2.jpg'} & set(items.file)
    r = Reviewer(pets, pd.concat([PETS, found(('cat/2.jpg', 'unreadable', 'not an image', '', 'error'))]), items)
    assert r.queue[0] == 'cat/1.jpg' and {*r.queue} <= {*r.paths}
    r.skip().skip()
    assert r.current['path'] == 'cat/2.jpg' and 'cannot be shown: not an image' in render_page(r, {})


def test_a_file_that_is_gone_can_still_be_decided(pets):
    r = Reviewer(pets, found(('cat/<b>9</b>.jpg', 'unreadable', 'was here', '', 'error')))
    page = render_page(r, {})
    assert 'the file is gone' in page and '<b>9' not in page and r.get_table().proposed.tolist() == ['the file is gone']
    assert decided(r.drop().dataset)[0][1] == 'drop'


def test_pictures_are_small_and_few(pets):
    assert max(Image.open(io.BytesIO(get_jpeg(f'{pets}/cat/1.jpg'))).size) == 480
    r, pictures = Reviewer(pets, PETS), {}
    render_page(r, pictures)
    assert set(pictures) == {'cat/1.jpg', 'dog/1.jpg'}
    render_page(r.skip().skip(), pictures)
    assert set(pictures) == {'cat/0.jpg'}


def test_no_findings_is_a_sentence(pets, capsys):
    for none in (PETS.head(0), PETS.head(1), pd.DataFrame()):
        assert show_reviewer(pets, none, live=True) is None
        assert 'nothing to review' in capsys.readouterr().out


def test_all_decided_is_a_sentence(pets, capsys):
    Reviewer(pets, PETS).keep().keep().drop()
    assert show_reviewer(pets, PETS) is None
    assert capsys.readouterr().out == 'Decided: 3 of 3, 1 dropped\n'


def test_the_table(pets, capsys):
    t = show_reviewer(pets, PETS)
    assert t.proposed.tolist() == ['compare dog/1.jpg', 'compare cat/1.jpg', 'relabel dog?'] and not is_live()
    assert len(show_reviewer(pets, PETS, n=2)) == 2


def run_cells(tmp_path, pets, how):
    "A notebook that shows the reviewer, executed"
    PETS.to_csv(tmp_path/'f.csv', index=False)
    src = f'import pandas as pd\nfrom imgclf_nb.auditing.reviewer import show_reviewer\nshow_reviewer({pets!r}, pd.read_csv({str(tmp_path/"f.csv")!r}))'
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(src)], metadata=dict(kernelspec=dict(name='python3', display_name='', language='python')))
    nbformat.write(nb, tmp_path/'in.ipynb')
    how(tmp_path/'in.ipynb', tmp_path/'out.ipynb')
    return json.loads((tmp_path/'out.ipynb').read_text())


def by_papermill(a, b):
    import papermill
    papermill.execute_notebook(a, b, progress_bar=False, kernel_manager_class='imgclf_nb.base.kernels.PrivateKernel')


def by_nbclient(a, b):
    from nbclient import NotebookClient
    nb = nbformat.read(a, 4)
    NotebookClient(nb, kernel_manager_class='imgclf_nb.base.kernels.PrivateKernel').execute()
    nbformat.write(nb, b)


@pytest.mark.parametrize('how', [by_papermill, by_nbclient])
def test_without_a_person_it_is_a_table(tmp_path, pets, how, monkeypatch):
    monkeypatch.setenv('JPY_SESSION_NAME', 'x.ipynb')  # as when papermill is started from within JupyterLab
    nb = run_cells(tmp_path, pets, how)
    out = [o for o in nb['cells'][-1]['outputs'] if 'data' in o]
    assert len(out) == 1 and '<table' in ''.join(out[0]['data']['text/html'])
    assert 'widget' not in json.dumps(nb)


def test_with_a_person_it_is_a_widget_that_carries_the_table(tmp_path, pets):
    "JupyterLab allows the kernel to ask for input; here a client says the same"
    pytest.importorskip('anywidget')
    from jupyter_client.manager import start_new_kernel
    km, kc = start_new_kernel(kernel_name='python3')
    seen, stop = [], lambda: (kc.stop_channels(), km.shutdown_kernel(now=True))
    PETS.to_csv(tmp_path/'f.csv', index=False)
    try:
        kc.execute_interactive(f"import pandas as pd; from imgclf_nb.auditing.reviewer import show_reviewer\nshow_reviewer({pets!r}, pd.read_csv({str(tmp_path/'f.csv')!r}))",
            allow_stdin=True, stdin_hook=print, output_hook=lambda m: seen.append(m['content'].get('data', {})), timeout=300)
    finally: stop()
    data = next(d for d in seen if 'text/html' in d)
    assert 'application/vnd.jupyter.widget-view+json' in data and '<table' in data['text/html'] and 'looks like dog' in data['text/plain']


@pytest.fixture
def widget(pets):
    pytest.importorskip('anywidget')
    return show_reviewer(pets, PETS, live=True)

def press(w, key, label='', turn=None): w._handle_custom_msg(dict(key=key, label=label, turn=turn or w.page['turn']), [])


def test_keys_decide(widget, pets):
    for key,label in (('k', 'dog'), ('d', ''), ('r', 'dog')): press(widget, key, label)
    assert [a for _,a,*_ in decided(pets)] == ['keep', 'drop', 'relabel']
    press(widget, 'back'); press(widget, 'skip'); press(widget, 'u')
    assert [a for _,a,*_ in decided(pets)] == ['keep', 'drop']


def test_outliers_are_decided_with_keys(pets):
    pytest.importorskip('anywidget')
    from imgclf_nb.auditing.findings import make_findings
    rows = [(path, 'outlier', 'nearest to dog, 4.6 times the median distance') for path in ('cat/0.jpg', 'cat/1.jpg', 'dog/0.jpg')]
    w = show_reviewer(pets, make_findings(rows), live=True)
    assert 'nearest to dog' in w.page['html'] and w.reviewer.current['suggested'] == ''  # it may be no dog either
    for key,label in (('k', ''), ('d', ''), ('r', 'cat')): press(w, key, label)
    assert [row[:3] for row in decided(pets)] == [('cat/0.jpg', 'keep', ''), ('cat/1.jpg', 'drop', ''), ('dog/0.jpg', 'relabel', 'cat')]
    assert decided(pets)[0][3] == 'outlier: nearest to dog, 4.6 times the median distance'


def test_the_next_picture_is_made_beforehand(widget): assert set(widget.images) == {'cat/1.jpg', 'dog/1.jpg'}


def test_a_key_pressed_too_early_decides_nothing(widget, pets):
    press(widget, 'k', turn=1); press(widget, 'd', turn=1)
    assert [a for _,a,*_ in decided(pets)] == ['keep']


def test_what_goes_wrong_is_said(widget, pets):
    press(widget, 'r', '')
    assert 'Choose a class first' in widget.page['html'] and widget.reviewer.at == 0
    get_decisions_path(pets).parent.mkdir(parents=True, exist_ok=True)
    get_decisions_path(pets).write_text('path,action\nx,eat\n')
    press(widget, 'k')
    assert 'is not an action' in widget.page['html'] and widget.reviewer.at == 0


def test_without_anywidget_it_says_what_to_install(pets, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'anywidget', None)
    with pytest.raises(UserError, match='pip install anywidget'): show_reviewer(pets, PETS, live=True)
    monkeypatch.setattr(module, 'is_live', lambda: True)
    assert len(show_reviewer(pets, PETS)) == 3 and 'pip install anywidget' in capsys.readouterr().out  # a guess breaks nothing


def test_three_thousand_findings_without_lag(tmp_path):
    root, files = tmp_path/'many', [f'c{i%10}/{i}.jpg' for i in range(3000)]
    for i in range(10): (root/f'c{i}').mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(tmp_path/'one.jpg')
    for o in files: (root/o).hardlink_to(tmp_path/'one.jpg')
    many = found(*((o, 'label', f'looks like c{(i+1)%10} 0.9', f'g{i//2}', 'warning') for i,o in enumerate(files)))
    decide(str(root), files[:2900], 'keep')
    start = time.process_time()  # of this process: a busy machine is no lag
    r, pictures, times = Reviewer(str(root), many), {}, []
    assert time.process_time() - start < 10 and r.at == 2900
    for i in range(60):
        start = time.process_time()
        r.relabel(r.current['chosen']) if i % 2 else r.drop()
        render_page(r, pictures)
        times.append(time.process_time() - start)  # 40 ms on two cores; the bound is for slow machines
    assert np.median(times) < 1 and r.progress == '2960 of 3000, 30 dropped, 30 relabelled'
    assert len(decided(str(root))) == 2960
