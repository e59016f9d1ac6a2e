"Every family of the model study and our own networks become ONNX models that agree with PyTorch"
import io, os, shutil, signal, subprocess, sys, time
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import timm
import torch

import imgclf_nb.baseline  # registers our own networks
from imgclf_nb.models.conversion import Both, write_onnx
from imgclf_nb.models.parity import check_parity
from imgclf_nb.models.runtimes import open_onnx, open_openvino

# few layers of each family: the exporter's time grows with their number
FAMILIES = dict(
    resnet18=dict(layers=(1, 1, 1, 1)),
    mobilenetv3_small_050={},
    convnext_atto=dict(depths=(1, 1, 1, 1)),
    convnext_pico=dict(depths=(1, 1, 1, 1)),
    vgg11=dict(num_features=64),
    tf_efficientnet_lite0={},
    vit_tiny_patch16_224=dict(depth=2, img_size=32),
    small_cnn={}, six_layer_cnn={}, tutorial_cnn={})


def make(arch, **settings):
    "An untrained network with statistics of batch normalisation that are not those of a new one"
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=5, **settings)
    for module in model.modules():
        if not isinstance(module, torch.nn.BatchNorm2d): continue
        module.running_mean.normal_(0, .1)
        module.running_var.uniform_(.5, 2)
    return model.eval()


@pytest.mark.parametrize('arch', FAMILIES)
def test_every_family_exports_with_parity(arch, tmp_path):
    model = make(arch, **FAMILIES[arch])
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        reference = [o.numpy() for o in Both(model)(images)]
        assert np.array_equal(reference[0], model(images).numpy()) and reference[0].std() > 0
    shown = io.StringIO()
    with redirect_stdout(shown), redirect_stderr(shown): path = write_onnx(model, tmp_path/'model.onnx', 3, 32)
    assert shown.getvalue() == '' and [o.name for o in tmp_path.iterdir()] == ['model.onnx']
    assert os.getcwd().encode() not in path.read_bytes() and b'site-packages' not in path.read_bytes()
    for compute in (open_onnx(path, 1), open_openvino(path, 1)):
        for n in (1, 3): assert check_parity(compute(images[:n].numpy()), [o[:n] for o in reference])['agreement'] == 1


def test_one_grey_channel(tmp_path):
    model = make('test_resnet', in_chans=1)
    images = torch.randn(2, 1, 48, 48)
    with torch.inference_mode(): reference = [o.numpy() for o in Both(model)(images)]
    check_parity(open_onnx(write_onnx(model, tmp_path/'model.onnx', 1, 48), 1)(images.numpy()), reference)
