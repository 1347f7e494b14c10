"""The committed renderings say what the overlays say."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "manifests/render.py"
RENDERED = SCRIPT.parent / "rendered"
PATH_WITHOUT_TOOLS = "/nonexistent"


def run(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = None if path is None else {"PATH": path}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False, env=environment
    )


def images(folder: Path) -> set[str]:
    text = "\n".join(file.read_text(encoding="utf-8") for file in folder.glob("*.yaml"))
    return {line.split("image: ")[1] for line in text.splitlines() if "image: " in line}


def test_no_committed_rendering_is_stale() -> None:
    done = run("--check")
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_prefix_and_tag_reach_every_image(tmp_path: Path) -> None:
    done = run("--output", str(tmp_path), "--image-prefix", "registry.example.com/team", "--image-tag", "1.2.3")
    assert done.returncode == 0, done.stderr
    assert images(tmp_path) == {"registry.example.com/team/base-python:1.2.3"}


def test_without_a_tool_the_images_are_replaced_and_the_script_says_so(tmp_path: Path) -> None:
    options = ("--image-prefix", "registry.example.com/team", "--image-tag", "1.2.3")
    done = run("--output", str(tmp_path), *options, path=PATH_WITHOUT_TOOLS)
    assert done.stdout.count("not rendered") == 2
    assert images(tmp_path) == {"registry.example.com/team/base-python:1.2.3"}
    assert run("--check", path=PATH_WITHOUT_TOOLS).returncode == 3


def test_both_ways_give_the_same(tmp_path: Path) -> None:
    if run("--check").returncode == 3:
        pytest.skip("neither kubectl nor kustomize is on PATH")
    options = ("--image-prefix", "registry.example.com/team", "--image-tag", "1.2.3")
    for folder, path in (("rendered", None), ("replaced", PATH_WITHOUT_TOOLS)):
        assert run("--output", str(tmp_path / folder), *options, path=path).returncode == 0
    for file in (tmp_path / "rendered").iterdir():
        assert_same_objects(file, tmp_path / "replaced" / file.name)


def assert_same_objects(one: Path, other: Path) -> None:
    first, second = (sorted(map(yaml.safe_dump, yaml.safe_load_all(file.read_text("utf-8")))) for file in (one, other))
    assert first == second
