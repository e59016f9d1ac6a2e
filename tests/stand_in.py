"""A service that keeps the HTTP contract and computes nothing, for tests of the page.

What an image is answered with depends on the name of its file, so that a test chooses it:
`unsure.png`, `several.png`, `any.png`, `below.png`, `unlike.png`; all others get the first class."""
import io
import secrets
import threading
import time
from contextlib import contextmanager

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from PIL import Image

from imgclf_nb.server.page import get_page

CLASSES = ['cables', 'case', 'cpu', 'gpu', 'hdd', 'headset', 'keyboard', 'microphone', 'monitor']
MODEL = dict(run='parts-s0', dataset='pc_parts', classes=CLASSES, weights_sha256='0123456789ab'*5 + 'cdef',
    runtime='onnx', precision='fp32', positive=None, threshold=None, least=.6, coverage=.9, unlike=.01,
    accuracy=dict(value=.794, low=.748, high=.833, n=369, split='test'),
    trained_on=dict(images=1265, by_class={name: 100 + 5*number for number, name in enumerate(CLASSES)}),
    explain=True, key_needed=False, log=None, limits=dict(body_bytes=2_000_000, images=32, pixels=50_000_000, seconds=30))
SHARES = dict(sure=[.93, .03, .02], unsure=[.4, .35, .2], several=[.62, .36, .01], below=[.65, .35], any=[.2, .15],
    unlike=[.62, .36, .01])
SETS = dict(sure=1, unsure=3, several=2, below=1, any=9, unlike=2)


def get_row(name: str, classes: list) -> dict:
    """The answer to a readable image whose file is called so."""
    kind = name.split('.')[0] if name.split('.')[0] in SHARES else 'sure'
    shares = SHARES[kind]
    rest = (1 - sum(shares))/max(1, len(classes) - len(shares))
    shares = (shares + [rest]*len(classes))[:len(classes)]
    decisions = dict(unsure='unsure', below=classes[1], unlike='unlike')
    return dict(predicted=classes[0], probability=shares[0], probabilities=dict(zip(classes, shares)),
        decision=decisions.get(kind, classes[0]), prediction_set=classes[:SETS[kind]],
        novelty=.004 if kind == 'unlike' else .5, error='')


def read(content: bytes) -> str:
    """Why an image cannot be read, '' if it can."""
    try:
        Image.open(io.BytesIO(content)).load()
    except Exception as error:
        return f'not an image that can be read ({type(error).__name__}): send a JPEG or a PNG'
    return ''


class StandIn:
    """The service; `calls` lists what it was asked, `busy` says how many requests it will refuse."""

    def __init__(self, key: str = '', **model):
        self.key, self.model = key, {**MODEL, **model, 'key_needed': bool(key)}
        self.calls, self.busy, self.corrections = [], 0, []
        self.app = FastAPI(openapi_url=None)
        self.app.middleware('http')(self.guard)
        for method, path in (('GET', '/'), ('GET', '/health'), ('GET', '/ready'), ('GET', '/metrics'), ('GET', '/model.json'),
                ('GET', '/model'), ('POST', '/predict'), ('POST', '/explain'), ('POST', '/feedback')):
            work = getattr(self, f"answer_{path.strip('/').replace('.', '_') or 'page'}")
            self.app.add_api_route(path, work, methods=[method], response_model=None)

    async def guard(self, request: Request, work):
        """Ask for the key; refuse while busy."""
        self.calls.append((request.method, request.url.path, request.headers.get('X-API-Key', '')))
        is_open = request.url.path in ('/health', '/ready')
        if not is_open and request.headers.get('X-API-Key', '') != self.key: return self.show_page(401)
        if self.busy and request.method == 'POST':
            self.busy -= 1
            return self.refuse(503, 'Too many images are waiting: try again.', {'Retry-After': '1'})
        return await work(request)

    def show_page(self, status: int):
        page, policy = get_page()
        return HTMLResponse(page, status, headers={'Content-Security-Policy': policy})

    def refuse(self, status: int, sentence: str, headers=None):
        return JSONResponse(dict(error=sentence), status, headers)

    async def answer_page(self): return self.show_page(200)

    async def answer_health(self): return {}

    async def answer_ready(self): return {}

    async def answer_metrics(self): return Response('imgclf_requests_total 1\n', media_type='text/plain')

    async def answer_model_json(self):
        if not self.model['classes']: return Response('no JSON', 500)
        return self.model

    async def answer_model(self): return HTMLResponse('<h1>Model card</h1>')

    async def answer_predict(self, request: Request):
        rows = []
        for name, content in await self.list_images(request):
            error = read(content)
            rows.append({**get_row(name, self.model['classes']), **(dict(error=error) if error else {})})
        if len(rows) == 1 and rows[0]['error']: return self.refuse(422, rows[0]['error'])
        named = {name: self.model[name] for name in ('run', 'weights_sha256', 'runtime')}
        return dict(model=named, request_id=secrets.token_hex(8), predictions=rows, seconds=.01)

    async def list_images(self, request):
        if 'multipart' not in request.headers.get('Content-Type', ''): return [('raw', await request.body())]
        form = await request.form()
        return [(file.filename, await file.read()) for file in form.getlist('images')]

    async def answer_explain(self, request: Request):
        if not self.model['explain']: return self.refuse(404, 'Start the server with --explain for saliency maps.')
        assert request.query_params['class'] in self.model['classes']
        image = Image.open(io.BytesIO(await request.body())).convert('RGB').resize((224, 224))
        out = io.BytesIO()
        image.save(out, 'PNG')
        return Response(out.getvalue(), media_type='image/png')

    async def answer_feedback(self, request: Request):
        self.corrections.append(await request.json())
        return dict(kept=True)


@contextmanager
def serve(app):
    """The address at which an app is served meanwhile."""
    import uvicorn
    server = uvicorn.Server(uvicorn.Config(app, host='127.0.0.1', port=0, log_level='error'))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started: time.sleep(.01)
    try:
        yield f'http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}'
    finally:
        server.should_exit = True
        thread.join(10)
