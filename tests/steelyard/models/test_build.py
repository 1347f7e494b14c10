import pytest
import torch
from torch import nn

from steelyard.errors import DoesNotFit, InvalidFile
from steelyard.models.build import build, outline
from steelyard.models.layers import Layer, check_layers, shapes_after
from steelyard.models.torchvision import _replace_stem, known_architectures
from steelyard.params import Candidate, Params


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


@pytest.mark.parametrize(
    "arch",
    [
        *("resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "regnet_x_400mf"),
        *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s"),
    ],
)
def test_the_small_stem_keeps_every_pixel(arch: str) -> None:
    body = build(_candidate(arch=arch, stem="small"), (16, 16, 3), classes=2).body
    first = next(module for module in body.modules() if isinstance(module, nn.Conv2d))
    assert first(torch.zeros(1, 3, 16, 16)).shape[2:] == (16, 16)
    assert not any(isinstance(module, nn.MaxPool2d) for module in body.modules())


@pytest.mark.parametrize(
    "arch", ["densenet121", "googlenet", "vgg11", "alexnet", "convnext_tiny", "swin_t", "vit_b_16"]
)
def test_the_small_stem_is_refused_where_it_would_not_keep_every_pixel(arch: str) -> None:
    with pytest.raises(DoesNotFit, match=f"'stem: small' does not suit '{arch}'; it suits the families resnet, "):
        build(_candidate(arch=arch, stem="small"), (32, 32, 3), classes=2)


@pytest.mark.parametrize("stem", ["standard", "small"])
def test_a_new_first_convolution_keeps_groups_and_dilation(stem: str) -> None:
    body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2))
    _replace_stem(body, stem, channels=2)
    assert (body[0].groups, body[0].dilation) == (2, (2, 2))
    assert body(torch.zeros(1, 2, 9, 9)).shape == (1, 8, 9, 9)


def test_the_trial_leaves_no_trace_in_the_network() -> None:
    torch.manual_seed(0)
    network = build(_candidate(arch="mobilenet_v3_small"), (32, 32, 3), classes=2)
    assert {int(value) for name, value in network.state_dict().items() if name.endswith("batches_tracked")} == {0}


@pytest.mark.parametrize("kind", ["batch_norm", "flatten", "global_pool"])
@pytest.mark.parametrize("value", ["false", "1", "yes please"])
def test_a_layer_without_a_number_is_either_true_or_left_out(kind: str, value: str) -> None:
    text = f"""
task: classification
data: {{source: digits, image_size: 8}}
candidates: {{x: {{layers: [{{{kind}: {value}}}, {{flatten: true}}]}}}}
"""
    complaint = rf"candidates\.x\.layers\.0\.{kind}: true adds the layer; to have none, leave the line out"
    with pytest.raises(InvalidFile, match=complaint):
        Params.from_yaml(text)


@pytest.mark.parametrize(
    ("arch", "complaint"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("vgg11", "can't take images of 8x8x3"),
        ("squeezenet1_0", "can't take images of 8x8x3"),
        ("vit_b_16", "can't take images of 8x8x3: Input shape indivisible by patch size"),
        ("maxvit_t", "can't take images of 8x8x3"),
        ("inception_v3", "can't take images of 8x8x3"),
        ("densenet121", "can't take images of 8x8x3"),
    ],
)
def test_an_architecture_that_can_t_be_built_says_why(arch: str, complaint: str) -> None:
    with pytest.raises(DoesNotFit, match=complaint):
        build(_candidate(arch=arch), (8, 8, 3), classes=2)


def test_every_architecture_of_torchvision_gets_our_head() -> None:
    names = known_architectures()
    assert len(names) >= 80
    for name in names:
        network = outline(_candidate(arch=name), (224, 224, 3), classes=7)
        assert {parameter.device.type for parameter in network.parameters()} == {"meta"}, name
        assert (network.head.out_features, network.head.in_features > 100) == (7, True), name
        assert not [part for part in network.body.modules() if getattr(part, "out_features", 0) == 1000], name


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([{"residual": [{"conv": 3, "activation": "none"}]}, {"activation": "gelu"}], (9, 7, 3)),
        ([{"residual": [{"conv": 6, "stride": 2}, {"batch_norm": True}]}], (5, 4, 6)),
        ([{"residual": [{"conv": 6}, {"pool": 2}]}], None),
        ([{"parallel": [[{"conv": 4}], [{"conv": 2, "kernel": 1}], []]}], (9, 7, 9)),
        ([{"parallel": [[{"conv": 4, "stride": 2}], [{"conv": 2, "kernel": 5, "stride": 2}]]}], (5, 4, 6)),
        ([{"flatten": True}, {"parallel": [[{"dense": 4}], [{"dense": 5, "activation": "tanh"}]]}], (9,)),
        ([{"parallel": [[{"residual": [{"conv": 3}]}], [{"dropout": 0.1}]]}], (9, 7, 6)),
    ],
)
def test_branches_make_the_shapes_that_the_grammar_promises(
    layers: list[dict[str, object]], shape: tuple[int, ...] | None
) -> None:
    parsed = [Layer.model_validate(layer) for layer in layers]
    if shape is None:
        with pytest.raises(ValueError, match=r"^0 \(residual\): 9x7x3 can't be added to 4x3x6; use convolutions"):
            shapes_after(parsed, (9, 7, 3))
        return
    assert shapes_after(parsed, (9, 7, 3))[-1] == shape
    body = build(_candidate(layers=[*layers, {"flatten": True}]), (9, 7, 3), classes=2).body
    images_NCHW = torch.rand(2, 3, 9, 7)
    assert body[:-1](images_NCHW).shape[1:] == ((shape[2], *shape[:2]) if len(shape) == 3 else shape)


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        ([{"residual": [{"conv": 4}, {"dense": 3}]}], r"0 \(residual\)\.1 \(dense\): needs flat features, but 8x8x4"),
        ([{"conv": 4}, {"parallel": [[{"conv": 4}], [{"pool": 2}, {"pool": 8}]]}], r"1 \(parallel\)\.1\.1 \(pool\): "),
        ([{"parallel": [[{"pool": 2}], []]}], r"0 \(parallel\): the branches end in 4x4x3 and 8x8x3"),
        ([{"residual": [{"flatten": True}]}], r"0 \(residual\): 8x8x3 can't be added to 192"),
    ],
)
def test_a_layer_inside_another_is_named_by_its_place(layers: list[dict[str, object]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_layers([Layer.model_validate(layer) for layer in layers], (8, 8, 3))


def test_a_layer_is_one_kind_and_an_activation_goes_with_two() -> None:
    Layer.model_validate({"conv": 4, "activation": "silu"})
    for wrong in ({"conv": 4, "dense": 2}, {"pool": 2, "activation": "relu"}, {"parallel": [[]]}, {"residual": []}):
        with pytest.raises(ValueError, match=r"exactly one of|at least"):
            Layer.model_validate(wrong)
