"The same model behind BentoML's batching: `python bentoml_server.py RUN PORT RUNTIME`"
import os, subprocess, sys
from pathlib import Path
from typing import List

import bentoml

from imgclf_nb.inference import Predictor


@bentoml.service(workers=2, traffic={'timeout': 60})
class Classifier:
    "Two workers, each with one thread, which compute up to 16 images together"
    def __init__(self): self.model = Predictor(os.environ['BENCH_RUN'], os.environ['BENCH_RUNTIME'], threads=1)

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=10_000)
    def predict(self, images: List[Path]) -> List[dict]:
        table = self.model.answer([str(path) for path in images])
        return table[['predicted', 'probability']].to_dict('records')


if __name__ == '__main__':
    env = {**os.environ, 'BENCH_RUN': sys.argv[1], 'BENCH_RUNTIME': sys.argv[3], 'BENTOML_DO_NOT_TRACK': 'True'}
    here = Path(__file__).resolve()
    command = [sys.executable, '-m', 'bentoml', 'serve', f'{here.stem}:Classifier', '--host', '127.0.0.1', '--port', sys.argv[2]]
    os.chdir(here.parent)
    os.execvpe(command[0], command, env)
