"""Contract -> words that a client understands, and what a split has to hold before any model could meet it."""

from collections.abc import Mapping, Sequence
from math import ceil, log

import numpy as np

from steelyard.contract import Contract, Preference
from steelyard.evaluation.answers import Answers, MaskCounts, SplitOutputs
from steelyard.evaluation.bounds import measure_quality, proportion_bound
from steelyard.evaluation.measurement import LEVEL
from steelyard.evaluation.times import QUANTILES, samples_needed
from steelyard.metrics import class_of, metric, rank_of
from steelyard.selection.utility import weight_shares
from steelyard.selection.why import value

CERTAIN = f"{100 * LEVEL:g} %"
STEPS = {"fraction": 0.01, "nats": 0.1}  # what one unit of a linear metric is
LARGEST = 2**24  # probabilities that are made up to try a limit: 64 MiB
WHOLE = ("accuracy", "macro_precision", "macro_recall", "macro_f1")


def explain(contract: Contract) -> str:
    """Say what a contract asks of each metric, what it is worth, and what decides between equals."""
    shares = weight_shares(contract)
    parts = [f"What {contract.client} needs, with utility counted in points from 0 (worth nothing) to 100 (ideal):"]
    for name, preference in contract.metrics.items():
        lines = [_share(name, shares[name], preference), *_limit(name, preference), *_worth(name, preference, shares)]
        parts.append("\n  ".join(lines))
    parts.append(
        "\n".join((_indifference(contract, shares), _switching(contract), _costs(contract), _hardware(contract)))
    )
    return "\n\n".join(part.rstrip() for part in parts)


def images_needed(name: str, preference: Preference) -> int | None:
    """Return how many images a limit on a proportion takes at least, before any model could be shown to meet it.

    They are images of the class for a metric of one class (of the others for its false-positive rate), of each class
    for the smallest recall, and of all classes together for the others.

    Returns:
        None where no number can be told from the metric alone; 0 where no number would do.
    """
    limit, level, upper = preference.limit, LEVEL, not metric(name).higher_is_better
    if limit is None or not _is_proportion(name):
        return None
    if limit == (0 if upper else 1):
        return 0
    if name.startswith("f1["):
        level = (1 + LEVEL) / 2  # of precision and recall, each of which takes half the error
    least = limit if not upper else 1 - limit
    images = max(1, ceil(log(1 - level) / log(least))) if least > 0 else 1
    while not preference.met_by(proportion_bound(0 if upper else images, images, upper, level)):
        images += 1  # rounding
    return images


def unprovable(
    contract: Contract, task: str, classes: Sequence[str], counts: Mapping[str, int], images: int
) -> dict[str, str] | None:
    """Say, by metric, which limits no model could be shown to meet on a split, even without an error.

    None where there are too many images and classes to look.

    Args:
        contract: its metrics are of this task and these classes.
        task: `classification` or `segmentation`.
        classes: names.
        counts: images of each class; of masks, pixels.
        images: in the split.
    """
    names = [name for name, preference in contract.metrics.items() if preference.must and metric(name).quality]
    if not names:
        return {}
    if images * len(classes) > LARGEST:
        return None
    found = measure_quality(_faultless(task, classes, counts, images), classes, names)
    return {
        name: f"must be {contract.metrics[name].must}, which {images:,} images can't show: without an error in them "
        f"{name} is with {CERTAIN} certainty only {_side(name)} {value(name, one.bound)}"
        for name, one in found.items()
        if not contract.metrics[name].met_by(one.bound)
    }


def _faultless(task: str, classes: Sequence[str], counts: Mapping[str, int], images: int) -> Answers:
    if task == "segmentation":
        pixels_C = [ceil(counts.get(name, 0) / images) for name in classes]
        return MaskCounts(counts_NCC=np.tile(np.diag(pixels_C).astype(np.int64), (images, 1, 1)))
    labels_N = np.repeat(np.arange(len(classes)), [counts.get(name, 0) for name in classes])
    return SplitOutputs(probabilities_NC=np.eye(len(classes), dtype=np.float32)[labels_N], labels_N=labels_N)


def _is_proportion(name: str) -> bool:
    per_class = class_of(name) is not None and metric(name).task == "classification"
    return name in WHOLE or name == "worst_class_recall" or per_class or bool(rank_of(name))


def _share(name: str, share: float, preference: Preference) -> str:
    if share:
        return f"{name}: {100 * share:.3g} % of all weight"
    return (
        f"{name}: no weight, only a limit"
        if preference.must
        else f"{name}: no weight and no limit, it counts for nothing"
    )


def _side(name: str) -> str:
    return "at least" if metric(name).higher_is_better else "at most"


def _limit(name: str, preference: Preference) -> list[str]:
    if preference.limit is None:
        return []
    told = f"must be {_side(name)} {value(name, preference.limit)}"
    if not (metric(name).quality or metric(name).timed) or name == "peak_memory_mib":
        return [f"{told}; whoever misses that is out"]
    lines = [f"{told}, with {CERTAIN} certainty; whoever can't be shown to keep that is out"]
    if name in QUANTILES:
        lines.append(f"fewer than {samples_needed(QUANTILES[name]):,} independent times can't show that")
    images = images_needed(name, preference)
    if images == 0:
        lines.append("no number of images can show that: leave some room for an error not yet seen")
    elif images is not None:
        lines.append(f"fewer than {images:,} {_images_of(name)} can't show that, even without an error")
    return lines


def _images_of(name: str) -> str:
    if (label := class_of(name)) is not None:
        other = "other than" if name.startswith("false_positive_rate") else "of"
        return f"validation images {other} {label!r}"
    return "validation images of each class" if name == "worst_class_recall" else "validation images"


def _worth(name: str, preference: Preference, shares: Mapping[str, float]) -> list[str]:
    points = 100 * shares[name]
    if not points:
        return []
    read = metric(name)
    below, above = ("below", "above") if read.higher_is_better else ("above", "below")
    if read.scale == "log":
        step = "doubling it" if read.higher_is_better else "halving it"
        gain = points * log(2) / abs(log(preference.ideal / preference.worst))
    else:
        size = STEPS[read.unit]
        step = f"{value(name, size)} {'more' if read.higher_is_better else 'less'}"
        gain = points * size / abs(preference.ideal - preference.worst)
    return [
        f"worth nothing at {value(name, preference.worst)} and {below}, "
        f"and all of its {_points(points)} at {value(name, preference.ideal)} and {above}",
        f"between the two {step} is worth {_points(min(gain, points))}",
    ]


def _indifference(contract: Contract, shares: Mapping[str, float]) -> str:
    if not contract.epsilon:
        return "Only candidates of equal utility are equals (epsilon 0)."
    name = max(shares, key=lambda one: shares[one])
    preference = contract.metrics[name]
    part = contract.epsilon / shares[name]
    if metric(name).scale == "log":
        factor = abs(log(preference.ideal / preference.worst)) * part
        alone = f"{100 * (np.exp(factor) - 1):.3g} % of {name}"
    else:
        alone = f"{value(name, part * abs(preference.ideal - preference.worst))} of {name}"
    least = f"{_points(100 * contract.epsilon)} below the best (epsilon {contract.epsilon:g})"
    return f"Equals are all candidates at most {least}, which is as much as {alone} alone."


def _switching(contract: Contract) -> str:
    if not contract.switching_margin:
        return "Whoever serves now gives way to anything better (switching margin 0)."
    return (
        f"Whoever serves now gives way only to what is better by more than {_points(100 * contract.switching_margin)} "
        f"(switching margin {contract.switching_margin:g})."
    )


def _points(number: float) -> str:
    return f"{number:.3g} point{'' if f'{number:.3g}' == '1' else 's'}"


def _costs(contract: Contract) -> str:
    first = "milliseconds per image"
    if contract.price_per_hour is not None:
        first = f"dollars per image at ${contract.price_per_hour:g} per hour, then {first}"
    return f"Between equals the cheapest is chosen: by {first}, then MiB, then name."


def _hardware(contract: Contract) -> str:
    timed = [name for name in contract.metrics if metric(name).timed]
    if not timed:
        return ""
    return f"Times are those of {contract.hardware_class or 'the machine that measures them'}."
