"""Networks that answer for each pixel."""

from typing import Any

import pytest
import torch
from torch import nn

from steelyard.models.build import build, outline
from steelyard.models.unet import UNet
from steelyard.params import SEGMENTATION_ARCHS, Candidate
from steelyard.params import UNet as Settings


def candidate(**architecture: Any) -> Candidate:
    return Candidate.model_validate({"name": "x", **architecture})


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (45, 60), (5, 4)])
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_a_unet_answers_for_every_pixel_of_any_size(depth: int, height: int, width: int) -> None:
    network = build(candidate(unet={"depth": depth, "width": 4}), (height, width, 3), classes=5).eval()
    logits_NCHW, embedding_ND = network(torch.rand(2, 3, height, width))
    assert (logits_NCHW.shape, embedding_ND.shape) == ((2, 5, height, width), (2, 4))
    assert (network.classes, network.features) == (5, 4)


def test_an_odd_size_is_answered_as_if_zeros_lay_beyond_its_edge() -> None:
    torch.manual_seed(0)
    unet = UNet(Settings(depth=2, width=4), 1).eval()
    images_NCHW = torch.rand(2, 1, 8, 12)
    images_NCHW[:, :, 6:], images_NCHW[:, :, :, 9:] = 0, 0
    torch.testing.assert_close(unet(images_NCHW[:, :, :6, :9]), unet(images_NCHW)[:, :, :6, :9])


def test_depth_width_batch_norm_and_dropout_are_as_asked() -> None:
    unet = UNet(Settings(depth=3, width=6, batch_norm=False, dropout=0.25), 1)
    widths = [module.out_channels for module in unet.down.modules() if isinstance(module, nn.Conv2d)]
    assert widths == [6, 6, 12, 12, 24, 24, 48, 48]
    assert not [module for module in unet.modules() if isinstance(module, nn.BatchNorm2d)]
    assert unet.dropout.p == 0.25
    assert [module for module in UNet(Settings(), 1).modules() if isinstance(module, nn.BatchNorm2d)]


def test_the_unet_of_the_paper_has_its_31_million_weights() -> None:
    network = outline(candidate(unet={"depth": 4, "width": 64, "batch_norm": False}), (572, 572, 1), classes=2)
    assert sum(parameter.numel() for parameter in network.parameters()) == 31_030_658


def test_the_embedding_is_the_mean_of_what_the_head_sees() -> None:
    network = build(candidate(unet={"depth": 1, "width": 4}), (6, 6, 1), classes=3).eval()
    logits_NCHW, embedding_ND = network(torch.rand(2, 1, 6, 6))
    torch.testing.assert_close(network.head(embedding_ND[:, :, None, None])[:, :, 0, 0], logits_NCHW.mean((2, 3)))


@pytest.mark.parametrize("arch", SEGMENTATION_ARCHS)
def test_a_segmentation_network_of_torchvision_gets_our_head(arch: str) -> None:
    network = outline(candidate(arch=arch), (64, 64, 3), classes=7)
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert isinstance(network.head, nn.Conv2d)
    assert (network.head.out_channels, network.head.in_channels > 100) == (7, True)
    theirs = [f"body.{name}" for name in _weights_of(arch) if not name.startswith("classifier.4.")]
    assert [name for name, _ in network.named_parameters() if name.startswith("body.")] == theirs


def _weights_of(arch: str) -> list[str]:
    from torchvision import models

    with torch.device("meta"):
        whole = models.get_model(arch, weights=None, weights_backbone=None)
    return [name for name, _ in whole.named_parameters()]


@pytest.mark.parametrize("channels", [1, 3])
def test_it_answers_for_every_pixel_of_any_size(channels: int) -> None:
    network = build(candidate(arch="deeplabv3_mobilenet_v3_large"), (45, 61, channels), classes=3).eval()
    logits_NCHW, embedding_ND = network(torch.rand(1, channels, 45, 61))
    assert (logits_NCHW.shape, embedding_ND.shape) == ((1, 3, 45, 61), (1, 256))
