"""Pretrained weights: where they are, whether they are the right ones, and into which parts of a network they go."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.bundle import sha256
from steelyard.errors import SourceError, UnusableWeights, first_line
from steelyard.params import Candidate
from steelyard.store import ObjectStore, is_remote, needed

if TYPE_CHECKING:
    from torch import Tensor

    from steelyard.models.normalised import Normalised

OURS = "network.body."  # before the names in a bundle's weights.safetensors
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.", "aux_classifier.")  # heads that our networks do not have
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A file of weights and its digest."""

    file: Path
    sha256: str


@contextmanager
def pretrained_weights(candidate: Candidate, store: ObjectStore | None) -> Iterator[Weights | None]:
    """Yield the weights that a candidate begins with, or None; nothing is downloaded but from its own s3:// address.

    Raises:
        UnusableWeights: they are missing, or not those whose digest was stated.
        StoreError: the object store does not answer.
    """
    if not candidate.pretrained:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        file, begins = _found(candidate, store, Path(folder))
        digest = sha256(file)
        if not digest.startswith(begins):
            raise UnusableWeights(f"{file}: its sha256 is {digest}, not {begins}{'...' if len(begins) < 64 else ''}")
        yield Weights(file=file, sha256=digest)


def load_pretrained(model: "Normalised", arch: str | None, weights: Weights) -> None:
    """Give a network's body the weights that fit it, and the normalisation that they were trained with.

    The head begins at zero, as in Kolesnikov et al. 2020: drawn by a seed with which the weights were trained too, it
    would answer with their classes. A stem that was made for other channels or small images stays as it is, unless a
    bundle has the same.

    Args:
        model: gets them.
        arch: of torchvision, or None.
        weights: a state dict of torchvision's, or a bundle's weights.safetensors.

    Raises:
        UnusableWeights: they are those of another network.
    """
    import torch

    tensors, network = _read(weights.file), model.network
    ours = {name.removeprefix(OURS): value for name, value in tensors.items() if name.startswith(OURS)}
    theirs = ours or {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in tensors.items()}
    body = network.body.state_dict()
    network.fresh = tuple(part for part in network.fresh if not _has_same(ours, body, part))
    fresh = (*network.fresh, *_AUXILIARY)
    wanted = {name: value for name, value in body.items() if not _below(name, fresh)}
    _check_fit({name: value for name, value in theirs.items() if not _below(name, fresh)}, wanted, weights.file)
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.zero_()
        for name, value in wanted.items():
            if name in theirs:
                value.copy_(theirs[name])
        for buffer, values in zip((model.mean, model.std), _normalisation(arch, tensors), strict=False):
            if values.numel() == buffer.numel():
                buffer.copy_(values.view_as(buffer))


def _found(candidate: Candidate, store: ObjectStore | None, folder: Path) -> tuple[Path, str]:
    """Return the file, and what its digest must begin with."""
    address, stated = candidate.pretrained, candidate.pretrained_sha256
    if address is True:
        return _torchvision_file(str(candidate.arch))
    if is_remote(str(address)):
        file = folder / Path(str(address)).name
        try:
            with needed(store, str(address)).stream(str(address)) as stream, file.open("wb") as target:
                shutil.copyfileobj(stream, target)
        except SourceError as error:
            raise UnusableWeights(str(error)) from None
        return file, stated
    file = Path(str(address)).expanduser()
    if not file.is_file():
        raise UnusableWeights(
            f"pretrained: there is no file {file.absolute()}: put the weights there, or give an s3:// address, "
            "which pods can read too"
        )
    return file, stated


def _torchvision_file(arch: str) -> tuple[Path, str]:
    """Return torchvision's file, which it names by the first digits of its digest, where torchvision would keep it."""
    import torch
    from torchvision import models

    try:
        url = models.get_model_weights(arch).DEFAULT.url
    except (ValueError, AttributeError):
        raise UnusableWeights(f"torchvision has no weights for {arch!r}") from None
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        raise UnusableWeights(
            f"the weights of {arch} are not on this machine, and nothing is downloaded unasked: put {url} into "
            f"{file.parent}, or give their file or s3:// address as pretrained"
        )
    return file, file.stem.rpartition("-")[2]


def _read(file: Path) -> Mapping[str, "Tensor"]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise UnusableWeights(f"{file}: can't be read: {first_line(error)}") from None
    except Exception as error:  # of the unpickler, which raises anything on other bytes
        raise UnusableWeights(f"{file}: is no state dict that can be read safely: {first_line(error)}") from None
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise UnusableWeights(f"{file}: is no state dict, which maps names to tensors")
    return tensors


def _check_fit(found: Mapping[str, "Tensor"], wanted: Mapping[str, "Tensor"], file: Path) -> None:
    lacking = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    if lacking:
        raise UnusableWeights(f"{file}: lacks {lacking[0]} and {len(lacking) - 1} more that the network has")
    if foreign := [name for name in found if name not in wanted]:
        raise UnusableWeights(f"{file}: holds {foreign[0]} and {len(foreign) - 1} more that the network has not")
    for name, value in wanted.items():
        if name in found and found[name].shape != value.shape:
            shapes = " and ".join("x".join(map(str, tensor.shape)) for tensor in (found[name], value))
            raise UnusableWeights(f"{file}: {name} is {shapes} in the network")


def _normalisation(arch: str | None, tensors: Mapping[str, "Tensor"]) -> tuple["Tensor", ...]:
    """Return mean and standard deviation that the weights were trained with; nothing where that is not known."""
    if {"mean", "std"} <= tensors.keys():
        return tensors["mean"], tensors["std"]
    if arch is None:
        return ()
    import torch
    from torchvision import models

    preset = models.get_model_weights(arch).DEFAULT.transforms()
    return torch.tensor(preset.mean), torch.tensor(preset.std)


def _has_same(ours: Mapping[str, "Tensor"], body: Mapping[str, "Tensor"], part: str) -> bool:
    """Return whether a bundle has tensors of the same shapes below a part's name."""
    shapes = [{name: value.shape for name, value in one.items() if _below(name, (part,))} for one in (ours, body)]
    return bool(shapes[0]) and shapes[0] == shapes[1]


def _below(name: str, parts: tuple[str, ...]) -> bool:
    return any(name.startswith(part.rstrip(".") + ".") for part in parts)
