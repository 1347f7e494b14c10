"""Build the ReferenceProfile: what is learnt from training data, and thresholds from held-out data alone.

The promise is one false alarm per `arl0` exchangeable images over all detectors. Half of that budget goes to the
charts, half to the windows; each half is shared so that its detectors are equally rare and their overlap counts.
The reference is finite, so thresholds allow for the error of the reference itself: a chart is simulated against
references redrawn from the held-out rows, a window against the held-out rows without it.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.drift.charts import CHARTS, Charts
from steelyard.drift.nulls import Null, joint_thresholds
from steelyard.drift.profile import (
    Detector,
    FalseAlarms,
    ReferenceArrays,
    ReferenceIndex,
    ReferenceProfile,
    raw_features,
)
from steelyard.drift.samples import STATISTICS, Samples
from steelyard.drift.windows import TESTS, Tally, measure, slots, tally

COMPONENTS = 24  # more only add noise: facts measured on two data sets
WINDOW_SIZES = (20, 40, 80, 160, 320)
CLIP = 4.0  # standard deviations; bounds what one odd image can do
GREY_LEVEL = 1 / 255  # a feature that varies less is constant
MOST_TRAIN, MOST_HELD_OUT = 20_000, 2_000
STREAMS, BATCH, BURN_IN = 2_000, 250, 200  # in batches, because the charts of 250 streams fit a processor's cache
WINDOW_DRAWS = 2_000
REPORT_WINDOW = 40  # where the reference is too small for window tests


class _Reference(NamedTuple):
    """What was learnt from the train split, and the held-out rows, ready to be redrawn."""

    projection_DP: NDArray[np.float32]
    class_means_CF: NDArray[np.float64]
    low_F: NDArray[np.float64]
    high_F: NDArray[np.float64]
    center_F: NDArray[np.float64]
    scale_F: NDArray[np.float64]
    z_RF: NDArray[np.float64]  # standardised features
    edges_CG: NDArray[np.float64]
    slots_RC: NDArray[np.int64]
    predicted_R: NDArray[np.int64]
    whole: Tally


class _Calibrated(NamedTuple):
    """The detectors of one kind, and their simulated false alarms per image."""

    detectors: tuple[Detector, ...]
    false_alarms_per_image: float
    images: int


def build_profile(  # noqa: PLR0913
    train: Samples,
    train_labels_N: NDArray[np.int64],
    held_out: Samples,
    held_out_labels_N: NDArray[np.int64],
    *,
    classes: tuple[str, ...],
    model_sha256: str,
    seed: int,
    arl0: int = 10_000,
) -> ReferenceProfile:
    """Calibrate the detectors; equal inputs and seed give an equal profile, within seconds.

    Args:
        train: what the model answered on its training images.
        train_labels_N: their labels.
        held_out: what it answered on images that it neither learnt from nor will be judged on: validation.
        held_out_labels_N: their labels; they only serve the estimate of the accuracy.
        classes: names, in the order of the probabilities.
        model_sha256: of the model file that answered.
        seed: of subsampling and simulation.
        arl0: promised images per false alarm.
    """
    generator = np.random.default_rng(seed)
    learnt = _fit(*_at_most(MOST_TRAIN, train, train_labels_N, generator))
    held_out, held_out_labels_N = _at_most(MOST_HELD_OUT, held_out, held_out_labels_N, generator)
    reference = _reference(held_out, *learnt)
    windows = _window_sizes(reference.whole.rows)
    calibrated, nulls_WTQ = _calibrate(reference, windows, arl0, generator)
    arrays = _arrays(reference, nulls_WTQ)
    accuracy = float((reference.predicted_R == held_out_labels_N).mean())
    index = ReferenceIndex(
        classes=classes,
        features=(*(f"embedding_{p}" for p in range(reference.projection_DP.shape[1])), "doubt", *STATISTICS),
        embedding_size=len(reference.projection_DP),
        train_rows=len(train_labels_N),
        held_out_rows=reference.whole.rows,
        arl0=arl0,
        false_alarms=_false_alarms(calibrated),
        windows=windows,
        clear_after=3 * max(windows, default=REPORT_WINDOW),
        detectors=tuple(detector for part in calibrated for detector in part.detectors),
        held_out_accuracy=accuracy,
        confidence_threshold=float(np.quantile(held_out.probabilities_NC.max(axis=1), 1 - accuracy)),
        seed=seed,
        model_sha256=model_sha256,
        arrays_sha256=hashlib.sha256(arrays.to_bytes()).hexdigest(),
    )
    return ReferenceProfile(index, arrays)


def _at_most(
    limit: int, samples: Samples, labels_N: NDArray[np.int64], generator: np.random.Generator
) -> tuple[Samples, NDArray[np.int64]]:
    """Draw so many rows, in their order, or take all."""
    rows = len(labels_N)
    chosen = np.arange(rows) if rows <= limit else np.sort(generator.choice(rows, limit, replace=False))
    return samples.rows(chosen), labels_N[chosen]


def _reference(
    held_out: Samples, projection_DP: NDArray[np.float32], class_means_CF: NDArray[np.float64]
) -> _Reference:
    """Standardise the held-out rows by themselves."""
    predicted_R = held_out.probabilities_NC.argmax(axis=1)
    residuals_RF = raw_features(held_out, projection_DP) - class_means_CF[predicted_R]
    middle_F, reach_F = residuals_RF.mean(axis=0), CLIP * np.maximum(residuals_RF.std(axis=0), GREY_LEVEL)
    low_F, high_F = middle_F - reach_F, middle_F + reach_F
    clipped_RF = np.clip(residuals_RF, low_F, high_F)
    center_F, scale_F = clipped_RF.mean(axis=0), np.maximum(clipped_RF.std(axis=0), GREY_LEVEL)
    z_RF = (clipped_RF - center_F) / scale_F
    edges_CG = _edges(held_out.probabilities_NC)
    slots_RC = slots(held_out.probabilities_NC, edges_CG)
    return _Reference(
        projection_DP=projection_DP,
        class_means_CF=class_means_CF,
        low_F=low_F,
        high_F=high_F,
        center_F=center_F,
        scale_F=scale_F,
        z_RF=z_RF,
        edges_CG=edges_CG,
        slots_RC=slots_RC,
        predicted_R=predicted_R,
        whole=tally(z_RF, slots_RC, predicted_R, edges_CG.shape[1]),
    )


def _calibrate(
    reference: _Reference, windows: tuple[int, ...], arl0: int, generator: np.random.Generator
) -> tuple[list[_Calibrated], NDArray[np.float64]]:
    """Share the budget between charts and windows; return all detectors and (W, T, Q) nulls of the window tests."""
    budget = 1 / arl0 / (2 if windows else 1)
    calibrated = [_calibrate_charts(reference, budget, generator)]
    nulls_WTQ = np.zeros((len(windows), len(TESTS), 97))
    for row, size in enumerate(windows):
        nulls, tests = _calibrate_window(reference, size, budget / len(windows), generator)
        nulls_WTQ[row] = [[*null.quantiles_Q, null.tail] for null in nulls]
        calibrated.append(tests)
    return calibrated, nulls_WTQ


def _false_alarms(calibrated: list[_Calibrated]) -> FalseAlarms:
    return FalseAlarms(
        per_image=sum(part.false_alarms_per_image for part in calibrated),
        images=sum(part.images for part in calibrated),
        method="fresh simulation: charts on streams redrawn from the held-out rows, each against a reference "
        "redrawn from them; windows drawn from the held-out rows against the others; the rates added",
    )


def _arrays(reference: _Reference, nulls_WTQ: NDArray[np.float64]) -> ReferenceArrays:
    whole = reference.whole
    return ReferenceArrays(
        projection_DP=reference.projection_DP,
        class_means_CF=reference.class_means_CF,
        low_F=reference.low_F,
        high_F=reference.high_F,
        center_F=reference.center_F,
        scale_F=reference.scale_F,
        edges_CG=reference.edges_CG,
        nulls_WTQ=nulls_WTQ,
        sums_F=whole.sums_F,
        squares_F=whole.squares_F,
        below_CG=whole.below_CG,
        predicted_C=whole.predicted_C,
        held_out_RF=reference.z_RF.astype(np.float32),
        held_out_predicted_R=reference.predicted_R,
    )


def _fit(train: Samples, labels_N: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the whitening projection of the embedding and each class's mean of the raw features."""
    classes = train.probabilities_NC.shape[1]
    principal_DP = _principal(train.embedding_ND)
    projected_NP = train.embedding_ND @ principal_DP
    residual_NP = projected_NP - _class_means(projected_NP, labels_N, classes)[labels_N]
    variance_P, rotation_PP = np.linalg.eigh(residual_NP.T @ residual_NP / len(labels_N))
    # Training images are fitted closely: directions without any spread left must not be blown up.
    whitening_PP = rotation_PP / np.sqrt(np.maximum(variance_P, 1e-3 * variance_P.max(initial=0) + 1e-12))
    projection_DP = (principal_DP @ whitening_PP).astype(np.float32)
    return projection_DP, _class_means(raw_features(train, projection_DP), labels_N, classes)


def _principal(embedding_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the directions of most variance; none for a constant embedding."""
    from scipy.linalg import eigh

    centered_ND = embedding_ND - embedding_ND.mean(axis=0)
    size = embedding_ND.shape[1]
    covariance_DD = (centered_ND.T @ centered_ND).astype(np.float64) / len(embedding_ND)
    variance_P, principal_DP = eigh(covariance_DD, subset_by_index=[max(0, size - COMPONENTS), size - 1])
    kept = variance_P > max(1e-6 * variance_P[-1], 1e-12)
    return np.asarray(principal_DP[:, kept], np.float64)


def _class_means(values_NF: NDArray[np.float64], labels_N: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Return each class's mean, drawn to the overall mean by five rows' weight: rare classes have poor means."""
    sums_CF = np.zeros((classes, values_NF.shape[1]))
    np.add.at(sums_CF, labels_N, values_NF)
    count_C1 = np.bincount(labels_N, minlength=classes)[:, None]
    means_CF: NDArray[np.float64] = (sums_CF + 5 * values_NF.mean(axis=0)) / (count_C1 + 5)
    return means_CF


def _edges(probabilities_RC: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the grid on which the distribution of each class's probability is compared."""
    ranks = np.linspace(0, 1, min(128, len(probabilities_RC)))
    return np.quantile(probabilities_RC, ranks, axis=0, method="lower").T.astype(np.float64)


def _window_sizes(rows: int) -> tuple[int, ...]:
    """Return the largest window of at most a fifth of the reference, and one of at most a quarter of that."""
    usable = [size for size in WINDOW_SIZES if size <= rows / 5]
    small = [size for size in usable if 40 <= size <= usable[-1] / 4]
    return (*small[-1:], *usable[-1:])


def _calibrate_charts(reference: _Reference, budget: float, generator: np.random.Generator) -> _Calibrated:
    """Find thresholds that the charts together cross once in 1 / budget images."""
    # Long enough to see the rate, short enough that a stream seldom crosses twice.
    length = int(np.clip(0.05 / budget, 50, 1000))
    maxima_SJ = _chart_maxima(reference, length, generator)
    nulls = [Null.fit(maxima_S) for maxima_S in maxima_SJ.T]
    thresholds = joint_thresholds(nulls, maxima_SJ, length * budget)
    crossed = (_chart_maxima(reference, length, generator) > thresholds).any(axis=1).mean()
    detectors = (
        Detector(name=name, threshold=threshold, level="DRIFT")
        for name, threshold in zip(CHARTS, thresholds, strict=True)
    )
    return _Calibrated(tuple(detectors), float(crossed) / length, STREAMS * length)


def _chart_maxima(reference: _Reference, length: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return (streams, charts) largest statistics over `length` images, each stream with a redrawn reference."""
    z_RF = reference.z_RF
    return np.concatenate([_batch_maxima(z_RF, length, generator) for _ in range(STREAMS // BATCH)])


def _batch_maxima(z_RF: NDArray[np.float64], length: int, generator: np.random.Generator) -> NDArray[np.float64]:
    rows, features = z_RF.shape
    weights_SR = generator.multinomial(rows, np.full(rows, 1 / rows), size=BATCH) / rows
    center_SF = weights_SR @ z_RF
    # A redrawn reference may miss the few rows in which a feature varies.
    scale_SF = np.maximum(np.sqrt(np.maximum(weights_SR @ z_RF**2 - center_SF**2, 0)), 0.5)
    rows_RF, center_SF, scale_SF = (part.astype(np.float32) for part in (z_RF, center_SF, 1 / scale_SF))
    charts = Charts(BATCH, features, rows, np.float32)
    maxima_SJ = np.zeros((BATCH, len(CHARTS)))
    for step in range(BURN_IN + length):
        drawn_SF = rows_RF[generator.integers(rows, size=BATCH)]
        (statistics_SJ,) = charts.run(((drawn_SF - center_SF) * scale_SF)[None])
        if step >= BURN_IN:
            np.maximum(maxima_SJ, statistics_SJ, out=maxima_SJ)
    return maxima_SJ


def _calibrate_window(
    reference: _Reference, size: int, budget: float, generator: np.random.Generator
) -> tuple[list[Null], _Calibrated]:
    """Find thresholds that the tests of one window size together cross once in 1 / budget images."""
    draws_BT = _window_draws(reference, size, generator)
    nulls = [Null.fit(draws_B) for draws_B in draws_BT.T]
    thresholds = joint_thresholds(nulls, draws_BT, size * budget)
    crossed = (_window_draws(reference, size, generator) > thresholds).any(axis=1).mean()
    detectors = (
        # Runs of one class are the commonest false alarm, so a change of the classes alone only warns.
        Detector(name=name, window=size, threshold=threshold, level="WARN" if name == "label" else "DRIFT")
        for name, threshold in zip(TESTS, thresholds, strict=True)
    )
    return nulls, _Calibrated(tuple(detectors), float(crossed) / size, WINDOW_DRAWS * size)


def _window_draws(reference: _Reference, size: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return (draws, tests): windows drawn without replacement, each against the rows that it left."""
    z_RF, grid = reference.z_RF, reference.whole.below_CG.shape[1]
    draws_BT = np.empty((WINDOW_DRAWS, len(TESTS)))
    for statistics_T in draws_BT:
        chosen = generator.choice(reference.whole.rows, size, replace=False)
        window = tally(z_RF[chosen], reference.slots_RC[chosen], reference.predicted_R[chosen], grid)
        statistics_T[:] = measure(window, reference.whole.without(window))
    return draws_BT
