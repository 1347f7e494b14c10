"""params.yaml -> Params: what to prepare and what to train."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from steelyard.artifact import CandidateName
from steelyard.errors import InvalidFile
from steelyard.models.layers import Layer, check_layers
from steelyard.yaml_file import Strict, nearest, parse

Fraction = Annotated[float, Field(ge=0, lt=1)]
Side = Annotated[int, Field(ge=4, le=4096)]
Byte = Annotated[int, Field(ge=0, le=255)]


class Split(Strict):
    """Shares of the images; what is chosen on validation is published once on test."""

    train: Annotated[float, Field(gt=0, lt=1)] = 0.7
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    test: Annotated[float, Field(gt=0, lt=1)] = 0.15
    seed: Annotated[int, Field(ge=0)] = 42

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test must sum to 1, not {total:g}")
        return self


ROOTED_SOURCES = ("cifar10", "cifar100", "places365")  # names; their files lie below `root`

PixelValue = Annotated[int, Field(ge=0, le=65535)] | tuple[Byte, Byte, Byte]


class Tiles(Strict):
    """Windows that large rasters are cut into; neighbours share `overlap` pixels, those at the far edges more."""

    size: Annotated[int, Field(ge=8, le=8192)]
    overlap: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.overlap >= self.size:
            raise ValueError("overlap must be smaller than size")
        return self


class Masks(Strict):
    """How a mask's pixels are read: each class by its value or its colour, and what counts for nothing."""

    classes: Annotated[dict[str, PixelValue], Field(min_length=2, max_length=255)]
    ignore: PixelValue | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        values = [*self.classes.values(), *([] if self.ignore is None else [self.ignore])]
        if len({isinstance(value, int) for value in values}) > 1:
            raise ValueError("give either values (0, 1, ...) or colours ([255, 0, 0], ...), not both")
        if len(set(values)) < len(values):
            raise ValueError("two classes have one value")
        return self


class Data(Strict):
    """Where the images come from and how they are prepared."""

    source: Annotated[str, Field(min_length=1)]
    root: str = ""
    image_size: Side | tuple[Side, Side]
    grayscale: bool = False
    split: Split = Split()
    group: str = ""
    masks: Masks | None = None
    tiles: Tiles | None = None
    near_duplicates: Literal["report", "remove"] = "report"
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.01
    layout: Literal["auto", "arrays", "shards"] = "auto"
    shards: Annotated[str, Field(pattern="^(s3://.+)?$")] = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the prepared images."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return height, width, 1 if self.grayscale else 3

    @property
    def address(self) -> str:
        """Where the files lie; "" where nobody says."""
        if self.source == "digits":
            return ""
        return self.root if self.source in ROOTED_SOURCES else self.source

    def at(self, address: str) -> Self:
        """Return the same with its files at another address; "" changes nothing."""
        where = "root" if self.source in ROOTED_SOURCES else "source"
        return self.model_copy(update={where: address}) if address else self

    @model_validator(mode="after")
    def _shards_are_shards(self) -> Self:
        if self.shards and self.layout == "arrays":
            raise ValueError("shards: goes with layout: shards, not with arrays")
        return self

    @model_validator(mode="after")
    def _group_is_an_expression(self) -> Self:
        try:
            re.compile(self.group)
        except re.error as error:
            raise ValueError(f"group: is no regular expression: {error}") from None
        return self


class Augment(Strict):
    """What is drawn anew for each image at each step, mixing for each batch, in training alone."""

    crop: Annotated[int, Field(ge=0)] = 0  # pixels it is shifted, at most; what is missing is mirrored
    flip: bool = False  # left and right, every other image
    colour: Fraction = 0.0  # part by which brightness, contrast and saturation change, at most
    cutout: Annotated[int, Field(ge=0)] = 0  # side of a square made grey, pixels
    mixup: Annotated[float, Field(ge=0)] = 0.0  # alpha of Zhang et al. 2018
    cutmix: Annotated[float, Field(ge=0)] = 0.0  # alpha of Yun et al. 2019; with mixup, each batch gets one of both


class Training(Strict):
    """The recipe; a candidate may replace any part of it.

    `unfreeze: {layer4: 1, "*": 3}` lets parts of the network learn from an epoch on, `*` being those not named; without
    `*` these never do. The head always learns. Of masks, `loss` and `class_weights` say what a wrong pixel costs; a
    class that is not named weighs 1.
    """

    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0  # of cosine
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    loss: Literal["cross-entropy", "dice", "focal"] = "cross-entropy"
    class_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    label_smoothing: Fraction = 0.0
    ema: Fraction = 0.0  # decay per step of the averaged weights, which then are those that count; 0 has none
    augment: Augment = Augment()
    unfreeze: dict[str, Annotated[int, Field(ge=1)]] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    deterministic: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0

    @model_validator(mode="after")
    def _warms_up_before_the_end(self) -> Self:
        if self.warmup_epochs and self.schedule != "cosine":
            raise ValueError("warmup_epochs goes with schedule: cosine; one-cycle has its own")
        if self.warmup_epochs >= self.epochs:
            raise ValueError("warmup_epochs must be less than epochs")
        return self

    @model_validator(mode="after")
    def _smooths_what_has_labels(self) -> Self:
        if self.label_smoothing and self.loss != "cross-entropy":
            raise ValueError(f"label_smoothing goes with loss: cross-entropy, not with {self.loss}")
        return self


SEGMENTATION_ARCHS = (  # of torchvision: one convolution behind their features names the classes
    *("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101"),
    *("fcn_resnet50", "fcn_resnet101"),
)


class UNet(Strict):
    """A U-Net for masks: how often the image is halved, and the channels before that, which each halving doubles."""

    depth: Annotated[int, Field(ge=1, le=8)] = 4
    width: Annotated[int, Field(ge=1)] = 32
    batch_norm: bool = True
    dropout: Fraction = 0  # of whole channels, where the image is smallest


class Candidate(Strict):
    """An architecture, a recipe and a seed, with everything resolved: what one training needs to know.

    The architecture is a list of layers, a U-Net, or the name of a model of torchvision's; `stem: small` replaces the
    first layers of one that classifies by a 3x3 convolution without pooling, which suits images of 16 to 64 pixels;
    it is for families whose first convolution halves the image, such as resnet, mobilenet and efficientnet.
    `pretrained` are the weights to begin with: a file or s3:// address, or true for torchvision's, which must be there.
    """

    name: CandidateName
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)] | None = None
    arch: str | None = None
    unet: UNet | None = None
    stem: Literal["standard", "small"] = "standard"
    pretrained: bool | Annotated[str, Field(min_length=1)] = False
    pretrained_sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    training: Training = Training()
    halving: bool = False  # of Params; not in the run key, as it decides how long is trained and not what

    @model_validator(mode="after")
    def _has_one_architecture(self) -> Self:
        if sum(given is not None for given in (self.layers, self.arch, self.unet)) != 1:
            raise ValueError("give one of layers, arch and unet")
        if self.arch is None and self.stem != "standard":
            raise ValueError("stem goes with arch, not with layers or unet")
        if self.arch is None and self.pretrained is True:
            raise ValueError("pretrained: true goes with arch; for layers and unet, name a file or an s3:// address")
        if self.pretrained_sha256 and not isinstance(self.pretrained, str):
            raise ValueError("pretrained_sha256 goes with a file or an s3:// address as pretrained")
        return self

    def model_spec(self) -> dict[str, Any]:
        """Return what defines the network, as plain JSON values."""
        return self.model_dump(mode="json", exclude={"name", "training", "halving"}, exclude_none=True)


class Params(Strict):
    """The engineer's file."""

    task: Literal["classification", "segmentation"]
    data: Data
    training: Training = Training()
    halving: Annotated[bool, Field(strict=True)] = (
        False  # ends candidates whose first epochs are worth less to the client than those of others
    )
    candidates: dict[str, Candidate] = Field(default_factory=dict)

    @classmethod
    def from_yaml(cls, text: str, file: str = "params") -> Self:
        """Parse params.yaml; each candidate comes back with the common recipe under its own.

        Raises:
            InvalidFile: names the key and what is wrong with it.
        """
        return parse(text, cls, file)

    def at(self, address: str) -> Self:
        """Return the same with its files at another address; "" changes nothing."""
        return self.model_copy(update={"data": self.data.at(address)})

    def check_trainable(self, file: str = "params") -> None:
        """Refuse what can be prepared but not trained.

        Raises:
            InvalidFile: there are no candidates.
        """
        if not self.candidates:
            raise InvalidFile(file, "name at least one candidate", "candidates")

    @model_validator(mode="before")
    @classmethod
    def _resolve_candidates(cls, content: Any) -> Any:
        """Give each candidate its name and the settings that it leaves to the common recipe."""
        candidates, common = content.get("candidates"), content.get("training") or {}
        if not isinstance(candidates, dict) or not isinstance(common, dict):
            return content
        common = {"training": common, "halving": content.get("halving", False)}
        return {**content, "candidates": {name: _resolved(name, own, common) for name, own in candidates.items()}}

    @model_validator(mode="after")
    def _masks_go_with_segmentation(self) -> Self:
        segmentation, data = self.task == "segmentation", self.data
        if segmentation and data.masks is None:
            raise ValueError("data.masks: a segmentation needs a table, such as {classes: {background: 0, road: 1}}")
        if not segmentation and (data.masks or data.tiles):
            raise ValueError("data.masks and data.tiles go with task: segmentation")
        return self

    @model_validator(mode="after")
    def _candidates_suit_the_task(self) -> Self:
        masks = self.data.masks
        for name, candidate in self.candidates.items():
            if problem := _unsuited_to_masks(candidate, masks) if masks else _unsuited_to_labels(candidate):
                raise ValueError(f"candidates.{name}.{problem}")
        return self

    @model_validator(mode="after")
    def _augmentations_fit(self) -> Self:
        side = min(self.data.shape[:2])
        for name, candidate in self.candidates.items():
            augment = candidate.training.augment
            if max(augment.crop, augment.cutout) >= side:
                raise ValueError(f"candidates.{name}.training.augment: crop and cutout must be less than {side} pixels")
        return self

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        shape = self.data.shape
        for name, candidate in self.candidates.items():
            if candidate.layers is not None:
                try:
                    check_layers(candidate.layers, shape)
                except ValueError as error:
                    raise ValueError(f"candidates.{name}.layers.{error}") from None
        return self


def _resolved(name: str, own: Any, common: dict[str, Any]) -> Any:
    if not isinstance(own, dict):
        return own
    if "name" in own:
        raise ValueError(f"candidates.{name}.name: unknown key; a candidate's name is the key above it")
    if "halving" in own:
        raise ValueError(
            f"candidates.{name}.halving: unknown key; halving is for all candidates, and stands beside them"
        )
    recipe = own.get("training") or {}
    whole = {**common["training"], **recipe} if isinstance(recipe, dict) else recipe
    return {**own, **common, "name": name, "training": whole}


def _unsuited_to_labels(candidate: Candidate) -> str:
    """Return what of a candidate can't classify; "" where nothing."""
    recipe = candidate.training
    found = {
        "unet": candidate.unet is not None,
        "arch": candidate.arch in SEGMENTATION_ARCHS,
        "training.loss": recipe.loss != "cross-entropy",
        "training.class_weights": bool(recipe.class_weights),
    }
    return next((f"{key}: goes with task: segmentation" for key, given in found.items() if given), "")


def _unsuited_to_masks(candidate: Candidate, masks: Masks) -> str:
    """Return what of a candidate can't make masks; "" where nothing."""
    if candidate.layers is not None:
        return "layers: go with task: classification; a segmentation takes unet or arch"
    if candidate.arch is not None and candidate.arch not in SEGMENTATION_ARCHS:
        return f"arch: there is no segmentation network {candidate.arch!r}; there are: {', '.join(SEGMENTATION_ARCHS)}"
    if candidate.stem != "standard":
        return "stem: goes with task: classification"
    if candidate.training.augment.mixup or candidate.training.augment.cutmix:
        return "training.augment: mixup and cutmix go with classification"
    if unknown := candidate.training.class_weights.keys() - masks.classes.keys():
        name = min(unknown)
        return f"training.class_weights: there is no class {name!r}{nearest(name, list(masks.classes))}"
    return ""
