"""Sequential detection: CUSUM and MEWMA charts over standardised features, judged after every sample.

CUSUM (Page 1954) finds a lasting shift of one feature; MEWMA (Lowry et al. 1992) a small one spread over many.

A CUSUM adds up whatever exceeds its reference value, so an error of the reference's own mean beyond that value would
raise alarms for ever, at any threshold. Each reference value is therefore raised by ALLOWANCE standard errors of the
mean. Without it, a reference of 30 rows raised six times the promised false alarms.
"""

import numpy as np
from numpy.typing import NDArray

SHIFTS = (0.25, 0.75)  # CUSUM reference values: shifts of 0.5 and 1.5 standard deviations
MEMORIES = (0.2, 0.05, 0.015)  # MEWMA weights: a memory of about 10, 40 and 130 samples
ALLOWANCE = 3.0
CHARTS = (*(f"cusum_{shift}" for shift in SHIFTS), *(f"mewma_{weight}" for weight in MEMORIES))


class Charts:
    """The charts of S independent streams: one in service, thousands in calibration, by the same arithmetic.

    Both kinds are one recursion, s <- max(floor, kept * s + gain * z - shift), over X values side by side: each CUSUM
    upwards and downwards per feature, each MEWMA once per feature.
    """

    def __init__(self, streams: int, features: int, reference_rows: int, dtype: type[np.floating] = np.float64) -> None:
        shifts = np.array(SHIFTS) + ALLOWANCE / np.sqrt(reference_rows)
        weights = np.repeat(MEMORIES, features)
        sums = np.ones(len(SHIFTS) * 2 * features)
        self._split = len(sums)
        self._kept_X = np.concatenate([sums, 1 - weights]).astype(dtype)
        self._gain_X = np.concatenate([sums, weights]).astype(dtype)
        self._shift_X = np.concatenate([np.repeat(shifts, 2 * features), 0 * weights]).astype(dtype)
        self._floor_X = np.concatenate([0 * sums, np.full(len(weights), -np.inf)]).astype(dtype)
        # An average of weight w settles at a variance of w / (2 - w).
        self._scale_L = ((2 - np.array(MEMORIES)) / np.array(MEMORIES)).astype(dtype)
        self.state_SX = np.zeros((streams, len(self._kept_X)), dtype)

    def run(self, z_TSF: NDArray[np.floating]) -> NDArray[np.floating]:
        """Take T samples of each stream; return (T, S, charts) statistics, in the order of CHARTS."""
        values_TSX = np.concatenate([z_TSF, -z_TSF] * len(SHIFTS) + [z_TSF] * len(MEMORIES), axis=2)
        values_TSX *= self._gain_X
        values_TSX -= self._shift_X
        kept_SX = np.empty_like(self.state_SX)
        state_SX = self.state_SX
        for values_SX in values_TSX:
            np.multiply(state_SX, self._kept_X, out=kept_SX)
            np.add(values_SX, kept_SX, out=values_SX)
            state_SX = np.maximum(values_SX, self._floor_X, out=values_SX)
        self.state_SX[:] = state_SX
        sums_TSKF = values_TSX[..., : self._split].reshape(*z_TSF.shape[:2], len(SHIFTS), -1)
        averages_TSLF = values_TSX[..., self._split :].reshape(*z_TSF.shape[:2], len(MEMORIES), -1)
        squares_TSL = np.einsum("tslf,tslf->tsl", averages_TSLF, averages_TSLF)
        return np.concatenate([sums_TSKF.max(axis=3), squares_TSL * self._scale_L], axis=2)

    def reset(self) -> None:
        """Forget everything, as after an alarm."""
        self.state_SX[:] = 0
