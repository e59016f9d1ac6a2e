"""Stock fastai, as its documentation writes it"""
import time

from fastai.vision.all import (Callback, CategoryBlock, ColReader, ColSplitter, DataBlock, ImageBlock, Normalize, Resize, accuracy,
    aug_transforms, set_seed, vision_learner)

from imgclf_nb.backbones import get_backbone
from imgclf_nb.base.architectures import get_expected

FROZEN_RATE = 2e-3  # of the frozen epoch of `fine_tune`


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


class EpochEnds(Callback):
    "The time at the end of each epoch, in `ends`"
    def __init__(self): self.ends = []
    def after_epoch(self): self.ends.append(time.perf_counter())


def make_stock(items, arch, size, batch_size):
    "A learner for our images, before it is trained"
    expected = get_expected(arch)
    return get_stock_learner(get_stock_dls(items, (expected['mean'], expected['std']), size, batch_size), arch)


def fit_stock(items, arch, size, batch_size, seed, epochs, cbs=()):
    "A learner after `fine_tune`; with 0 epochs only the frozen one that `fine_tune` begins with, as a cycle of its own"
    set_seed(seed)
    learn = make_stock(items, arch, size, batch_size)
    with learn.no_bar(), learn.added_cbs(cbs):
        if epochs: learn.fine_tune(epochs)
        else: learn.fit_one_cycle(1, FROZEN_RATE)
    return learn
