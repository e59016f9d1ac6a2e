"""Loaders of others, written as their documentation does: each takes items with splits and gives batches of the training images"""
from common import BATCH  # before albumentations, which would ask a server for its newest version

import albumentations as A, cv2, torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from timm.data import create_loader
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from stock import get_stock_dls


class Files(Dataset):
    "What `ImageFolder` does, for a list of files"
    def __init__(self, items, pre, transform=None, read=lambda p: Image.open(p, formats=['JPEG', 'PNG']).convert('RGB')):
        train = items[items.split == 'train']
        self.paths, self.y = train.path.tolist(), [pre.classes.index(l) for l in train.label]
        self.transform, self.read = transform, read
    def __len__(self): return len(self.paths)
    def __getitem__(self, i): return self.transform(self.read(self.paths[i])), self.y[i]


def get_torch_loader(dataset):
    "PyTorch's loader for training, in this process"
    return DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=0, drop_last=True)


def get_v2(pre):
    "torchvision's v2 transforms on uint8 tensors, the way its documentation calls fastest"
    return v2.Compose([v2.ToImage(), v2.RandomResizedCrop(pre.size, antialias=True), v2.RandomHorizontalFlip(),
        v2.ColorJitter(.2, .2, .2), v2.ToDtype(torch.float32, scale=True), v2.Normalize(pre.mean, pre.std)])


def use_fastai(items, pre):
    "fastai's loader"
    return get_stock_dls(items, (pre.mean, pre.std), pre.size, BATCH, num_workers=0).train


def use_torchvision(items, pre):
    "torchvision on files"
    return get_torch_loader(Files(items, pre, get_v2(pre)))


def use_decode_image(items, pre):
    "The same with torchvision's own JPEG reader, which few use"
    return get_torch_loader(Files(items, pre, get_v2(pre), lambda p: decode_image(p, ImageReadMode.RGB)))


def use_timm(items, pre):
    "timm's loader, which sets the transform of the data set itself"
    return create_loader(Files(items, pre), (3, pre.size, pre.size), BATCH, is_training=True, color_jitter=.2, mean=pre.mean,
        std=pre.std, num_workers=0, device=torch.device('cpu'))


def use_albumentations(items, pre):
    "Albumentations on what OpenCV reads"
    aug = A.Compose([A.RandomResizedCrop((pre.size, pre.size)), A.HorizontalFlip(), A.ColorJitter(.2, .2, .2, 0, p=1),
        A.Normalize(pre.mean, pre.std), ToTensorV2()])
    return get_torch_loader(Files(items, pre, lambda x: aug(image=x)['image'], lambda p: cv2.imread(p, cv2.IMREAD_COLOR_RGB)))


def use_datasets(items, pre):
    "Hugging Face datasets with torchvision's transforms"
    from datasets import Dataset as HF, Image as Picture
    t, train = get_v2(pre), items[items.split == 'train']
    def change(rows): return dict(x=[t(o.convert('RGB')) for o in rows['image']], y=rows['y'])
    table = HF.from_dict(dict(image=train.path.tolist(), y=[pre.classes.index(l) for l in train.label]))
    return get_torch_loader(table.cast_column('image', Picture()).with_transform(change))


OTHERS = {'fastai': use_fastai, 'torchvision': use_torchvision, 'torchvision.io': use_decode_image, 'timm': use_timm,
    'albumentations': use_albumentations, 'datasets': use_datasets}
