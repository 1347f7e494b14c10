"""The committed renderings say what the overlays say, and other images reach them through a kustomization."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from manifests.render import OVERLAYS, kustomize_command

SCRIPT = Path(__file__).parents[2] / "manifests/render.py"


def run(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = None if path is None else {"PATH": path}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False, env=environment
    )


@pytest.fixture
def tool() -> list[str]:
    return kustomize_command() or pytest.skip("neither kubectl nor kustomize is on PATH")


def images(text: str) -> set[str]:
    return {line.split("image: ")[1] for line in text.splitlines() if "image: " in line}


def test_no_committed_rendering_is_stale(tool: list[str]) -> None:
    done = run("--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_another_prefix_and_tag_reach_every_image(tmp_path: Path, tool: list[str], overlay: str) -> None:
    options = ("--image-prefix", "registry.example.com/team", "--image-tag", "1.20")
    assert run("--output", str(tmp_path), *options).returncode == 0
    done = subprocess.run([*tool, str(tmp_path / overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert images(done.stdout) == {"registry.example.com/team/base-python:1.20"}


def test_a_kustomization_needs_no_tool_and_names_its_overlay_by_a_relative_path(tmp_path: Path) -> None:
    assert run("--output", str(tmp_path), path="/nonexistent").returncode == 0
    (resource,) = yaml.safe_load((tmp_path / "local/kustomization.yaml").read_text("utf-8"))["resources"]
    assert not Path(resource).is_absolute()
    assert (tmp_path / "local" / resource).resolve() == SCRIPT.parent / "overlays/local"


@pytest.mark.parametrize("options", [(), ("--check",)])
def test_rendering_without_a_tool_fails_with_one_line(options: tuple[str, ...]) -> None:
    done = run(*options, path="/nonexistent")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["rendering takes kubectl or kustomize: neither is on PATH"]
