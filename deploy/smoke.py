"""Ask a server that is starting, and stop with a sentence if it does not do what it should.

`python deploy/smoke.py http://127.0.0.1:8000 IMAGE [KEY_FILE]` waits until it is ready, then asks for
the page, the model, an answer to the image, and an answer to what is no image."""
import json
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

SECONDS = 120  # until it must be ready


def ask(address: str, content: bytes | None = None, key: str = '') -> tuple:
    """`(status, text)` of a request; with content it is a POST."""
    headers = {'X-API-Key': key, 'Content-Type': 'application/octet-stream'}
    try:
        with urlopen(Request(address, content, headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except (URLError, ConnectionError, TimeoutError):
        return 0, ''


def wait_until_ready(server: str) -> float:
    """Seconds until the server was ready."""
    began = time.monotonic()
    while ask(f'{server}/ready')[0] != 200:
        if time.monotonic() - began > SECONDS: sys.exit(f'{server} is not ready after {SECONDS} seconds.')
        time.sleep(.25)
    return time.monotonic() - began


def check(is_so: bool, what: str) -> None:
    """Print what was found, or stop."""
    if not is_so: sys.exit(f'Not so: {what}.')
    print(f'{what}')


def main(server: str, image: str, key_file: str = '') -> None:
    """Ask for everything that a person or a program needs first."""
    key = Path(key_file).read_text().strip() if key_file else ''
    print(f'ready after {wait_until_ready(server):.1f} s')
    check(ask(f'{server}/health')[0] == 200, 'it is alive')
    page = ask(f'{server}/', key=key)
    check(page[0] == 200 and '<h1>Image classifier</h1>' in page[1], 'it shows the page')
    model = json.loads(ask(f'{server}/model.json', key=key)[1])
    status, text = ask(f'{server}/predict', Path(image).read_bytes(), key)
    check(status == 200, 'it answers an image')
    row = json.loads(text)['predictions'][0]
    check(row['predicted'] in model['classes'], f"the answer is a class of run {model['run']}")
    check(abs(sum(row['probabilities'].values()) - 1) < 1e-6, 'the probabilities sum to 1')
    status, text = ask(f'{server}/predict', b'no image', key)
    check(status == 422 and json.loads(text)['error'], 'it says that other bytes are no image')
    check(ask(f'{server}/metrics', key=key)[1].count('imgclf_') > 0, 'it shows its metrics')
    if key: check(ask(f'{server}/model.json')[0] == 401, 'it asks for the key')


if __name__ == '__main__':
    if len(sys.argv) not in (3, 4): sys.exit(__doc__)
    main(*sys.argv[1:])
