"""The site's stylesheets made small, and its pages looked at in headless Chromium.

`python tests/website.py slim _docs` leaves in the themes what the pages use: a part of `make docs`.
`python tests/website.py check _docs` opens every page at 1,400 and at 400 pixels, light and dark,
and names what is wrong (`make check-docs`); without Chromium it reads the files only."""
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

WIDE, NARROW = 1400, 400  # a laptop's window and a phone, in CSS pixels
MOST_BYTES = 1_000_000  # one page with all that it loads, uncompressed
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-background-networking', '--remote-debugging-port=0',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1')

IS_DARK = r"""getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3)
  .reduce((sum, part) => sum + Number(part), 0) < 3 * 128"""

# What a page looks like at the width that the window has
MEASURE = r"""(() => {
  const longest = text => text.split('\n').reduce((a, b) => b.length > a.length ? b : a)
  const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)
  const inScroller = e => e.tagName != 'MAIN' && (scrolls(e) || inScroller(e.parentElement))
  const edge = document.documentElement.clientWidth
  const isOut = e => e.getBoundingClientRect().width && e.getBoundingClientRect().right > edge + 1
  const main = document.querySelector('main')
  const code = [...main.querySelectorAll('pre')].filter(e => !e.closest('.cell-output'))
  const sidebar = document.getElementById('quarto-sidebar')
  return {
    width: document.documentElement.scrollWidth,
    cut: code.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => longest(e.innerText)),
    out: [...main.querySelectorAll('*')].filter(e => isOut(e) && !inScroller(e))
      .map(e => `<${e.tagName.toLowerCase()}> ${e.textContent.trim().slice(0, 60)}`),
    unseen: [...main.querySelectorAll('img')].filter(e => !e.naturalWidth)
      .map(e => e.src.slice(-60)),
    below: sidebar ? sidebar.getBoundingClientRect().bottom - innerHeight : 0,
  }
})()"""


# ---- small stylesheets

def get_words(folder: Path) -> set:
    """Names of classes that a page has or a script may set."""
    scripts = [path.read_text(encoding='utf-8') for path in folder.rglob('*.js')]
    pages = [path.read_text(encoding='utf-8') for path in folder.rglob('*.html')]
    texts = [classes for page in pages for classes in re.findall(r'class="([^"]*)"', page)]
    return {word for text in texts + scripts for word in re.findall(r'[\w-]+', text)}


def is_used(selectors: str, words: set) -> bool:
    """Whether one of a rule's selectors can match: all of its classes are among the words."""
    plain = re.sub(r':not\([^)]*\)', '', selectors)
    classes = [re.findall(r'\.(-?[A-Za-z_][\w-]*)', selector) for selector in plain.split(',')]
    return any(words.issuperset(names) for names in classes)


def slim_stylesheet(text: str, words: set) -> str:
    """A stylesheet without imports from elsewhere and without rules that nothing uses."""

    def keep(rule):
        return rule[0] if is_used(rule[1], words) else ''

    text = re.sub(r'@import\s+url\([^)]*\);?', '', text)
    text = re.sub(r'([^{}@;]+)\{[^{}]*\}', keep, text)
    return re.sub(r'@(media|supports)[^{}]*\{\s*\}', '', text)


def slim(folder: Path) -> None:
    """Take out of a site's themes and icons what its pages do not use."""
    words = get_words(folder)
    libraries = folder/'site_libs'
    icons = libraries/'bootstrap-icons'/'bootstrap-icons.min.css'
    for path in [*libraries.glob('themes/*.css'), icons]:
        text = slim_stylesheet(path.read_text(encoding='utf-8'), words)
        path.write_text(text, encoding='utf-8')


# ---- what the files say

def find_outside(folder: Path) -> list:
    """Scripts, styles, images and fonts that a site would fetch from elsewhere, with their file."""
    loading = r'<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc="(?:https?:)?//[^"]*"'
    linking = r'<link\b[^>]*\bhref="(?:https?:)?//[^"]*"'
    styling = r'@import[^;]*//[^;]*|url\(["\']?(?:https?:)?//[^)]*'
    wanted = {'.html': f'{loading}|{linking}', '.css': styling}
    paths = [path for path in sorted(folder.rglob('*')) if path.suffix in wanted]
    return [f'{path.relative_to(folder)}: {found[:120]}' for path in paths
        for found in re.findall(wanted[path.suffix], path.read_text(encoding='utf-8'))]


# ---- what Chromium says

def find_browser() -> str | None:
    """The path of Chromium or Chrome, if there is one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""
    def log_message(self, *args): pass


@contextmanager
def serve(folder: Path):
    """The address at which a folder is served meanwhile."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_port}'
    finally:
        server.shutdown()
        server.server_close()


class Tab:
    """One tab of a browser, spoken to by the DevTools protocol."""

    def __init__(self, address: str):
        from websocket import create_connection  # comes with jupyterlab
        self.socket = create_connection(address, timeout=120, suppress_origin=True)
        self.events, self.count = [], 0
        for domain in ('Page', 'Network', 'Runtime', 'Log'):
            self.send(f'{domain}.enable')
        self.send('Network.setCacheDisabled', cacheDisabled=True)

    def receive(self) -> dict:
        """The next message; an event is kept."""
        message = json.loads(self.socket.recv())
        if 'method' in message: self.events.append(message)
        return message

    def send(self, method: str, **params) -> dict:
        """The result of a method."""
        self.count += 1
        self.socket.send(json.dumps(dict(id=self.count, method=method, params=params)))
        message = {}
        while message.get('id') != self.count:
            message = self.receive()
        if 'error' in message: raise RuntimeError(f"{method}: {message['error']['message']}")
        return message['result']

    def get_events(self, method: str) -> list:
        """What each event of this kind said since the page was opened."""
        return [event['params'] for event in self.events if event['method'] == method]

    def open(self, url: str) -> None:
        """Open a page, and wait until all of it is loaded."""
        self.events.clear()
        self.send('Page.navigate', url=url)
        while not self.get_events('Page.loadEventFired'):
            self.receive()

    def evaluate(self, script: str):
        """The value of a script in the page."""
        options = dict(returnByValue=True, awaitPromise=True)
        result = self.send('Runtime.evaluate', expression=script, **options)
        if 'exceptionDetails' in result: raise RuntimeError(f"{result['exceptionDetails']}")
        return result['result'].get('value')

    def look(self, width: int, dark: bool = False) -> dict:
        """What the page measures at a width, in a light or a dark window."""
        self.send('Emulation.setDeviceMetricsOverride',
            width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = dict(name='prefers-color-scheme', value='dark' if dark else 'light')
        self.send('Emulation.setEmulatedMedia', features=[scheme])
        is_dark = self.wait_for_scheme(dark)
        return dict(self.evaluate(MEASURE), is_dark=is_dark)

    def wait_for_scheme(self, dark: bool, seconds: float = 30) -> bool:
        """Whether the page is dark, once it is as wanted or the time is over."""
        until = time.monotonic() + seconds
        is_dark = self.evaluate(IS_DARK)
        while is_dark != dark and time.monotonic() < until:
            time.sleep(.05)
            is_dark = self.evaluate(IS_DARK)
        return is_dark


def wait_for_address(profile: Path, seconds: float = 120) -> str:
    """The address of the first tab of a browser that is starting."""
    note = profile/'DevToolsActivePort'
    until = time.monotonic() + seconds
    while not (note.exists() and '\n' in note.read_text()):
        if time.monotonic() > until: raise TimeoutError(f'no browser after {seconds:g} seconds')
        time.sleep(.05)
    with urlopen(f'http://127.0.0.1:{note.read_text().split()[0]}/json/list') as answer:
        tabs = json.load(answer)
    return next(tab['webSocketDebuggerUrl'] for tab in tabs if tab['type'] == 'page')


@contextmanager
def open_tab():
    """A tab of a headless browser, which ends with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [find_browser(), *FLAGS, f'--user-data-dir={profile}', 'about:blank']
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield Tab(wait_for_address(Path(profile)))
        finally:
            process.terminate()
            process.wait(60)


def get_errors(tab: Tab) -> list:
    """Errors in the console since the page was opened."""
    entries = [event['entry'] for event in tab.get_events('Log.entryAdded')]
    thrown = [event['exceptionDetails'] for event in tab.get_events('Runtime.exceptionThrown')]
    calls = tab.get_events('Runtime.consoleAPICalled')
    bad = [entry for entry in entries if entry['level'] == 'error']
    logged = [f"{entry['text']} {entry.get('url', '')}" for entry in bad]
    shouts = [call for call in calls if call['type'] == 'error']
    printed = [f"{value.get('value')}" for call in shouts for value in call['args']]
    return logged + printed + [details['text'] for details in thrown]


def find_load_problems(tab: Tab, base: str) -> list:
    """Errors in the console, requests to elsewhere, too many bytes, since the page was opened."""
    urls = [event['request']['url'] for event in tab.get_events('Network.requestWillBeSent')]
    outside = [url for url in urls if not url.startswith((f'{base}/', 'data:', 'blob:'))]
    sizes = [event['encodedDataLength'] for event in tab.get_events('Network.loadingFinished')]
    problems = [f'asks elsewhere: {url}' for url in outside]
    problems += [f'console: {text}' for text in get_errors(tab)]
    if sum(sizes) > MOST_BYTES:
        problems.append(f'loads {sum(sizes):,.0f} bytes, more than {MOST_BYTES:,}')
    return problems


def find_look_problems(tab: Tab) -> list:
    """What does not fit or cannot be seen, on a laptop and on a phone, light and dark."""
    narrow, dark, wide = tab.look(NARROW), tab.look(WIDE, dark=True), tab.look(WIDE)
    problems = [f'a code line is cut off at {WIDE}: {line}' for line in wide['cut']]
    problems += [f'an image does not load: {src}' for src in wide['unseen']]
    for width, seen in ((WIDE, wide), (NARROW, narrow)):
        if seen['width'] > width: problems.append(f"is {seen['width']} pixels wide at {width}")
        problems += [f'reaches beyond the window at {width}: {what}' for what in seen['out'][:3]]
        if seen['below'] > 1: problems.append(f'the end of the sidebar is out of reach at {width}')
    if wide['is_dark']: problems.append('is dark in a light window')
    if not dark['is_dark']: problems.append('is light in a dark window')
    return problems


def find_problems(folder: Path, pages: list | None = None) -> dict:
    """What is wrong with each page of a site (all pages by default), by the page's name."""
    every = [path.relative_to(folder).as_posix() for path in folder.rglob('*.html')]
    pages = pages or sorted(every)
    found = {}
    with serve(folder) as base, open_tab() as tab:
        for page in pages:
            tab.open(f'{base}/{page}')
            found[page] = find_load_problems(tab, base) + find_look_problems(tab)
    return {page: problems for page, problems in found.items() if problems}


def check(folder: Path) -> int:
    """Print what is wrong with a site; the number of problems."""
    lines = find_outside(folder)
    if find_browser() is None:
        print('No Chromium here: the pages were read, not looked at.')
    else:
        found = find_problems(folder)
        lines += [f'{page}: {problem}' for page in found for problem in found[page]]
    print('\n'.join(lines) or f'{len(list(folder.rglob("*.html")))} pages, nothing wrong.')
    return len(lines)


if __name__ == '__main__':
    verb, folder = sys.argv[1], Path(sys.argv[2])
    if verb == 'slim': slim(folder)
    else: sys.exit(min(check(folder), 1))
