"""Stock fastai, as its documentation writes it"""
from fastai.vision.all import (CategoryBlock, ColReader, ColSplitter, DataBlock, ImageBlock, Normalize, Resize, accuracy, aug_transforms,
    vision_learner)

from imgclf_nb.backbones import get_backbone


def get_stock_dls(items, stats, size, batch_size, **kw):
    "Its loaders for our training and validation images: Resize, aug_transforms and the Normalize of the weights"
    items = items[items.split.isin(['train', 'valid'])]
    block = DataBlock((ImageBlock, CategoryBlock), get_x=ColReader('path'), get_y=ColReader('label'), splitter=ColSplitter('is_valid'),
        item_tfms=Resize(size), batch_tfms=[*aug_transforms(), Normalize.from_stats(*stats)])
    return block.dataloaders(items.assign(is_valid=items.split == 'valid'), bs=batch_size, **kw)


def get_stock_learner(dls, arch):
    "`vision_learner` on a timm model, frozen, with the pretrained weights that ours has, since the hub may be out of reach"
    learn = vision_learner(dls, arch, pretrained=False, metrics=accuracy)
    body = learn.model[0].model
    known = get_backbone(arch).state_dict()
    body.load_state_dict({k: known[k] for k in body.state_dict()})
    learn.freeze()
    return learn
