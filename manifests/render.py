"""Render the overlays, or lay a kustomization with other images over each.

python manifests/render.py            # rewrites manifests/rendered/, one file an overlay, with kubectl or kustomize
python manifests/render.py --check    # says which of them are stale
python manifests/render.py --output build/manifests --image-prefix registry.example.com/ml --image-tag 0.1.0
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
RENDERED = HERE / "rendered"
OVERLAYS = ("local", "production")
PREFIX, IMAGE, TAG = "steelyard", "base-python", "0.1.0"  # the one image that the manifests name


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, or 1 where a rendering is stale."""
    options = _options(arguments)
    if options.output:
        for overlay in OVERLAYS:
            print(write_kustomization(overlay, options.output, options.image_prefix, options.image_tag))
        return 0
    tool = kustomize_command()
    if not tool:
        sys.exit("rendering takes kubectl or kustomize: neither is on PATH")
    return _check(tool) if options.check else _rewrite(tool)


def write_kustomization(overlay: str, output: Path, image_prefix: str, image_tag: str) -> Path:
    """Write a folder for `kubectl apply -k`: the overlay with its image taken from elsewhere."""
    folder = output.resolve() / overlay
    folder.mkdir(parents=True, exist_ok=True)
    new = {"name": f"{PREFIX}/{IMAGE}", "newName": f"{image_prefix}/{IMAGE}", "newTag": image_tag}
    content = {"resources": [os.path.relpath(HERE / "overlays" / overlay, folder)], "images": [new]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return output / overlay


def kustomize_command() -> list[str]:
    """Return the command that renders a folder, or nothing."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    return ["kustomize", "build"] if shutil.which("kustomize") else []


def render(overlay: str, tool: Sequence[str]) -> str:
    """Render an overlay."""
    done = subprocess.run([*tool, str(HERE / "overlays" / overlay)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{overlay}: {' '.join(tool)}: {done.stderr.strip()}")
    return f"# Rendered from manifests/overlays/{overlay} by manifests/render.py; edit that instead.\n{done.stdout}"


def stale(overlay: str, tool: Sequence[str]) -> bool:
    """Whether the committed rendering says something else than its overlay; in which order depends on kustomize."""
    return _objects(render(overlay, tool)) != _objects((RENDERED / f"{overlay}.yaml").read_text(encoding="utf-8"))


def _objects(text: str) -> dict[tuple[str, str], object]:
    return {(found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(text)}


def _rewrite(tool: Sequence[str]) -> int:
    for overlay in OVERLAYS:
        (RENDERED / f"{overlay}.yaml").write_text(render(overlay, tool), encoding="utf-8")
        print(f"manifests/rendered/{overlay}.yaml")
    return 0


def _check(tool: Sequence[str]) -> int:
    found = [overlay for overlay in OVERLAYS if stale(overlay, tool)]
    for overlay in found:
        print(f"manifests/rendered/{overlay}.yaml is stale: run python manifests/render.py")
    return 1 if found else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Render the overlays, or lay a kustomization over each.")
    parser.add_argument("--output", type=Path, help="folder for the kustomizations; without it, render")
    parser.add_argument("--image-prefix", default=PREFIX, help="registry and path (default: %(default)s)")
    parser.add_argument("--image-tag", default=TAG, help="(default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a committed rendering is stale")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
