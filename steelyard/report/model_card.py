"""The model card: what a bundle is, for whom it was chosen and why, what it was measured to do, and what it can't.

Its sections are those of Mitchell et al., Model Cards for Model Reporting, 2019.
"""

import json
import logging

import steelyard
from steelyard.bundle import MODEL_FILE, ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.evaluation.bounds import measure_quality
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.scorecard import Scorecard
from steelyard.report.summary import published, table
from steelyard.selection.selection import Selection
from steelyard.selection.why import sensitivity

log = logging.getLogger(__name__)

MOST_CLASSES = 30  # in the table; the weakest are what is looked for
WEAK = 3
ByClass = dict[str, tuple[Measurement, Measurement]]
RATES = {"classification": ("recall", "precision"), "segmentation": ("iou", "dice")}


def model_card(bundle: ModelBundle, dataset: Dataset, selection: Selection, scorecard: Scorecard | None = None) -> str:
    """Return MODEL_CARD.md.

    Args:
        bundle: the winner.
        dataset: whose validation and test splits it was measured on.
        selection: that chose it.
        scorecard: the winner's; its answers on test give the results by class.
    """
    by_class = _by_class(scorecard, selection)
    sections = {
        "Model details": _details(bundle),
        "Intended use": f"Made for {selection.client}: {bundle.index.task} of images like those of "
        f"{dataset.index.source} into {len(bundle.index.classes)} classes ({', '.join(bundle.index.classes)}). "
        "Anything else was not measured, and the model has no class for what belongs to none of these.",
        "Data": _data(bundle, dataset),
        "Evaluation": "On the test split, which took no part in training or choice. Bounds are one-sided, at 95 %.\n\n"
        + (published(selection) if selection.test else "No test figures are known."),
        "Results by class": _class_table(by_class, bundle.index.task),
        "Limits and caveats": _caveats(dataset, selection, by_class),
        "How it was chosen": "\n".join(f"- {line}" for line in (selection.why, *sensitivity(selection))),
        "Provenance": _provenance(bundle, selection),
    }
    parts = [f"# {bundle.index.candidate}", *(f"## {head}\n\n{text}" for head, text in sections.items())]
    return "\n\n".join(parts) + "\n"


def _details(bundle: ModelBundle) -> str:
    index = bundle.index
    shape = "x".join(map(str, index.input_shape))
    each = " for each pixel" if index.task == "segmentation" else ""
    return "\n".join(
        (
            f"- Input: uint8 images, {shape} (height x width x channels); normalisation is inside",
            f"- Output: a probability of each class{each}, and an embedding by which drift is detected",
            f"- {index.parameters:,} parameters, {bundle.size_mib:.2f} MiB as {MODEL_FILE} (ONNX opset {index.opset})",
            f"- Network: {_settings(index.model)}",
            f"- Recipe: {_settings(index.training)}",
            f"- Trained {len(index.history)} epochs in {index.training_seconds / 60:.1f} minutes on {index.device}; "
            f"epoch {index.best_epoch} had the lowest validation loss and was kept",
        )
    )


def _settings(chosen: dict[str, object]) -> str:
    return ", ".join(f"{name} {json.dumps(setting)}" for name, setting in chosen.items() if setting is not None)


def _data(bundle: ModelBundle, dataset: Dataset) -> str:
    index = dataset.index
    images = ", ".join(f"{count:,} {split}" for split, count in index.images.items())
    lines = [
        f"- Source: {index.source}; images: {images}",
        f"- Near-duplicates across splits: {index.near_duplicates:,}{' (left out)' if index.near_removed else ''}; "
        f"images under several labels: {index.conflicting_labels:,}; unreadable files: {len(index.quarantined):,}",
        *(f"- {warning}" for warning in index.warnings),
    ]
    if bundle.index.dataset.content_digest != index.content_digest:
        lines.append(
            "- The model learnt from another train split than this one "
            f"(content {bundle.index.dataset.content_digest}); validation and test are the same"
        )
    return "\n".join(lines)


def _by_class(scorecard: Scorecard | None, selection: Selection) -> ByClass:
    """Return two rates of each class on test, weakest class first; nothing where the answers were not kept."""
    answers = scorecard.answered("test") if scorecard else None
    if scorecard is None or answers is None:
        return {}
    log.info("test split read: %s, for the model card to %s", scorecard.candidate, selection.client)
    first, second = RATES[scorecard.index.task]
    classes = scorecard.index.classes
    found = measure_quality(answers, classes, [f"{rate}[{name}]" for name in classes for rate in (first, second)])
    pairs = {name: (found[f"{first}[{name}]"], found[f"{second}[{name}]"]) for name in classes}
    return dict(sorted(pairs.items(), key=lambda pair: pair[1][0].value))


def _class_table(by_class: ByClass, task: str) -> str:
    if not by_class:
        return "The answers for the test split are not at hand, so there are none."
    shown = list(by_class.items())[:MOST_CLASSES]
    rows = [[name, *(f"{one.value:.4f} (≥ {one.bound:.4f})" for one in rates)] for name, rates in shown]
    told = f"The {len(shown)} weakest of {len(by_class)}" if len(shown) < len(by_class) else "Weakest first"
    return f"{told}, on test, with 95 % bounds.\n\n{table(['class', *RATES[task]], rows)}"


def _caveats(dataset: Dataset, selection: Selection, by_class: ByClass) -> str:
    hardware = f" They were measured on {selection.hardware_class}." if selection.hardware_class else ""
    weak = [f"{name} ({first.value:.2f}, at least {first.bound:.2f})" for name, (first, _) in by_class.items()][:WEAK]
    lines = [
        f"Figures hold for images drawn as those of {dataset.index.source} were. Of others nothing is known: the drift "
        "detector beside the model compares what arrives with this data, and raises an alarm.",
        f"Times and costs hold for one class of hardware.{hardware}",
        "Bounds speak of chance alone, not of wrong labels, nor of images that resemble each other across splits.",
    ]
    if weak:
        lines.insert(0, f"Weakest classes on test, by {RATES[dataset.index.task][0]}: {', '.join(weak)}.")
    if flattered := [name for name, gap in selection.optimism.items() if gap > 0]:
        lines.append(f"It was chosen on validation, which flatters it on {', '.join(flattered)}.")
    return "\n".join(f"- {line}" for line in lines)


def _provenance(bundle: ModelBundle, selection: Selection) -> str:
    index = bundle.index
    return "\n".join(
        (
            f"- Run key: {index.run_key}",
            f"- Data: content {index.dataset.content_digest}, split {index.dataset.split_digest}",
            f"- {MODEL_FILE}: sha256 {index.files[MODEL_FILE]}",
            f"- Chosen by steelyard {steelyard.__version__} with seed {selection.seed}",
        )
    )
