"The same model behind LitServe's batching: `python litserve_server.py RUN PORT RUNTIME`"
import sys

import litserve as ls

from imgclf_nb.inference import Predictor


class Api(ls.LitAPI):
    "Two workers, each with one thread, which compute up to 16 images together"
    def setup(self, device):
        self.model = Predictor(sys.argv[1], sys.argv[3], threads=1)
        self.runtimes = self.model.load(1)

    def decode_request(self, request): return request['images'].file.read()
    def batch(self, inputs): return list(inputs)
    def predict(self, images): return self.model.answer(images)
    def unbatch(self, table): return list(table[['predicted', 'probability']].to_dict('records'))
    def encode_response(self, output): return output


if __name__ == '__main__':
    api = Api(max_batch_size=16, batch_timeout=.002, api_path='/predict')
    server = ls.LitServer(api, accelerator='cpu', workers_per_device=2, healthcheck_path='/ready', fast_queue=False)
    server.run(host='127.0.0.1', port=int(sys.argv[2]), generate_client_file=False, log_level='warning')
