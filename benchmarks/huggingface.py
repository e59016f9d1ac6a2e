"""Hugging Face's Trainer on a timm model, as the image classification example of transformers writes it"""
import os
import time

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import CenterCrop, Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, Resize, ToTensor
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, Trainer, TrainerCallback, TrainingArguments, set_seed

from imgclf_nb.backbones import get_backbone
from imgclf_nb.base.architectures import get_expected

RATE = 5e-5  # of TrainingArguments, which the example leaves as it is


class Images(Dataset):
    "Images of files with the numbers of their labels, as a Trainer takes them"
    def __init__(self, items, labels, transform):
        self.paths, self.labels = items.path.tolist(), [labels.index(label) for label in items.label]
        self.transform = transform

    def __len__(self): return len(self.paths)

    def __getitem__(self, i):
        image = Image.open(self.paths[i], formats=['JPEG', 'PNG']).convert('RGB')
        return dict(pixel_values=self.transform(image), labels=self.labels[i])


class StepEnds(TrainerCallback):
    "The time at the end of each step, in `ends`"
    def __init__(self): self.ends = []
    def on_step_end(self, *args, **kw): self.ends.append(time.perf_counter())


def collate(examples):
    "A batch of these examples"
    pixels = torch.stack([example['pixel_values'] for example in examples])
    return dict(pixel_values=pixels, labels=torch.tensor([example['labels'] for example in examples]))


def get_transforms(arch, size):
    "The transforms of training and of evaluation, with the normalisation of the weights"
    expected = get_expected(arch)
    end = [ToTensor(), Normalize(expected['mean'], expected['std'])]
    return Compose([RandomResizedCrop(size), RandomHorizontalFlip(), *end]), Compose([Resize(size), CenterCrop(size), *end])


def get_model(arch, labels):
    "timm's model in the wrapper of transformers, with the pretrained weights that ours has, since the hub may be out of reach"
    names = dict(id2label=dict(enumerate(labels)), label2id={label: i for i,label in enumerate(labels)})
    model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=arch, **names))
    known, classifier = get_backbone(arch).state_dict(), model.timm_model.pretrained_cfg['classifier']
    body = {k: known[k] for k in model.timm_model.state_dict() if not k.startswith(f'{classifier}.')}
    model.timm_model.load_state_dict(body, strict=False)
    return model


def get_trainer(model, folder, batch_size, train=None, callbacks=(), **more):
    "A Trainer with the arguments of the example; as many processes load images as fastai has"
    arguments = TrainingArguments(str(folder), remove_unused_columns=False, per_device_train_batch_size=batch_size, save_strategy='no',
        per_device_eval_batch_size=batch_size, dataloader_num_workers=os.cpu_count(), disable_tqdm=True, **more)
    return Trainer(model, arguments, train_dataset=train, data_collator=collate, callbacks=list(callbacks))


def fit_trainer(items, arch, size, batch_size, seed, steps, folder, rate=RATE, callbacks=()):
    "A Trainer after so many steps, between which the rate falls linearly to 0"
    set_seed(seed)
    labels = sorted(items.label.unique())
    train = Images(items[items.split == 'train'], labels, get_transforms(arch, size)[0])
    trainer = get_trainer(get_model(arch, labels), folder, batch_size, train, callbacks, seed=seed, max_steps=steps, learning_rate=rate)
    trainer.train()
    return trainer


def predict_labels(model, items, arch, size, batch_size, folder):
    "The label that a model predicts for each image"
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    found = get_trainer(model, folder, batch_size).predict(Images(items, labels, get_transforms(arch, size)[1]))
    return [labels[i] for i in found.predictions.argmax(1)]
