"""What was timed in rounds -> metrics with their bounds, for all rounds alike or for each resample of them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.artifact import read_arrays
from steelyard.errors import ArtifactError
from steelyard.evaluation.measurement import LEVEL, Measurement
from steelyard.metrics import METRICS

QUANTILES = {"latency_p50_ms": 0.5, "latency_p95_ms": 0.95, "latency_p99_ms": 0.99}
THROUGHPUT = "throughput_images_per_s"
TIMED = (*QUANTILES, THROUGHPUT)
STEP = 16  # a quantile is looked for among every 16th sample first


class Times(NamedTuple):
    """What was timed in R interleaved rounds."""

    latency_ms_RS: NDArray[np.float64]  # S single images a round
    throughput_R: NDArray[np.float64]  # images per second of one batch

    def write(self, file: Path) -> None:
        """Write `latency_ms` and `throughput`."""
        np.savez(file, latency_ms=self.latency_ms_RS, throughput=self.throughput_R)

    @classmethod
    def read(cls, file: Path) -> "Times":
        """Read them.

        Raises:
            ArtifactError: the file is damaged, or holds no times of whole rounds.
        """
        arrays = read_arrays(file)
        try:
            times = cls(np.asarray(arrays["latency_ms"], np.float64), np.asarray(arrays["throughput"], np.float64))
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{file}: {error}") from None
        if times.latency_ms_RS.ndim != 2 or times.throughput_R.shape != times.latency_ms_RS.shape[:1]:
            raise ArtifactError(f"{file}: latency_ms must be rounds x images, and throughput one number a round")
        if not all(array.size and np.isfinite(array).all() and (array > 0).all() for array in times):
            raise ArtifactError(f"{file}: times must be finite and above 0, and at least one")
        return times


class TooFewSamples(ValueError):
    """There is no bound at the wanted level; the text says how many samples it needs."""


def time_metric(name: str, times: Times, counts_BR: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the B values of a timed metric when each round counts as often as each row of `counts_BR` says.

    Quantiles are samples: the smallest that as large a share of all does not exceed.
    """
    values_RS = times.throughput_R[:, None] if name == THROUGHPUT else times.latency_ms_RS
    rounds, samples = values_RS.shape
    counts_BR = counts_BR.astype(np.float32)
    order_N = values_RS.ravel().argsort(kind="stable")
    upto_RN = (np.arange(rounds)[:, None] == order_N // samples).cumsum(1, dtype=np.float32)
    total_B1 = samples * counts_BR.sum(1, keepdims=True)
    wanted_B1 = QUANTILES.get(name, 0.5) * total_B1 - 1e-3  # counts are whole numbers, a quantile of them need not be
    steps_B = (counts_BR @ upto_RN[:, STEP - 1 :: STEP] < wanted_B1).sum(1)
    first, last = STEP * int(steps_B.min()), STEP * (int(steps_B.max()) + 1)
    below_B = first + (counts_BR @ upto_RN[:, first:last] < wanted_B1).sum(1)
    return np.asarray(values_RS.ravel()[order_N][below_B])


def measure_time(name: str, times: Times) -> Measurement:
    """Return a timed metric with its bound.

    Raises:
        TooFewSamples: there is no such bound.
    """
    value = float(time_metric(name, times, np.ones((1, len(times.throughput_R))))[0])
    if name == THROUGHPUT:
        bound = -quantile_bound(-times.throughput_R, 0.5)
    else:
        bound = latency_bound(times.latency_ms_RS, QUANTILES[name])
    return Measurement(value=value, bound=bound, unit=METRICS[name].unit)


def latency_bound(latency_ms_RS: NDArray[np.float64], quantile: float) -> float:
    """Return an upper 95 % bound of a quantile of the times, where those of one round resemble each other.

    Order statistics of the times as if there were fewer of them: as many independent ones as would estimate the share
    of times below the quantile as closely as the rounds do (effective sample size, with Student's t for the number of
    rounds; Korn & Graubard 1998).

    Over 65 rounds of 20 log-normal times, with a standard deviation of 0.1 within rounds and 0 to 0.5 between them, at
    most 5 % of 400 simulations had a bound that was too low. The more the rounds differ, the more often there is none:
    that of the 99 % quantile is refused in 10 % at 0.1 and in 83 % at 0.3. The 5 % are of all simulations, refused ones
    included: of the few that are not refused at 0.3, as their rounds seem alike by chance, 29 % are too low.

    Raises:
        TooFewSamples: they are worth too few independent ones.
    """
    from scipy.stats import norm, t

    rounds = len(latency_ms_RS)
    share_R = (latency_ms_RS <= np.quantile(latency_ms_RS, quantile)).mean(1)
    variance = share_R.var(ddof=1) / rounds if rounds > 1 else 0.0
    independent = quantile * (1 - quantile) / latency_ms_RS.size
    inflation = max(variance / independent, 1.0) * (t.ppf(LEVEL, max(rounds - 1, 1)) / norm.ppf(LEVEL)) ** 2
    effective = max(int(latency_ms_RS.size / inflation), 1)
    rank = _rank(effective, quantile)
    bound = float(np.quantile(latency_ms_RS, rank / effective, method="inverted_cdf"))
    return max(bound, quantile_bound(latency_ms_RS.ravel(), quantile))


def quantile_bound(samples: NDArray[np.float64], quantile: float) -> float:
    """Return an upper 95 % bound of a quantile by order statistics, free of any distribution.

    Args:
        samples: independent measurements.
        quantile: in (0, 1).

    Raises:
        TooFewSamples: the largest of n is such a bound only where 1 - quantile ** n >= 0.95.
    """
    return float(np.sort(samples)[_rank(len(samples), quantile) - 1])


def samples_needed(quantile: float) -> int:
    """Return the fewest independent samples whose largest is an upper 95 % bound of a quantile."""
    return int(np.ceil(np.log(1 - LEVEL) / np.log(quantile)))


def _rank(samples: int, quantile: float) -> int:
    from scipy.stats import binom

    rank = int(binom.ppf(LEVEL, samples, quantile)) + 1
    if rank > samples:
        raise TooFewSamples(
            f"a 95 % bound of the {100 * quantile:g} % quantile needs at least {samples_needed(quantile)} "
            f"independent samples; there are {samples}"
        )
    return rank
