"""Render every overlay into one file for `kubectl apply -f`.

python manifests/render.py                                            # rewrites manifests/rendered/
python manifests/render.py --check                                    # says which of them are stale
python manifests/render.py --output build/manifests --image-prefix registry.example.com/steelyard --image-tag 0.1.0

Uses kubectl or kustomize. Where neither is installed it takes the committed renderings, replaces image prefix and tag
in them, and says so.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
COMMITTED = HERE / "rendered"
OVERLAYS = ("local", "production")
IMAGES = ("base-python", "train-python", "predictor", "drift-detector")
PREFIX, TAG = "steelyard", "0.1.0"  # as written in the manifests


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, 1 where a rendering is stale, or 3 where --check has no tool to check with."""
    options = _options(arguments)
    tool = kustomize_command()
    if options.check:
        return _check(tool)
    options.output.mkdir(parents=True, exist_ok=True)
    for overlay in OVERLAYS:
        if tool:
            text, how = render(overlay, tool, options.image_prefix, options.image_tag), f"rendered by {' '.join(tool)}"
        else:
            text = with_images(
                (COMMITTED / f"{overlay}.yaml").read_text("utf-8"), options.image_prefix, options.image_tag
            )
            how = "not rendered: neither kubectl nor kustomize is on PATH; committed rendering with its images replaced"
        (options.output / f"{overlay}.yaml").write_text(text, encoding="utf-8")
        print(f"{options.output / f'{overlay}.yaml'}: {how}")
    return 0


def kustomize_command() -> list[str]:
    """Return the command that renders a folder, or nothing."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    return ["kustomize", "build"] if shutil.which("kustomize") else []


def render(overlay: str, tool: Sequence[str], image_prefix: str = PREFIX, image_tag: str = TAG) -> str:
    """Render an overlay with other images, through a kustomization laid over it."""
    names = [{"name": f"{PREFIX}/{n}", "newName": f"{image_prefix}/{n}", "newTag": image_tag} for n in IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        resource = os.path.relpath(HERE / "overlays" / overlay, Path(folder).resolve())
        Path(folder, "kustomization.yaml").write_text(
            yaml.safe_dump({"resources": [resource], "images": names}), "utf-8"
        )
        done = subprocess.run([*tool, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{overlay}: {' '.join(tool)}: {done.stderr.strip()}")
    return f"# Rendered from manifests/overlays/{overlay} by manifests/render.py; edit that instead.\n{done.stdout}"


def with_images(text: str, image_prefix: str, image_tag: str) -> str:
    """Replace prefix and tag of this project's images in a rendering."""
    images = re.compile(rf"(image: ){re.escape(PREFIX)}/({'|'.join(IMAGES)}):{re.escape(TAG)}$", re.MULTILINE)
    return images.sub(lambda found: f"{found[1]}{image_prefix}/{found[2]}:{image_tag}", text)


def stale(overlay: str, tool: Sequence[str]) -> bool:
    """Whether the committed rendering says something else than its overlay; in which order depends on kustomize."""
    return _objects(render(overlay, tool)) != _objects((COMMITTED / f"{overlay}.yaml").read_text(encoding="utf-8"))


def _objects(text: str) -> dict[tuple[str, str], object]:
    return {(found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(text)}


def _check(tool: Sequence[str]) -> int:
    if not tool:
        print("not checked: neither kubectl nor kustomize is on PATH")
        return 3
    found = [overlay for overlay in OVERLAYS if stale(overlay, tool)]
    for overlay in found:
        print(f"manifests/rendered/{overlay}.yaml is stale: run python manifests/render.py")
    return 1 if found else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Render every overlay into one file.")
    parser.add_argument(
        "--output", type=Path, default=COMMITTED, help="folder to write to (default: manifests/rendered)"
    )
    parser.add_argument("--image-prefix", default=PREFIX, help=f"default: {PREFIX}")
    parser.add_argument("--image-tag", default=TAG, help=f"default: {TAG}")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a committed rendering is stale")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
