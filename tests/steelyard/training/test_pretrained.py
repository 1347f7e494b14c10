"""Networks that begin with weights of others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from steelyard.bundle import WEIGHTS_FILE, ModelBundle, sha256
from steelyard.data.dataset import Dataset
from steelyard.errors import DoesNotFit, InvalidFile, UnusableWeights
from steelyard.models.build import build
from steelyard.models.normalised import Normalised
from steelyard.params import Candidate, Params
from steelyard.store import ObjectStore
from steelyard.training.freezing import Freezing
from steelyard.training.pretrained import load_pretrained, pretrained_weights
from steelyard.training.run_key import run_key
from steelyard.training.train import train
from tests.conftest import SMALL_PARAMS
from tests.s3_server import BUCKET


def candidate_of(**settings: object) -> Candidate:
    return Candidate.model_validate({"name": "x", "arch": "resnet18"} | settings)


def loaded(candidate: Candidate, channels: int = 3, store: ObjectStore | None = None) -> Normalised:
    network = build(candidate, (32, 32, channels), 5)
    model = Normalised(network, np.full(channels, 0.5), np.full(channels, 0.25))
    with pretrained_weights(candidate, store) as weights:
        assert weights is not None
        load_pretrained(model, candidate.arch, weights)
    return model


@pytest.fixture(scope="session")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "resnet18-00000000.pth"
    torch.save(models.resnet18().state_dict(), file)
    return file


def test_a_state_dict_of_torchvision_fits_with_its_normalisation(theirs: Path) -> None:
    model = loaded(candidate_of(pretrained=str(theirs), pretrained_sha256=sha256(theirs)))
    wanted = torch.load(theirs, weights_only=True)
    for name, value in model.network.body.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_a_segmentation_network_of_torchvision_lends_all_but_its_heads(tmp_path: Path) -> None:
    arch, file = "deeplabv3_mobilenet_v3_large", tmp_path / "deeplab.pth"
    whole = models.get_model(arch, weights=None, weights_backbone=None, num_classes=21, aux_loss=True).state_dict()
    torch.save(whole, file)
    model = loaded(candidate_of(arch=arch, pretrained=str(file)))
    for name, value in model.network.body.state_dict().items():
        assert torch.equal(value, whole[name]), name
    assert model.network(torch.zeros(2, 3, 16, 16))[0].shape == (2, 5, 16, 16)
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_a_stem_for_small_images_or_one_channel_stays_fresh(theirs: Path) -> None:
    wanted = torch.load(theirs, weights_only=True)
    for settings, channels in (({"stem": "small"}, 3), ({}, 1)):
        body = loaded(candidate_of(pretrained=str(theirs), **settings), channels).network.body
        assert torch.equal(body.layer1[0].conv1.weight, wanted["layer1.0.conv1.weight"])


def test_weights_come_from_an_object_store_as_safetensors(theirs: Path, tmp_path: Path, store: ObjectStore) -> None:
    save_file(torch.load(theirs, weights_only=True), tmp_path / "weights.safetensors")
    store.upload(tmp_path / "weights.safetensors", f"{BUCKET}/pretrained/weights.safetensors")
    model = loaded(candidate_of(pretrained=f"{BUCKET}/pretrained/weights.safetensors"), store=store)
    wanted = torch.load(theirs, weights_only=True)
    assert torch.equal(model.network.body.layer4[1].conv2.weight, wanted["layer4.1.conv2.weight"])


def test_a_bundle_s_weights_go_on_in_another_training(candidate: Candidate, bundle: ModelBundle) -> None:
    going_on = candidate.model_copy(update={"pretrained": str(bundle.folder / WEIGHTS_FILE)})
    model = Normalised(build(going_on, (8, 8, 1), 3), np.full(1, 0.5), np.full(1, 0.25))
    with pretrained_weights(going_on, None) as weights:
        assert weights is not None
        load_pretrained(model, None, weights)
    assert model.mean.item() != 0.5
    assert model.network.head.out_features == 3
    assert not any(parameter.any() for parameter in model.network.head.parameters())


@pytest.mark.parametrize(("stem", "channels"), [("small", 3), ("standard", 1)])
def test_a_bundle_with_the_same_stem_lends_it_too(tmp_path: Path, stem: str, channels: int) -> None:
    candidate, shape = candidate_of(stem=stem), (32, 32, channels)
    lent = Normalised(build(candidate, shape, 4), np.full(channels, 0.4), np.full(channels, 0.2))
    save_file(lent.state_dict(), tmp_path / "weights.safetensors")
    network = loaded(candidate_of(stem=stem, pretrained=str(tmp_path / "weights.safetensors")), channels).network
    for name, value in network.body.state_dict().items():
        assert torch.equal(value, lent.network.body.state_dict()[name]), name
    network.train()
    Freezing(network, {}).begin(1)
    assert not any(parameter.requires_grad for parameter in network.body.parameters())


def test_a_stem_made_anew_learns_where_all_else_is_frozen(theirs: Path) -> None:
    network = loaded(candidate_of(stem="small", pretrained=str(theirs))).network
    network.train()
    for unfreeze, wanted in (({}, {"conv1.weight"}), ({"conv1": 2}, set())):
        Freezing(network, unfreeze).begin(1)
        assert {name for name, one in network.body.named_parameters() if one.requires_grad} == wanted


def test_nothing_is_downloaded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    wanted = candidate_of(pretrained=True)
    with pytest.raises(UnusableWeights, match=r"not on this machine.*: put https://\S+/resnet18-f37072fd\.pth into "):
        loaded(wanted)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(theirs.read_bytes())
    with pytest.raises(UnusableWeights, match=r"its sha256 is [0-9a-f]{64}, not f37072fd\.\.\."):
        loaded(wanted)


def truncated(file: Path, theirs: Path) -> None:
    file.write_bytes(theirs.read_bytes()[:5000])


def of_another(file: Path, theirs: Path) -> None:
    torch.save(models.resnet34().state_dict(), file)


def of_less(file: Path, theirs: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, file)


def wider(file: Path, theirs: Path) -> None:
    torch.save(torch.load(theirs, weights_only=True) | {"conv1.weight": torch.zeros(65, 3, 7, 7)}, file)


def code(file: Path, theirs: Path) -> None:
    torch.save({"conv1.weight": print}, file)


def nameless(file: Path, theirs: Path) -> None:
    torch.save({1: torch.zeros(1)}, file)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (nameless, "is no state dict, which maps names to tensors"),
        (truncated, "can't be read|read safely"),
        (of_another, r"holds layer1\.2\.\S+ and \d+ more that the network has not"),
        (of_less, r"lacks bn1\.weight and \d+ more that the network has"),
        (wider, "conv1.weight is 65x3x7x7 and 64x3x7x7 in the network"),
        (code, "is no state dict that can be read safely"),
    ],
)
def test_weights_that_do_not_fit_fail_the_candidate(
    make: Callable[[Path, Path], None], sentence: str, theirs: Path, tmp_path: Path
) -> None:
    make(tmp_path / "weights.pth", theirs)
    with pytest.raises(UnusableWeights, match=sentence) as caught:
        loaded(candidate_of(pretrained=str(tmp_path / "weights.pth")))
    assert "\n" not in str(caught.value)


def test_the_run_key_holds_what_the_weights_are_and_not_where_they_lie(dataset: Dataset) -> None:
    one, other = (candidate_of(pretrained=f"/{place}/weights.pth") for place in ("a", "b"))
    assert run_key(one, dataset, "1" * 64) == run_key(other, dataset, "1" * 64)
    assert len({run_key(one, dataset, digest) for digest in ("", "1" * 64, "2" * 64)}) == 3


def test_parts_learn_from_the_epoch_that_was_named(candidate: Candidate, dataset: Dataset) -> None:
    network = build(candidate_of(), (32, 32, 3), 5)
    stages = Freezing(network, {"layer4": 1, "layer4.1": 2, "*": 3})

    def learning(epoch: int) -> set[str]:
        network.train()
        stages.begin(epoch)
        return {name.split(".")[0] for name, one in network.body.named_parameters() if one.requires_grad}

    assert learning(1) == {"layer4"}
    assert not network.body.layer4[1].bn1.training
    assert network.body.layer4[0].bn1.training
    assert not network.body.bn1.training
    assert learning(2) == {"layer4"}
    assert network.body.layer4[1].bn1.training
    assert learning(3) == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    with pytest.raises(DoesNotFit, match="no part 'layer5'; it has: conv1, bn1, relu, maxpool, layer1"):
        Freezing(network, {"layer5": 1})


def test_a_frozen_body_stays_as_it_was_while_the_head_learns(candidate: Candidate, dataset: Dataset) -> None:
    recipe = candidate.training.model_copy(update={"unfreeze": {}, "epochs": 2})
    trained = train(candidate.model_copy(update={"training": recipe}), dataset, lambda epoch: None)
    torch.manual_seed(recipe.seed)
    fresh = build(candidate, dataset.index.image_shape, 10)
    for name, value in fresh.body.state_dict().items():
        assert torch.equal(trained.model.network.body.state_dict()[name], value)
    assert not torch.equal(trained.model.network.head.weight, fresh.head.weight)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("pretrained: true", "pretrained: true goes with arch"),
        ("pretrained_sha256: " + "a" * 64, "pretrained_sha256 goes with a file"),
        ("pretrained: x.pth, pretrained_sha256: abc", "pretrained_sha256"),
    ],
)
def test_settings_that_can_t_be_are_refused_at_the_edge(settings: str, sentence: str) -> None:
    with pytest.raises(InvalidFile, match=sentence):
        Params.from_yaml(SMALL_PARAMS.replace("{layers: [{flatten", f"{{{settings}, layers: [{{flatten"))
