import pytest
import torch

from steelyard.errors import DoesNotFit
from steelyard.models.build import build
from steelyard.models.layers import Layer, check_layers
from steelyard.params import Candidate


def _candidate(**architecture: object) -> Candidate:
    return Candidate.model_validate({"name": "x", **architecture})


@pytest.mark.parametrize(
    "layers",
    [
        [{"conv": 4}, {"pool": 2}, {"flatten": True}, {"dense": 5}],
        [{"conv": 4, "kernel": 5, "stride": 2}, {"batch_norm": True}, {"global_pool": True}],
        [{"conv": 4, "kernel": 2}, {"conv": 3, "stride": 3}, {"dropout": 0.5}, {"flatten": True}],
        [{"flatten": True}, {"dense": 7}, {"batch_norm": True}],
    ],
)
def test_the_network_makes_the_shapes_that_the_grammar_promises(layers: list[dict[str, object]]) -> None:
    shapes = check_layers([Layer.model_validate(layer) for layer in layers], (11, 9, 3))
    network = build(_candidate(layers=layers), (11, 9, 3), classes=4).eval()
    logits_NC, embedding_ND = network(torch.zeros(2, 3, 11, 9))
    assert logits_NC.shape == (2, 4)
    assert embedding_ND.shape == (2, *shapes[-1])


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        ([{"flatten": True}, {"conv": 4}], r"1 \(conv\): needs an image, but 192 arrives"),
        ([{"dense": 4}], r"0 \(dense\): needs flat features, but 8x8x3 arrives"),
        ([{"pool": 4}, {"pool": 4}], r"1 \(pool\): cannot pool 2x2x3 by 4"),
        ([{"conv": 4}], r"0: ends in 8x8x4"),
    ],
)
def test_a_layer_that_does_not_fit_is_named(layers: list[dict[str, object]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_layers([Layer.model_validate(layer) for layer in layers], (8, 8, 3))


@pytest.mark.parametrize(("stem", "channels"), [("small", 1), ("standard", 1), ("standard", 3)])
def test_a_torchvision_network_gets_our_head_and_takes_our_channels(stem: str, channels: int) -> None:
    network = build(_candidate(arch="resnet18", stem=stem), (32, 32, channels), classes=7)
    logits_NC, embedding_ND = network.eval()(torch.zeros(2, channels, 32, 32))
    assert (logits_NC.shape, embedding_ND.shape) == ((2, 7), (2, 512))


def test_the_small_stem_keeps_every_pixel() -> None:
    body = build(_candidate(arch="resnet18", stem="small"), (16, 16, 3), classes=2).body
    assert body.maxpool(body.conv1(torch.zeros(1, 3, 16, 16))).shape == (1, 64, 16, 16)


@pytest.mark.parametrize(
    ("arch", "complaint"),
    [("resnet81", "did you mean 'resnet18'"), ("vgg11", "can't take images of 8x8x3"), ("squeezenet1_0", "linear")],
)
def test_an_architecture_that_can_t_be_built_says_why(arch: str, complaint: str) -> None:
    with pytest.raises(DoesNotFit, match=complaint):
        build(_candidate(arch=arch), (8, 8, 3), classes=2)
