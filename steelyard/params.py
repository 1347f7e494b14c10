"""params.yaml -> Params: what to prepare and what to train."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from steelyard.artifact import CandidateName
from steelyard.models.layers import Layer, check_layers
from steelyard.yaml_file import Strict, parse

Fraction = Annotated[float, Field(ge=0, lt=1)]


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


class Data(Strict):
    """Where the images come from and how they are prepared."""

    source: Annotated[str, Field(min_length=1)]
    image_size: Annotated[int, Field(ge=4, le=4096)]
    grayscale: bool = False
    split: Split = Split()
    max_quarantined: Fraction = 0.01


class Training(Strict):
    """The recipe; a candidate may replace any part of it."""

    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    seed: Annotated[int, Field(ge=0)] = 0


class Candidate(Strict):
    """An architecture, a recipe and a seed, with everything resolved: what one training needs to know.

    The architecture is either a list of layers or the name of a torchvision classification model; `stem: small`
    replaces the latter's first layers by a 3x3 convolution without pooling, which suits images of 16 to 64 pixels;
    it is for families whose first convolution halves the image, such as resnet, mobilenet and efficientnet.
    """

    name: CandidateName
    layers: tuple[Layer, ...] | None = None
    arch: str | None = None
    stem: Literal["standard", "small"] = "standard"
    pretrained: Literal[False] = False
    training: Training = Training()

    @model_validator(mode="after")
    def _has_one_architecture(self) -> Self:
        if (self.layers is None) == (self.arch is None):
            raise ValueError("give either layers or arch")
        if self.layers is not None and self.stem != "standard":
            raise ValueError("stem goes with arch, not with layers")
        return self

    def model_spec(self) -> dict[str, Any]:
        """Return what defines the network, as plain JSON values."""
        return self.model_dump(mode="json", exclude={"name", "training"}, exclude_none=True)


class Params(Strict):
    """The engineer's file."""

    task: Literal["classification"]
    data: Data
    training: Training = Training()
    candidates: Annotated[dict[str, Candidate], Field(min_length=1)]

    @classmethod
    def from_yaml(cls, text: str, file: str = "params") -> Self:
        """Parse params.yaml; each candidate comes back with the common recipe under its own.

        Raises:
            InvalidFile: names the key and what is wrong with it.
        """
        return parse(text, cls, file)

    def with_source(self, source: str) -> Self:
        """Return the same with another source of images; "" changes nothing."""
        return self.model_copy(update={"data": self.data.model_copy(update={"source": source})}) if source else self

    @model_validator(mode="before")
    @classmethod
    def _resolve_candidates(cls, content: Any) -> Any:
        """Give each candidate its name and the settings that it leaves to the common recipe."""
        candidates, common = content.get("candidates"), content.get("training") or {}
        if not isinstance(candidates, dict) or not isinstance(common, dict):
            return content
        return {**content, "candidates": {name: _resolved(name, own, common) for name, own in candidates.items()}}

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        shape = (self.data.image_size, self.data.image_size, 1 if self.data.grayscale else 3)
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
    recipe = own.get("training") or {}
    return {**own, "name": name, "training": {**common, **recipe} if isinstance(recipe, dict) else recipe}
