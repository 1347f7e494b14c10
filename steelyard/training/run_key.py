"""Run key: the content hash by which a training is remembered. Knows no torch."""

import hashlib
import json
from functools import cache
from pathlib import Path

import steelyard.models
import steelyard.training
from steelyard.data.dataset import Dataset
from steelyard.params import Candidate


def run_key(candidate: Candidate, dataset: Dataset, pretrained_sha256: str = "") -> str:
    """Return the sha256 over all that decides the weights: data, architecture, first weights, recipe, seed and code.

    Where the first weights come from is not in it, only what they are. The contract, the client, the candidate's name
    and the machine are not in it either, so that a training made for one client serves every other.
    """
    model = {name: value for name, value in candidate.model_spec().items() if not name.startswith("pretrained")}
    content = {
        "dataset": dataset.ref.model_dump(),
        "classes": dataset.index.classes,
        "image_shape": dataset.index.image_shape,
        "task": dataset.index.task,
        "model": model,
        "pretrained": pretrained_sha256,
        "training": candidate.training.model_dump(),
        "code": _code_digest(),
    }
    if dataset.index.layout == "shards":  # within which images are shuffled
        content["shards"] = dataset.index.shards
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def _code_digest() -> str:
    """Digest the code that builds and trains networks."""
    digest = hashlib.sha256()
    for package in (steelyard.models, steelyard.training):
        for file in sorted(Path(package.__path__[0]).glob("*.py")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
