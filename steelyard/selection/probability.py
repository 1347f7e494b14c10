"""The probability of being the best, from utilities that were measured with error."""

import numpy as np

from steelyard.evaluation.metrics import Floats

DRAWS = 4000
SPREADS = np.geomspace(0.1, 20, 40)  # of true utilities, in standard errors; equally likely beforehand


def probability_best(utilities_K: Floats, covariance_KK: Floats, seed: int) -> Floats:
    """Return the posterior probability that each candidate's true utility is the highest.

    The raw bootstrap overclaims, because the observed best is partly lucky. So the true utilities are taken as drawn
    around a common mean with an unknown spread, and the bootstrap covariance as that of the errors (normal
    hierarchical model; Gelman et al., Bayesian Data Analysis, ch. 5). The common mean has a flat prior; the spread, in
    standard errors of what tells the candidates apart, one that is flat on a logarithmic scale from 0.1 to 20.

    How often claims are right is measured in benchmarks/selection.py. Where only three candidates lie half a standard
    error apart they overclaim: three figures cannot tell such a spread from a larger one, whatever the prior.

    Args:
        utilities_K: observed.
        covariance_KK: of their errors.
        seed: of the draws; equal utilities in a draw share its success.
    """
    candidates = len(utilities_K)
    if candidates == 1:
        return np.ones(1)
    contrasts_KJ = np.linalg.qr(np.c_[np.ones(candidates), np.eye(candidates)[:, 1:]])[0][:, 1:]
    variance_J, axes_JJ = np.linalg.eigh(contrasts_KJ.T @ covariance_KK @ contrasts_KJ)
    variance_J, axes_KJ = np.maximum(variance_J, 0), contrasts_KJ @ axes_JJ
    seen_J = axes_KJ.T @ utilities_K
    scale = max(float(np.sqrt(variance_J.mean())), 1e-9)

    spreads_S1 = scale * SPREADS[:, None]
    total_SJ = spreads_S1**2 + variance_J
    likelihood_S = -0.5 * (np.log(total_SJ) + seen_J**2 / total_SJ).sum(1)
    belief_S = np.exp(likelihood_S - likelihood_S.max())

    random = np.random.default_rng(seed)
    drawn_D = np.searchsorted(belief_S.cumsum() / belief_S.sum(), random.random(DRAWS))
    kept_SJ = spreads_S1**2 / total_SJ  # of each contrast; the rest is taken for luck
    error_DJ = np.sqrt(kept_SJ * variance_J)[drawn_D] * random.standard_normal((DRAWS, candidates - 1))
    true_DK = (kept_SJ[drawn_D] * seen_J + error_DJ) @ axes_KJ.T
    best_DK = true_DK >= true_DK.max(1, keepdims=True) - 1e-12
    return np.asarray((best_DK / best_DK.sum(1, keepdims=True)).mean(0))
