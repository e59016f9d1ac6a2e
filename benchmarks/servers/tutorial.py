"The server that tutorials write: FastAPI, PyTorch eager in fp32, one image at a time: `python tutorial.py RUN PORT`"
import io, sys

import torch, uvicorn
from fastapi import FastAPI, Request
from PIL import Image
from torchvision import transforms as T

import imgclf_nb.baseline  # noqa: F401, registers our own networks with timm
from imgclf_nb.backbones import load_model

model, card = load_model(sys.argv[1])
model.eval()
pre = card['preprocessing']
change = T.Compose([T.Resize(pre['size'], T.InterpolationMode.BICUBIC), T.CenterCrop(pre['size']), T.ToTensor(),
    T.Normalize(pre['mean'], pre['std'])])
app = FastAPI()


def answer(data):
    "The likeliest class of one image"
    with torch.inference_mode():
        probs = model(change(Image.open(io.BytesIO(data)).convert('RGB'))[None]).softmax(1)[0]
    return dict(predicted=card['classes'][int(probs.argmax())], probability=float(probs.max()))


@app.get('/ready')
def ready(): return {}


@app.post('/predict')
async def predict(request: Request): return answer(await request.body())  # one after the other, as fast as it gets


uvicorn.run(app, host='127.0.0.1', port=int(sys.argv[2]), log_level='warning')
