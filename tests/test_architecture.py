"""Who may import whom, and what must stay light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_import_rules_of_the_house_hold() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(
    "modules",
    [
        "steelyard",
        "steelyard.selection.select, steelyard.report.outcome",
        "steelyard.packing, steelyard.tracking.tracking",
        "components.cluster.deployment",
        "serving.predictor.model",
        "serving.drift_detector.worker",
        "pipelines.command_line, pipelines.project",
    ],
)
def test_torch_is_imported_by_training_alone(modules: str) -> None:
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_command_line_and_the_detector_start_light() -> None:
    for module in ("pipelines.command_line", "serving.drift_detector.worker"):
        heavy = "{'kfp', 'mlflow', 'kserve', 'sklearn', 'scipy', 'onnxruntime', 'pandas'}"
        program = (
            f"import sys, {module}; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
        )
        ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{module}: {ended.stderr}"


@pytest.mark.parametrize(("package", "room"), [("mlflow", "steelyard/tracking"), ("minio", "steelyard/store.py")])
def test_a_library_has_one_room(package: str, room: str) -> None:
    users = [
        file.relative_to(ROOT).as_posix()
        for folder in ("steelyard", "components", "pipelines", "serving")
        for file in (ROOT / folder).rglob("*.py")
        if f"import {package}" in (text := file.read_text()) or f"from {package}" in text
    ]
    assert users
    assert all(user.startswith(room) for user in users), users
