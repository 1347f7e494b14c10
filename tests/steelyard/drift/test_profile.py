import json
import re
from pathlib import Path

import numpy as np
import pytest

from steelyard.drift.profile import ReferenceProfile
from steelyard.errors import ArtifactError
from tests.steelyard.drift.conftest import World


def test_a_profile_comes_back_as_it_was_written(profile: ReferenceProfile, world: World, tmp_path: Path) -> None:
    profile.write(tmp_path)
    back = ReferenceProfile.read(tmp_path)
    samples, _ = world.draw(20, seed=3)
    assert back.index == profile.index
    assert back.digest == profile.digest
    np.testing.assert_array_equal(back.features(samples), profile.features(samples))


def test_a_profile_lies_in_a_folder_beside_other_files(profile: ReferenceProfile, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("{}")
    profile.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.json", "reference.json", "reference.npz"]


@pytest.mark.parametrize("name", ["reference.json", "reference.npz"])
def test_a_missing_file_is_named(profile: ReferenceProfile, tmp_path: Path, name: str) -> None:
    profile.write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=f"holds no readable {re.escape(name)}"):
        ReferenceProfile.read(tmp_path)


def test_arrays_of_another_profile_are_refused(
    profile: ReferenceProfile, tiny_profile: ReferenceProfile, tmp_path: Path
) -> None:
    profile.write(tmp_path)
    (tmp_path / "reference.npz").write_bytes(tiny_profile.arrays.to_bytes())
    with pytest.raises(ArtifactError, match="checksum"):
        ReferenceProfile.read(tmp_path)


def test_an_unknown_major_version_is_refused(profile: ReferenceProfile, tmp_path: Path) -> None:
    profile.write(tmp_path)
    file = tmp_path / "reference.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": "9.0"}))
    with pytest.raises(ArtifactError, match=r"9\.0"):
        ReferenceProfile.read(tmp_path)


def test_held_out_features_are_standardised(profile: ReferenceProfile, world: World) -> None:
    z_NF = profile.features(world.draw(400, seed=2)[0])  # the rows that the profile was calibrated on
    assert z_NF.shape[1] == len(profile.index.features)
    np.testing.assert_allclose(z_NF.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(z_NF.std(axis=0), 1, atol=1e-4)


def test_features_do_not_see_which_class_was_predicted(profile: ReferenceProfile, world: World) -> None:
    means_CF = np.stack([profile.features(world.draw(2_000, 5, labels=(c,))[0]).mean(axis=0) for c in range(3)])
    assert np.abs(means_CF[:, :4]).max() < 0.5  # the classes' centres lie several deviations apart


def test_an_answer_that_is_no_number_counts_as_far_out(profile: ReferenceProfile, world: World) -> None:
    samples, _ = world.draw(2, seed=3)
    z_NF = profile.features(samples._replace(embedding_ND=samples.embedding_ND * np.float32(np.nan)))
    assert np.isfinite(z_NF).all()
    assert (z_NF[:, :4] > 3).all()
