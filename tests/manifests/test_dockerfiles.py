"""What every image of ours must fulfil; the images themselves are built by the CI job `images`."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = ["components/Dockerfile", "serving/Dockerfile"]


@pytest.fixture(params=DOCKERFILES)
def text(request: pytest.FixtureRequest) -> str:
    return (ROOT / request.param).read_text(encoding="utf-8")


def stages(text: str) -> dict[str, tuple[str, str]]:
    """Return parent and instructions of each stage by its name."""
    found = re.findall(r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: (parent, body) for parent, name, body in found}


def results(text: str) -> list[str]:
    """Return the stages that are images: those on top of `runtime`."""
    return [name for name, (parent, _) in stages(text).items() if parent == "runtime"]


def test_each_image_has_its_target() -> None:
    found = [name for file in DOCKERFILES for name in results((ROOT / file).read_text(encoding="utf-8"))]
    assert found == ["base", "train", "predictor", "drift-detector"]


def test_images_start_from_a_pinned_base_and_fetch_no_frontend(text: str) -> None:
    bases = {parent for parent, _ in stages(text).values()} - stages(text).keys()
    assert bases == {"python:3.11-slim-bookworm"}
    assert "# syntax" not in text


def test_packages_are_checked_against_their_hashes_and_come_from_no_named_index(text: str) -> None:
    assert text.count("uv pip install") == text.count("--require-hashes") == 2
    assert not re.search(r"https?://\w", text)


def test_images_run_unprivileged_with_telemetry_off(text: str) -> None:
    _, runtime = stages(text)["runtime"]
    assert "USER 65532:65532" in runtime
    assert {"DO_NOT_TRACK=true", "MLFLOW_DISABLE_TELEMETRY=true", "ORT_DISABLE_TELEMETRY=1"} <= set(runtime.split())
    assert not [name for name in results(text) if "USER" in stages(text)[name][1]]


def test_the_source_is_copied_last(text: str) -> None:
    for name in results(text):
        copies = [line for line in stages(text)[name][1].splitlines() if line.startswith("COPY")]
        assert copies[0].startswith("COPY --from=")
        assert not [line for line in copies[1:] if "--from=" in line]


def test_the_tag_says_which_source_is_in_an_image_and_can_be_chosen() -> None:
    command, environment = ["make", "--silent", "print-image-tag"], {"PATH": os.environ["PATH"]}
    tag, chosen = (
        subprocess.run(command, cwd=ROOT, env=environment | given, capture_output=True, text=True, check=True).stdout
        for given in ({}, {"IMAGE_TAG": "mine"})
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+(-[0-9a-f]{12}(-dirty-[0-9a-f]{8})?)?\n", tag)
    assert chosen == "mine\n"
