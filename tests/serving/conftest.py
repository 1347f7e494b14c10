"""The one bundle that the tests of serving share."""

from pathlib import Path

import pytest
from serving_kit import write_bundle, write_profile


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def profile_folder(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_profile(bundle_folder, tmp_path_factory.mktemp("profile"))
