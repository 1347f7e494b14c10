"""The page of one training: its curves, and what the network spends its time on."""

from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.bundle import BundleIndex, FailureIndex
from steelyard.page import environment
from steelyard.profile import ProfileIndex
from steelyard.report.charts import learning_rate_chart, training_curves

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE, FAILED = "training.html.jinja", "training_failed.html.jinja"


def write_training_page(trained: BundleIndex, profile: Path, file: Path) -> None:
    """Write the page of a training.

    Args:
        trained: what came of it.
        profile: a folder; where it holds no profile of this training, the page says so.
        file: gets the page.

    Raises:
        MissingExtra: Jinja is not installed.
    """
    (curves,) = training_curves([trained])
    page = _template(TEMPLATE).render(
        trained=trained,
        best=next(epoch for epoch in trained.history if epoch.epoch == trained.best_epoch),
        curves=curves,
        charts=[*curves.charts, learning_rate_chart(trained.history)],
        profile=_profile(trained, profile / "profile.json"),
    )
    file.write_text(page, encoding="utf-8")


def write_failed_training_page(failure: FailureIndex, file: Path) -> None:
    """Write the page of a training that failed."""
    file.write_text(_template(FAILED).render(failure=failure), encoding="utf-8")


def _profile(trained: BundleIndex, file: Path) -> ProfileIndex | None:
    found = ProfileIndex.read(file) if file.exists() else None
    return found if found and found.run_key == trained.run_key else None


def _template(name: str) -> "Template":
    return environment(Path(__file__).parent).get_template(name)
