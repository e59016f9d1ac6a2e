"The page for people, in headless Chromium: by mouse, by keyboard, on a phone, in the dark, with a key, and offline"
import io, os, re
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from website import find_browser

sync_api = pytest.importorskip('playwright.sync_api', reason='playwright drives the browser: make test-tools')
axe_module = pytest.importorskip('axe_playwright_python.sync_playwright', reason='axe-core: make test-tools')
if not find_browser(): pytest.skip('no Chromium: make test-tools', allow_module_level=True)

from stand_in import CLASSES, StandIn, serve

pytestmark = pytest.mark.xdist_group('page')  # one browser
expect = sync_api.expect
expect.set_options(timeout=60_000)
# The tests run in the browser of the system; nothing but loopback is found
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1']
SHOTS = os.environ.get('IMGCLF_SCREENSHOTS')  # a folder that keeps what the tests saw


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def images(tmp_path):
    "Makes files by their names: `.png` are images, others hold the given bytes"
    def make(name, content=None, size=(320, 240)):
        path = tmp_path/name
        if content is None:
            image = Image.new('RGB', size, '#c9b28f')
            ImageDraw.Draw(image).ellipse([size[0]//4, size[1]//4, size[0]//2, size[1]*3//4], fill='#35506b')
            out = io.BytesIO()
            image.save(out, 'PNG')
            content = out.getvalue()
        path.write_bytes(content)
        return str(path)
    return make


class Visit:
    "A page of a service, with all that it asked and complained about"
    def __init__(self, browser, service, address, **options):
        self.service, self.address = service, address
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.requests, self.complaints = [], []
        self.page.on('request', lambda request: self.requests.append(request.url))
        self.page.on('pageerror', lambda error: self.complaints.append(str(error)))
        self.page.on('console', self.note)
        self.page.on('filechooser', lambda chooser: None)  # from now on none opens; asked for later, it may be too late
        self.page.goto(address)

    def note(self, message):
        "Failed requests are answers of the service; all else is a fault of the page"
        if message.type in ('error', 'warning') and 'Failed to load resource' not in message.text:
            self.complaints.append(message.text)

    def choose(self, *paths): self.page.set_input_files('#choose', list(paths))

    def card(self, number=0): return self.page.locator('.card').nth(number)

    def expect_answer(self, text, number=0): expect(self.card(number).locator('.answer')).to_have_text(text)

    def expect_status(self, text): expect(self.page.locator('#status')).to_have_text(text)

    def keep(self, name):
        if SHOTS: self.page.screenshot(path=str(Path(SHOTS)/f'{name}.png'), full_page=True)

    def find_outside(self): return [url for url in self.requests if not url.startswith((f'{self.address}/', 'blob:', 'data:'))]


@pytest.fixture
def visit(browser):
    "Opens the page of a stand-in; at the end it has complained of nothing and asked nobody else"
    visits, served = [], []
    def open_page(key='', options={}, **model):
        service = StandIn(key, **model)
        context = serve(service.app)
        visits.append(Visit(browser, service, context.__enter__(), **options))
        served.append(context)
        return visits[-1]
    yield open_page
    for one in visits:
        one.context.close()
        assert one.complaints == [] and one.find_outside() == []
    for context in served: context.__exit__(None, None, None)


# ---- answers

def test_an_image_is_answered(visit, images):
    seen = visit()
    seen.choose(images('sure.png'))
    seen.expect_answer('cables, 93 %')
    seen.expect_status('sure.png: cables, 93 %')
    expect(seen.page.locator('#any-image')).to_contain_text('does not look like what it was trained on')
    bars = seen.card().locator('.bars li')
    assert bars.count() == len(CLASSES) and bars.locator('visible=true').count() == 5
    expect(bars.first).to_have_text('cables93 %')
    box, fill = seen.card().locator('.bar').first.bounding_box(), seen.card().locator('.fill').first.bounding_box()
    assert abs(fill['width']/box['width'] - .93) < .01
    seen.card().get_by_role('button', name='Show all 9 classes').click()
    assert bars.locator('visible=true').count() == 9
    assert seen.card().locator('img').evaluate('image => image.naturalWidth') == 320
    seen.keep('desktop')


@pytest.mark.parametrize('name, answer, more', [
    ('unsure', 'Not sure: it may be one of cables, case, or cpu.', 'It decides for a class from a probability of 60 % on.'),
    ('several', 'Not sure: it may be one of cables or case.', 'Its decision is cables, 62 %.'),
    ('any', 'Not sure: it may be any of the 9 classes.', 'Its decision is cables, 20 %.'),
    ('unlike', 'This does not look like what the model was trained on.',
        'Of 1,000 images like those it learnt from, 4 look as strange.')])
def test_a_doubt_is_said(visit, images, name, answer, more):
    seen = visit()
    seen.choose(images(f'{name}.png'))
    seen.expect_answer(answer)
    expect(seen.card().locator('.more')).to_contain_text(more)


def test_a_doubt_without_prediction_sets(visit, images):
    from unittest.mock import patch
    with patch.dict('stand_in.SETS', unsure=0):
        seen = visit(coverage=None)
        seen.choose(images('unsure.png'))
        seen.expect_answer('Not sure: it may be one of cables, case, or cpu.')


def test_a_threshold_is_explained(visit, images):
    seen = visit(classes=['healthy', 'ill'], positive='ill', threshold=.3, least=None,
        trained_on=dict(images=100, by_class=dict(healthy=73, ill=27)))
    seen.choose(images('below.png'))
    seen.expect_answer('ill, 35 %')
    expect(seen.card().locator('.more')).to_contain_text('It decides for ill from a probability of 30 % on.')


def test_one_broken_file_among_several(visit, images):
    seen = visit()
    seen.choose(images('a.png'), images('b.jpg', b'no image at all'), images('c.png'), images('d.png'), images('e.png'))
    seen.expect_answer(re.compile('^Not an image that can be read .*: send a JPEG or a PNG.$'), 1)
    for number in (0, 2, 3, 4): seen.expect_answer('cables, 93 %', number)
    seen.expect_status('4 answers; 1 image without an answer.')
    expect(seen.card(1)).to_contain_text('This browser shows no preview of it.')
    assert [path for _,path,_ in seen.service.calls].count('/predict') == 1
    seen.keep('several')


def test_a_broken_file_alone(visit, images):
    seen = visit()
    seen.choose(images('b.jpg', b'<svg/>'))
    seen.expect_answer(re.compile('^Not an image that can be read .*: send a JPEG or a PNG.$'))
    assert seen.card().get_by_role('button', name='Try again').count() == 0  # it would not help
    seen.card().get_by_role('button', name='Remove b.jpg').click()
    assert seen.page.locator('.card').count() == 0
    expect(seen.page.locator('#choose')).to_be_focused()


def test_files_that_the_server_would_refuse_are_not_sent(visit, images):
    seen = visit()
    seen.choose(images('big.png', b'0'*2_500_000), images('empty.png', b''), images('sure.png'))
    seen.expect_answer('This file has 2.5 MB; the server takes up to 2 MB.', 0)
    seen.expect_answer('This file is empty.', 1)
    seen.expect_answer('cables, 93 %', 2)


def test_many_images_are_cut_into_requests(visit, images):
    seen = visit(limits=dict(body_bytes=2_000_000, images=4, pixels=1, seconds=1))
    seen.choose(*[images(f'{number}.png') for number in range(10)])
    seen.expect_status('10 answers.')
    assert [path for _,path,_ in seen.service.calls].count('/predict') == 3


def test_names_are_texts(visit, images):
    name = '<b>bold</b>'
    seen = visit(classes=[name, 'other'], trained_on=dict(images=2, by_class={name: 1, 'other': 1}))
    seen.choose(images('<img src=x onerror=alert(1)>.png'))
    seen.expect_answer('<b>bold</b>, 93 %')
    assert seen.card().locator('.name').inner_text() == '<img src=x onerror=alert(1)>.png'
    assert seen.page.locator('b').count() == 0


def test_a_busy_server_is_asked_again(visit, images):
    seen = visit()
    seen.service.busy = 1
    seen.choose(images('sure.png'))
    seen.expect_status('The server is busy. It is asked again in 1 second.')
    seen.expect_answer('cables, 93 %')


def test_a_server_that_stays_busy_and_comes_back(visit, images):
    seen = visit()
    seen.service.busy = 3
    seen.choose(images('sure.png'))
    seen.expect_answer('Too many images are waiting: try again.')
    seen.card().get_by_role('button', name='Try again').click()
    seen.expect_answer('cables, 93 %')


def test_a_server_that_has_gone(visit, images):
    seen = visit()
    seen.page.wait_for_selector('#about')
    seen.context.set_offline(True)
    seen.choose(images('sure.png'))
    seen.expect_answer('The server does not answer. Check the connection, then try again.')
    seen.context.set_offline(False)
    seen.card().get_by_role('button', name='Try again').click()
    seen.expect_answer('cables, 93 %')


def test_a_server_that_cannot_say_what_its_model_is(visit, images):
    "Whatever is wrong with it, a later try may go well"
    seen = visit(classes=None)
    seen.expect_status('The server answered with status 500.')
    seen.choose(images('sure.png'))
    seen.expect_answer('The server answered with status 500.')
    seen.service.model['classes'] = CLASSES
    seen.card().get_by_role('button', name='Try again').click()
    seen.expect_answer('cables, 93 %')


# ---- drop, paste

GIVE = '''([kind, name, type, content]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0))
    const data = new DataTransfer()
    if (name) data.items.add(new File([bytes], name, {type}))
    else data.setData('text/plain', 'a text')
    const options = {bubbles: true, cancelable: true}
    if (kind == 'drop') document.body.dispatchEvent(new DragEvent('drop', {...options, dataTransfer: data}))
    else document.body.dispatchEvent(new ClipboardEvent('paste', {...options, clipboardData: data}))
}'''


@pytest.mark.parametrize('kind, complaint', [('drop', 'Only files can be dropped: save the image first.'),
    ('paste', 'The clipboard holds no image.')])
def test_drop_and_paste(visit, images, kind, complaint):
    import base64
    seen = visit()
    content = base64.b64encode(Path(images('sure.png')).read_bytes()).decode()
    seen.page.evaluate(GIVE, [kind, 'given.png', 'image/png', content])
    seen.expect_answer('cables, 93 %')
    seen.page.evaluate(GIVE, [kind, '', '', ''])
    seen.expect_status(complaint)


# ---- maps, corrections, the model

def test_a_saliency_map(visit, images):
    seen = visit()
    seen.choose(images('sure.png'))
    seen.card().get_by_role('button', name='Show what it looked at').click()
    shown = seen.card().get_by_alt_text('Saliency map of sure.png: orange regions speak for cables.')
    expect(shown).to_be_visible()
    assert shown.evaluate('image => image.naturalWidth') == 224
    expect(seen.card().locator('figcaption')).to_be_focused()
    seen.keep('saliency')


def test_no_map_without_explain(visit, images):
    seen = visit(explain=False)
    seen.choose(images('sure.png'))
    seen.expect_answer('cables, 93 %')
    assert seen.card().get_by_role('button', name='Show what it looked at').count() == 0


@pytest.mark.parametrize('choice, text, label', [('keyboard', '', 'keyboard'), ('none of these', '', 'none of these'),
    ('something else …', 'a <b>cat</b>', 'a <b>cat</b>')])
def test_a_correction(visit, images, choice, text, label):
    seen = visit()
    seen.choose(images('a.png'), images('b.png'))
    seen.card(1).get_by_role('button', name='This is wrong').click()
    seen.card(1).get_by_label('This is wrong, it is a …').select_option(choice)
    if text: seen.card(1).get_by_label('What it is instead').fill(text)
    seen.card(1).get_by_role('button', name='Send the correction').click()
    expect(seen.card(1)).to_contain_text(f'Thank you. The correction is kept: {label}.')
    sent = seen.service.corrections
    assert [(row['index'], row['label']) for row in sent] == [(1, label)] and re.fullmatch('[0-9a-f]{16}', sent[0]['request_id'])


def test_what_the_model_is(visit):
    seen = visit()
    about = seen.page.locator('#about')
    expect(about).to_contain_text('On 369 images that it had never seen, about 79 of 100 answers were correct.')
    expect(about).to_contain_text('75 to 83 of 100 (accuracy 79.4 %, 95 % confidence interval 74.8 % to 83.3 %)')
    expect(about).to_contain_text('It was trained on 1,265 images of 9 classes (pc_parts).')
    expect(seen.page.locator('header')).to_contain_text('for any image, also for one that shows something else.')
    about.locator('summary').click()
    expect(about.locator('tbody tr').nth(1)).to_have_text('case105')
    with seen.page.expect_download() as download: about.get_by_role('button', name='Download the model card').click()
    assert download.value.suggested_filename == 'parts-s0-model-card.html'
    seen.keep('about')


@pytest.mark.parametrize('log, said', [(None, 'It keeps neither images nor answers.'),
    (dict(keeps_images=False), 'such as size and brightness, but no image.'), (dict(keeps_images=True), 'brightness, and the images.')])
def test_what_is_kept(visit, images, log, said):
    seen = visit(log=log)
    expect(seen.page.locator('#privacy')).to_contain_text(said)
    seen.choose(images('sure.png'))
    seen.expect_answer('cables, 93 %')
    assert ('Kept as request' in seen.card().inner_text()) == bool(log)


def test_an_accuracy_that_nobody_measured(visit):
    seen = visit(accuracy=None, trained_on=None)
    expect(seen.page.locator('#about')).to_contain_text('Nobody has measured how often this model is correct.')


# ---- the key

def test_a_key_is_asked_for_once(visit, images):
    seen = visit(key='s3cret')
    expect(seen.page.locator('#key')).to_be_focused()
    seen.choose(images('sure.png'))  # waits
    seen.expect_status('The images wait for the API key.')
    seen.keep('key')
    seen.page.get_by_label('Key', exact=True).fill('wrong')
    seen.page.keyboard.press('Enter')
    expect(seen.page.locator('#key-error')).to_have_text('This key is not accepted.')
    seen.page.get_by_label('Key', exact=True).fill('s3cret')
    seen.page.keyboard.press('Enter')
    seen.expect_answer('cables, 93 %')
    assert not seen.page.locator('#key-form').is_visible()
    seen.page.reload()
    seen.choose(images('sure.png'))
    seen.expect_answer('cables, 93 %')
    assert ('POST', '/predict', 's3cret') in seen.service.calls
    seen.page.get_by_role('button', name='Forget the API key').click()
    expect(seen.page.locator('#key')).to_be_focused()
    assert seen.page.evaluate('sessionStorage.length') == 0 and 's3cret' not in ''.join(seen.requests)


# ---- for everybody

def press_until(page, selector, most=30):
    "Tab until an element has the focus"
    for _ in range(most):
        page.keyboard.press('Tab')
        if page.locator(selector).first.evaluate('element => element === document.activeElement'): return
    pytest.fail(f'{selector} is not reached by Tab')


def test_by_keyboard_alone(visit, images):
    seen = visit()
    page = seen.page
    page.wait_for_selector('#about:not([hidden])')
    press_until(page, '#choose', 1)  # the first thing that one meets
    outline = page.locator('label.button').first.evaluate('element => getComputedStyle(element).outlineStyle')
    assert outline == 'solid'
    with page.expect_file_chooser() as chooser: page.keyboard.press('Enter')
    chooser.value.set_files(images('sure.png'))
    seen.expect_answer('cables, 93 %')
    press_until(page, '.actions button:has-text("This is wrong")')
    page.keyboard.press('Enter')
    expect(page.locator('.feedback select')).to_be_focused()
    page.keyboard.type('keyb')
    page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    expect(page.locator('p.feedback')).to_be_focused()
    assert seen.service.corrections[0]['label'] == 'keyboard'
    press_until(page, '.actions button:has-text("Remove")')
    page.keyboard.press('Enter')
    expect(page.locator('#choose')).to_be_focused()


LOOKS = dict(light={}, dark=dict(color_scheme='dark'),
    phone=dict(viewport=dict(width=360, height=740), has_touch=True, is_mobile=True, device_scale_factor=2),
    phone_dark=dict(viewport=dict(width=360, height=740), has_touch=True, is_mobile=True, color_scheme='dark'),
    contrast=dict(forced_colors='active', reduced_motion='reduce'))


@pytest.mark.parametrize('look', LOOKS)
def test_everybody_can_use_it(visit, images, look):
    "axe-core finds nothing serious, nothing is wider than the window, and what is pressed is large enough"
    seen = visit(options=LOOKS[look])
    page = seen.page
    seen.choose(images('a_very_long_name_without_any_place_to_break_it_0123456789.png'), images('unsure.png', size=(240, 900)),
        images('b.jpg', b'broken'), images('several.png'))
    seen.expect_status('3 answers; 1 image without an answer.')
    seen.card(0).get_by_role('button', name='This is wrong').click()
    seen.card(0).get_by_label('This is wrong, it is a …').select_option('something else …')
    seen.card(1).get_by_role('button', name='Show what it looked at').click()
    expect(seen.card(1).locator('figure')).to_be_visible()
    page.locator('summary').click()
    seen.keep(look)
    found = axe_module.Axe().run(page).response['violations']
    assert [(rule['id'], rule['impact'], rule['nodes'][0]['html'][:120]) for rule in found] == []
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    sizes = page.evaluate('''[...document.querySelectorAll('button, label.button, select, summary')]
        .map(element => element.getBoundingClientRect()).filter(box => box.width).map(box => box.height)''')
    assert min(sizes) >= 44
    assert page.locator('#photo-label').is_visible() == look.startswith('phone')
    if look == 'contrast': assert page.evaluate('matchMedia("(forced-colors: active)").matches')


def test_the_key_form_can_be_used_by_everybody(visit):
    seen = visit(key='s3cret')
    assert [rule['id'] for rule in axe_module.Axe().run(seen.page).response['violations']] == []


def test_nothing_runs_that_the_policy_does_not_name(visit):
    "A script that gets into the page does not run; a request to elsewhere is not sent"
    seen = visit()
    found = seen.page.evaluate('''async () => {
        const script = document.createElement('script')
        try { script.textContent = 'window.foreign = true' } catch (error) { return error.name }
        document.body.append(script)
        return window.foreign
    }''')
    assert found in ('TypeError', None)
    assert seen.page.evaluate('fetch("https://example.org").then(() => "sent", () => "refused")') == 'refused'
    assert any('Content Security Policy' in text for text in seen.complaints)
    seen.complaints.clear()
    seen.requests[:] = [url for url in seen.requests if 'example.org' not in url]


# ---- the service itself

class Opened:
    "A running server in the place of a stand-in"
    def __init__(self, local): self.local, self.calls = local, []


def test_the_service_itself(browser, images, tmp_path, monkeypatch):
    "The page and the server agree: key, answers, an unreadable image, a correction that the log keeps, the model"
    pytest.importorskip('httpx')
    from imgclf_nb.server.example_run import make_example_run
    from imgclf_nb.serving import LocalServer
    monkeypatch.setenv('IMGCLF_RUNS', str(tmp_path/'runs'))
    key, log = tmp_path/'key', f'sqlite:///{tmp_path}/log.sqlite'
    key.write_text('a-key-of-24-letters-here')
    with LocalServer(str(make_example_run()), workers=1, log=log, api_key_file=str(key)) as local:
        seen = Visit(browser, Opened(local), local.address)
        seen.page.get_by_label('Key', exact=True).fill(key.read_text())
        seen.page.keyboard.press('Enter')
        expect(seen.page.locator('#about')).to_contain_text('Run example')
        expect(seen.page.locator('#privacy')).to_contain_text('but no image.')
        seen.choose(images('a.png'), images('b.jpg', b'<svg/>'))
        seen.expect_answer(re.compile('^Not an image that can be read: SVG.*[.]$'), 1)
        expect(seen.card(0).locator('.answer')).to_have_text(re.compile('cat|dog'))
        shares = [float(text.strip('<> %')) for text in seen.card(0).locator('.number').all_inner_texts()]
        assert abs(sum(shares) - 100) <= 1
        seen.card(0).get_by_role('button', name='This is wrong').click()
        seen.card(0).get_by_label('This is wrong, it is a …').select_option('none of these')
        seen.card(0).get_by_role('button', name='Send the correction').click()
        expect(seen.card(0)).to_contain_text('The correction is kept: none of these.')
        with seen.page.expect_download() as download: seen.page.get_by_role('button', name='Download the model card').click()
        assert '<main>' in Path(download.value.path()).read_text()
        assert axe_module.Axe().run(seen.page).response['violations'] == []
        seen.context.close()
        assert seen.complaints == [] and seen.find_outside() == []
    import sqlite3
    with sqlite3.connect(tmp_path/'log.sqlite') as database:
        assert database.execute('select label from corrections').fetchall() == [('none of these',)]
