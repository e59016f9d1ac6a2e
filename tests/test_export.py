"Every family of the model study and our own networks become ONNX models that agree with PyTorch"
import io, os, signal
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import timm
import torch

import imgclf_nb.baseline  # registers our own networks
from imgclf_nb.base.runs import Run
from imgclf_nb.core import UserError
from imgclf_nb.models.conversion import Both, write_onnx
from imgclf_nb.models.export import hold_run, make_folder
from imgclf_nb.models.parity import check_parity
from imgclf_nb.models.runtimes import open_onnx, open_openvino

# few layers of each family: the exporter's time grows with their number
FAMILIES = dict(
    resnet18=dict(layers=(1, 1, 1, 1)),
    mobilenetv3_small_050={},
    convnext_atto=dict(depths=(1, 1, 1, 1)),
    vgg11=dict(mlp_ratio=1/64),
    tf_efficientnet_lite0={},
    vit_tiny_patch16_224=dict(depth=2, img_size=32),
    small_cnn={}, six_layer_cnn={}, tutorial_cnn={})


def make(arch, **settings):
    "An untrained network with statistics of batch normalisation that are not those of a new one"
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=5, **settings)
    if arch in ('mobilenetv3_small_050', 'tf_efficientnet_lite0'):
        model.blocks = torch.nn.Sequential(*(stage[:1] for stage in model.blocks))
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


def in_fork(work):
    "The exit code of a fork that does this, -9 if it is killed"
    pid = os.fork()
    if not pid:
        try: work()
        finally: os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks')
def test_a_run_in_use_is_refused(tmp_path):
    def export():
        try:
            with hold_run(Run(tmp_path)): pass
        except UserError as error: os._exit(7 if 'in use by another process' in str(error) else 8)
    with hold_run(Run(tmp_path)): assert in_fork(export) == 7
    assert in_fork(export) == 1  # it did its work


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks')
def test_a_killed_export_is_cleared_away_and_the_old_one_stays(tmp_path):
    def die():
        with make_folder(tmp_path/'export') as made:
            (made/'model.onnx').write_text('new')
            os.kill(os.getpid(), signal.SIGKILL)
    place = tmp_path/'export'
    with make_folder(place) as made: (made/'model.onnx').write_text('old')
    assert in_fork(die) == -9
    assert len(list(tmp_path.iterdir())) == 2 and (place/'model.onnx').read_text() == 'old'
    with make_folder(place) as made: (made/'model.onnx').write_text('newer')
    assert [o.name for o in tmp_path.iterdir()] == ['export'] and (place/'model.onnx').read_text() == 'newer'
