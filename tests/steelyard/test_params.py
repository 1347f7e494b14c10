import json

import pytest

from steelyard.errors import InvalidFile
from steelyard.params import Params

GOOD = """
task: classification
data: {source: digits, image_size: 16}
training: {epochs: 12, learning_rate: 1e-3}
candidates:
  cnn: {layers: [{conv: 16}, {pool: 2}, {flatten: true}, {dense: 64}]}
  resnet18: {arch: resnet18, training: {epochs: 8}}
"""


def test_a_candidate_keeps_its_own_recipe_and_takes_the_rest_from_the_common_one() -> None:
    candidates = Params.from_yaml(GOOD).candidates
    assert (candidates["cnn"].training.epochs, candidates["resnet18"].training.epochs) == (12, 8)
    assert candidates["resnet18"].training.learning_rate == 1e-3


def test_a_candidate_survives_the_way_through_a_pipeline_where_every_number_is_a_float() -> None:
    candidate = Params.from_yaml(GOOD).candidates["cnn"]
    sent = candidate.model_dump(mode="json", exclude_none=True)
    sent = json.loads(json.dumps(sent), parse_int=float)
    assert type(candidate).model_validate(sent) == candidate


@pytest.mark.parametrize(
    ("wrong", "right", "complaint"),
    [
        ("image_size: 16", "imagesize: 16", r"data\.imagesize: unknown key; did you mean 'image_size'\?"),
        ("{conv: 16}", "{cov: 16}", r"candidates\.cnn\.layers\.0\.cov: unknown key; did you mean 'conv'\?"),
        ("{conv: 16}", "{conv: 16, pool: 2}", r"candidates\.cnn\.layers\.0: a layer is exactly one of"),
        ("{pool: 2}", "{pool: 32}", r"layers\.1 \(pool\): cannot pool 16x16x16 by 32"),
        ("{flatten: true}, ", "", r"layers\.2 \(dense\): needs flat features, but 8x8x16 arrives"),
        ("epochs: 12", "epochs: -1", r"training\.epochs: .*greater than or equal to 1"),
        ("learning_rate: 1e-3", "learning_rate: .nan", r"training\.learning_rate: .*finite"),
        ("{source: digits, image_size: 16}", "{source: digits, image_size: 16, split: {train: 0.9}}", "sum to 1"),
        ("arch: resnet18, ", "", r"candidates\.resnet18: give one of layers, arch and unet"),
        ("arch: resnet18", "name: x, arch: resnet18", r"candidates\.resnet18\.name: unknown key"),
        ("resnet18: {", "Res Net: {", r"candidates\.Res Net\.name: a candidate's name has"),
        ("task: classification", "task: clasification", r"task: input should be 'classification'"),
        ("task: classification", "", r"task: is missing"),
        ("task: classification", "task: classification\nhalving: 'true'", r"halving: .*valid boolean"),
        ("epochs: 12", "seed: 18446744073709551616", r"training\.seed: .*less than 18446744073709551616"),
        ("arch: resnet18", "arch: resnet18, pretrained: ''", r"candidates\.resnet18\.pretrained"),
        ("arch: resnet18", "layers: []", r"candidates\.resnet18\.layers: .*at least 1 item"),
    ],
)
def test_a_mistake_is_named_with_its_key(wrong: str, right: str, complaint: str) -> None:
    with pytest.raises(InvalidFile, match=rf"^my\.yaml: .*{complaint}") as caught:
        Params.from_yaml(GOOD.replace(wrong, right), "my.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a mapping"),
        ("- a\n- b", "must be a mapping"),
        ("a: [1, 2", "line 1, column"),
        ("\x00\x01", "is not YAML text"),
        ("{[1, 2]: 3}", "a key must be plain text"),
        ("[" * 5000, "is nested too deeply"),
        ("task: classification\ntask: classification", "line 2, column 1: key 'task' stands twice"),
        ("task: segmentation\ndata: {source: here, image_size: 8}", "data.masks: a segmentation needs a table"),
        ("task: classification\ndata: {source: here, image_size: 8, group: '('}", "data: group: is no regular"),
        (
            "task: classification\ndata: {source: here, image_size: 8, tiles: {size: 8}}",
            "data.tiles go with task: segm",
        ),
    ],
)
def test_what_is_no_params_file_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(InvalidFile, match=rf"^my\.yaml: .*{complaint}"):
        Params.from_yaml(text, "my.yaml")


def test_what_can_t_be_trained_can_be_prepared() -> None:
    params = Params.from_yaml("task: classification\ndata: {source: digits, image_size: 8}", "my.yaml")
    with pytest.raises(InvalidFile, match=r"^my\.yaml: candidates: name at least one"):
        params.check_trainable("my.yaml")


@pytest.mark.parametrize(
    ("source", "changed"),
    [("digits", "source"), ("cifar10", "root"), ("./photos", "source"), ("s3://a/b.csv", "source")],
)
def test_an_address_takes_the_place_of_a_folder_or_of_a_named_set_s_root(source: str, changed: str) -> None:
    params = Params.from_yaml(GOOD.replace("digits", source))
    assert params.at("s3://bucket/images").data == params.data.model_copy(update={changed: "s3://bucket/images"})
    assert params.at("") == params


MASKS = """
task: segmentation
data: {source: here, image_size: [13, 18], masks: {classes: {sky: 0, road: 1}, ignore: 9}}
training: {epochs: 2}
candidates:
  unet: {unet: {width: 8}, training: {loss: focal, class_weights: {road: 2}}}
  deeplab: {arch: deeplabv3_mobilenet_v3_large}
"""


def test_a_unet_survives_the_way_through_a_pipeline() -> None:
    candidate = Params.from_yaml(MASKS).candidates["unet"]
    sent = json.loads(json.dumps(candidate.model_dump(mode="json", exclude_none=True)), parse_int=float)
    again = type(candidate).model_validate(sent)
    assert again == candidate
    assert candidate.unet is not None
    assert candidate.unet.model_dump() == {"depth": 4, "width": 8, "batch_norm": True, "dropout": 0}
    Params.from_yaml(MASKS).check_trainable()


@pytest.mark.parametrize(
    ("wrong", "right", "complaint"),
    [
        (
            "unet: {width: 8}",
            "layers: [{flatten: true}]",
            "unet.layers: go with task: classification; a segmentation t",
        ),
        ("unet: {width: 8}", "unet: {width: 0}", "unet.unet.width: .*greater than or equal to 1"),
        ("unet: {width: 8}", "unet: {with: 8}", "unet.unet.with: unknown key; did you mean 'width'"),
        ("unet: {width: 8}", "unet: {}, arch: resnet18", "unet: give one of layers, arch and unet"),
        ("unet: {width: 8}", "unet: {}, stem: small", "unet: stem goes with arch, not with layers or unet"),
        ("unet: {width: 8}", "unet: {}, pretrained: true", "unet: pretrained: true goes with arch"),
        (
            "deeplabv3_mobilenet_v3_large",
            "resnet18",
            "deeplab.arch: there is no segmentation network 'resnet18'; there",
        ),
        ("v3_large", "v3_large, stem: small", "deeplab.stem: goes with task: classification"),
        ("loss: focal", "loss: lovasz", "unet.training.loss: input should be 'cross-entropy', 'dice' or 'focal'"),
        (
            "loss: focal",
            "loss: focal, label_smoothing: 0.1",
            "label_smoothing goes with loss: cross-entropy, not with f",
        ),
        ("road: 2", "raod: 2", "unet.training.class_weights: there is no class 'raod'; did you mean 'road'"),
        ("road: 2", "road: 0", "unet.training.class_weights.road: .*greater than 0"),
        ("epochs: 2", "epochs: 2, augment: {cutmix: 1}", "training.augment: mixup and cutmix go with classification"),
    ],
)
def test_what_can_t_make_masks_is_refused(wrong: str, right: str, complaint: str) -> None:
    assert wrong in MASKS
    with pytest.raises(InvalidFile, match=rf"^my\.yaml: .*{complaint}") as caught:
        Params.from_yaml(MASKS.replace(wrong, right), "my.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("unet: {}", "unet: goes with task: segmentation"),
        ("arch: fcn_resnet50", "arch: goes with task: segmentation"),
        ("arch: resnet18, training: {loss: dice}", "training.loss: goes with task: segmentation"),
        ("arch: resnet18, training: {class_weights: {a: 2}}", "training.class_weights: goes with task: segmentation"),
    ],
)
def test_what_makes_masks_can_t_classify(given: str, complaint: str) -> None:
    with pytest.raises(InvalidFile, match=rf"candidates\.x\.{complaint}"):
        Params.from_yaml(
            f"{{task: classification, data: {{source: digits, image_size: 8}}, candidates: {{x: {{{given}}}}}}}"
        )
