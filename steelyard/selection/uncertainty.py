"""How sure the ranking is: utilities resampled jointly for all candidates, and the chance that each is the best."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from steelyard.contract import Contract
from steelyard.evaluation.bounds import LEVEL
from steelyard.evaluation.metrics import Floats, quality
from steelyard.evaluation.scorecard import Scorecard, Times
from steelyard.metrics import metric
from steelyard.selection.utility import desirability, weight_shares

RESAMPLES = 1000
CHUNK = 50  # resamples at a time: 4 MB of weights for 10,000 images
SPREADS = 30
DRAWS = 4000
TYPICAL_SPREAD = 0.5  # of true utilities, in standard errors: what the prior expects (see probability_best)

_TIME_METRICS = ("latency_p50_ms", "latency_p95_ms", "throughput_images_per_s")


def resampled_utilities(scorecards: Sequence[Scorecard], contract: Contract, seed: int) -> Floats | None:
    """Return utilities (resamples, candidates) over the same resampled images and rounds for every candidate.

    The random numbers depend on the seed and the number of images alone, so that no candidate changes another's.

    Returns:
        None where a scorecard was written without the answers or times behind it.
    """
    if not all(_can_resample(scorecard, contract) for scorecard in scorecards):
        return None
    return np.stack([_utilities(scorecard, contract, seed) for scorecard in scorecards], 1)


def loss_bounds(utilities_BK: Floats, leader: int) -> list[float]:
    """Return the paired 95 % upper bound of what each candidate loses against the leader.

    No significance is claimed: the leader was chosen from the same data.
    """
    return [float(bound) for bound in np.quantile(utilities_BK[:, [leader]] - utilities_BK, LEVEL, axis=0)]


def probability_best(utilities_K: Floats, utilities_BK: Floats, seed: int) -> list[float]:
    """Return the posterior probability that each candidate's true utility is the highest.

    The raw bootstrap overclaims, because the observed best is partly lucky. So the true utilities are taken as drawn
    around a common mean with an unknown spread, and the bootstrap covariance as the error of the observed ones
    (normal hierarchical model; Gelman et al., Bayesian Data Analysis, ch. 5). The spread has a half-Cauchy prior
    (Gelman 2006) whose median is half a standard error, the common mean a flat one.

    Where more than 80 % is claimed, in 250 to 350 normal trials each (mean claim, then how often it was right): true
    spread of half a standard error, 2 candidates .87 and .80, 3 candidates .86 and .83, 8 candidates no such claim
    (raw bootstrap: .91 and .76, .89 and .64, .87 and .40); one standard error or more, right at least as often as
    claimed to within .03.

    Args:
        utilities_K: observed.
        utilities_BK: resampled.
        seed: of the posterior's draws.
    """
    candidates = len(utilities_K)
    if candidates == 1:
        return [1.0]
    covariance_KK = np.cov(utilities_BK.T)
    scale = float(np.sqrt(max(np.trace(covariance_KK) / candidates, 1e-16)))
    centred_K = utilities_K - utilities_K.mean()
    largest = 3 * (np.ptp(utilities_K) + scale)
    random = np.random.default_rng(seed)
    noise_DK = random.standard_normal((DRAWS, candidates))
    log_weights, wins = [], []
    for spread in np.geomspace(scale / 20, largest, SPREADS):
        mean_K, factor_KK, log_likelihood = _posterior(centred_K, covariance_KK, spread, scale)
        drawn_DK = mean_K + noise_DK @ factor_KK.T
        wins.append(np.bincount(drawn_DK.argmax(1), minlength=candidates) / DRAWS)
        prior = spread / (1 + (spread / (TYPICAL_SPREAD * scale)) ** 2)  # half-Cauchy, on a logarithmic grid
        log_weights.append(log_likelihood + float(np.log(prior)))
    weights = np.exp(np.array(log_weights) - max(log_weights))
    return [float(share) for share in weights @ np.array(wins) / weights.sum()]


def _posterior(centred_K: Floats, covariance_KK: Floats, spread: float, scale: float) -> tuple[Floats, Floats, float]:
    """Return mean, a factor of the covariance, and the log marginal likelihood, given the spread."""
    candidates = len(centred_K)
    flat = 1e4 * (scale + spread) ** 2  # variance of the common mean: as good as flat on this scale
    prior_KK = spread**2 * np.eye(candidates) + flat
    total_KK = prior_KK + covariance_KK
    gain_KK = np.linalg.solve(total_KK, prior_KK).T
    covariance = prior_KK - gain_KK @ prior_KK
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    factor_KK = vectors * np.sqrt(np.maximum(values, 0))
    _, log_determinant = np.linalg.slogdet(total_KK)
    misfit = float(centred_K @ np.linalg.solve(total_KK, centred_K))
    return gain_KK @ centred_K, factor_KK, -0.5 * (float(log_determinant) - np.log(flat) + misfit)


def _can_resample(scorecard: Scorecard, contract: Contract) -> bool:
    needs_images = any(metric(name).quality for name in contract.metrics)
    needs_times = any(name in _TIME_METRICS for name in contract.metrics)
    return ("validation" in scorecard.outputs or not needs_images) and (bool(scorecard.times) or not needs_times)


def _utilities(scorecard: Scorecard, contract: Contract, seed: int) -> Floats:
    drawn: dict[str, Floats] = {}
    names = [name for name in contract.metrics if metric(name).quality]
    if names:
        outputs = scorecard.outputs["validation"]
        parts = [
            quality(outputs, scorecard.index.classes, weights_BN, names)
            for weights_BN in _weights(len(outputs.labels_N), seed)
        ]
        drawn = {name: np.concatenate([part[name] for part in parts]) for name in names}
    if scorecard.times:
        drawn |= _times(scorecard.times, seed)
    total_B = np.zeros(RESAMPLES)
    for name, share in weight_shares(contract).items():
        values = drawn.get(name, scorecard.index.model[name].value if name in scorecard.index.model else 0.0)
        total_B += share * desirability(name, values, contract.metrics[name])
    return total_B


def _weights(images: int, seed: int) -> Iterator[Floats]:
    """Yield, chunk by chunk, how often each image was drawn in each resample."""
    random = np.random.default_rng(seed)
    for start in range(0, RESAMPLES, CHUNK):
        count = min(CHUNK, RESAMPLES - start)
        yield random.multinomial(images, np.full(images, 1 / images), size=count).astype(np.float64)


def _times(times: Times, seed: int) -> dict[str, NDArray[np.float64]]:
    """Resample whole rounds, because what disturbs one answer disturbs its neighbours."""
    rounds = len(times.throughput_R)
    chosen_BR = np.random.default_rng(seed).integers(rounds, size=(RESAMPLES, rounds))
    latency_ms_BN = times.latency_ms_RS[chosen_BR].reshape(RESAMPLES, -1)
    p50_ms_B, p95_ms_B = np.quantile(latency_ms_BN, [0.5, 0.95], axis=1)
    throughput_B = np.median(times.throughput_R[chosen_BR], axis=1)
    return dict(zip(_TIME_METRICS, (p50_ms_B, p95_ms_B, throughput_B), strict=True))
