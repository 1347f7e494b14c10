"""The locked requirements: complete, hashed, of one mind, and naming no package index. `make lock` writes them anew."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
EXTRAS = {
    "dev": ["train", "evaluate", "server", "serve", "drift", "pipeline", "dev"],
    "base": ["evaluate", "pipeline", "server"],
    "train": ["train", "pipeline"],
    "predictor": ["serve"],
    "drift-detector": ["drift"],
}


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins(lock: str) -> dict[str, set[Version]]:
    pins: dict[str, set[Version]] = {}
    for line in (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines():
        if match := re.match(r"([\w.\-]+)(?:\[[\w,]+\])?==([^ ;\\]+)", line):
            pins.setdefault(_name(match[1]), set()).add(Version(match[2]))
    return pins


@pytest.mark.parametrize("lock", EXTRAS)
def test_every_direct_dependency_is_pinned_to_a_version_that_pyproject_allows(lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS[lock]:
        wanted += project["optional-dependencies"][extra]
    pins = _pins(lock)
    for requirement in map(Requirement, wanted):
        versions = pins.get(_name(requirement.name), set())
        assert versions, f"{requirement.name} is missing: run `make lock`"
        assert all(version in requirement.specifier for version in versions), f"{requirement} is stale: run `make lock`"


@pytest.mark.parametrize("lock", EXTRAS)
def test_every_pin_has_a_hash_and_no_line_names_an_address(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


def test_all_locks_agree() -> None:
    everything = _pins("dev")
    for lock in EXTRAS:
        for name, versions in _pins(lock).items():
            assert versions <= everything[name], f"{name} in {lock}.txt differs from dev.txt: run `make lock`"


def test_torch_is_in_the_training_image_alone() -> None:
    assert [lock for lock in EXTRAS if "torch" in _pins(lock)] == ["dev", "train"]
