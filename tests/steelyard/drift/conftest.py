"""A small world: class centres in embedding space, softmax of the distances, four image statistics."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from steelyard.drift.calibration import build_profile
from steelyard.drift.profile import ReferenceProfile
from steelyard.drift.samples import Samples


@dataclass(frozen=True)
class World:
    """Draws labelled samples; every draw with the same generator state is the same."""

    classes: int = 3
    size: int = 4

    def draw(self, rows: int, seed: int, labels: tuple[int, ...] | None = None) -> tuple[Samples, NDArray[np.int64]]:
        """Return samples and labels, of the given classes only if any are given."""
        centers_CD = np.random.default_rng(0).normal(0, 2, (self.classes, self.size))
        generator = np.random.default_rng(seed)
        labels_N = generator.choice(labels or self.classes, rows)
        embedding_ND = centers_CD[labels_N] + generator.normal(size=(rows, self.size))
        distance_NC = ((embedding_ND[:, None] - centers_CD) ** 2).sum(axis=2)
        odds_NC = np.exp((distance_NC.min(axis=1, keepdims=True) - distance_NC) / 4)
        return Samples(
            (odds_NC / odds_NC.sum(axis=1, keepdims=True)).astype(np.float32),
            embedding_ND.astype(np.float32),
            generator.normal(0.5, 0.1, (rows, 4)).astype(np.float32),
        ), labels_N

    def profile(self, train: int, held_out: int, seed: int = 0, **changes: object) -> ReferenceProfile:
        """Build a profile of this world."""
        settings = {"classes": tuple(map(str, range(self.classes))), "model_sha256": "00", "seed": seed} | changes
        return build_profile(*self.draw(train, 1), *self.draw(held_out, 2), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def profile(world: World) -> ReferenceProfile:
    return world.profile(train=400, held_out=400)


@pytest.fixture(scope="session")
def tiny_profile(world: World) -> ReferenceProfile:
    return world.profile(train=60, held_out=30)


@pytest.fixture(scope="session")
def shifted() -> Callable[[Samples], Samples]:
    def shift(samples: Samples) -> Samples:
        return samples._replace(statistics_NS=samples.statistics_NS + np.float32(0.15))

    return shift
