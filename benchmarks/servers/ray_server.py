"The same model behind Ray Serve's batching: `python ray_server.py RUN PORT RUNTIME`"
import os, sys, time

os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from imgclf_nb.inference import Predictor


@serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={'num_cpus': .5})
class Classifier:
    "Two replicas, each with one thread, which compute up to 16 images together"
    def __init__(self, run, runtime): self.model = Predictor(run, runtime, threads=1)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=.002)
    async def predict(self, images): return self.model.answer(images)[['predicted', 'probability']].to_dict('records')

    async def __call__(self, request: Request):
        if request.url.path == '/ready': return JSONResponse({})
        return JSONResponse(await self.predict(await request.body()))


if __name__ == '__main__':
    ray.init(include_dashboard=False, num_cpus=2, log_to_driver=False)
    serve.start(http_options={'host': '127.0.0.1', 'port': int(sys.argv[2])})
    serve.run(Classifier.bind(sys.argv[1], sys.argv[3]), route_prefix='/')
    while True: time.sleep(1)
