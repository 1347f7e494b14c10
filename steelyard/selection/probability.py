"""The probability of being the best, from utilities that were measured with error."""

import numpy as np

from steelyard.evaluation.metrics import Floats

DRAWS = 4000
SPREADS = np.geomspace(0.1, 20, 40)  # of true utilities, in standard errors; equally likely beforehand
KNOWN = 1e-9  # of the largest variance of a candidate: below it a difference is known
EQUAL = 1e-9  # utilities that differ by less share the success


def probability_best(utilities_K: Floats, covariance_KK: Floats, seed: int) -> Floats:
    """Return the posterior probability that each candidate's true utility is the highest.

    The raw bootstrap overclaims, because the observed best is partly lucky. So the true utilities are taken as drawn
    around a common mean with an unknown spread, and the bootstrap covariance as that of the errors (normal
    hierarchical model; Gelman et al., Bayesian Data Analysis, ch. 5). The spread is in standard errors of each
    difference (Zellner's g-prior, 1986), so that candidates which hardly differ do not make the others look alike. The
    common mean has a flat prior; the spread one that is flat on a logarithmic scale from 0.1 to 20.

    How often claims are right is measured in benchmarks/selection.py. Where only three candidates lie half a standard
    error apart they overclaim: three figures hardly tell such a spread from a larger one. A prior that takes nearly all
    candidates for equal would not (0.9915 of it near 0, 0.008 at 24, the best that was found for spreads of 0.5, 1, 2
    and 5, is off by 4 points at worst), but would call a lead of three standard errors 0.51. So they do where a few
    candidates lie far below the others, whose spread then looks larger than it is.

    Args:
        utilities_K: observed.
        covariance_KK: of their errors.
        seed: of the draws.
    """
    candidates = len(utilities_K)
    centring_KK = np.eye(candidates) - 1 / candidates
    variance_K, axes_KK = np.linalg.eigh(centring_KK @ covariance_KK @ centring_KK)
    uncertain_K = variance_K > KNOWN * covariance_KK.diagonal().max()
    variance_J, axes_KJ = variance_K[uncertain_K], axes_KK[:, uncertain_K]
    seen_J = axes_KJ.T @ utilities_K
    known_K = utilities_K - axes_KJ @ seen_J

    total_S = 1 + SPREADS**2
    likelihood_S = -0.5 * (len(seen_J) * np.log(total_S) + (seen_J**2 / variance_J).sum() / total_S)
    belief_S = np.exp(likelihood_S - likelihood_S.max())
    random = np.random.default_rng(seed)
    drawn_D = np.searchsorted(belief_S.cumsum() / belief_S.sum(), random.random(DRAWS))
    kept_D1 = (1 - 1 / total_S)[drawn_D, None]  # of what was seen; the rest is taken for luck
    error_DK = random.standard_normal((DRAWS, candidates)) @ (axes_KJ * np.sqrt(variance_J) @ axes_KJ.T)
    true_DK = known_K + kept_D1 * (axes_KJ @ seen_J) + np.sqrt(kept_D1) * error_DK
    best_DK = true_DK >= true_DK.max(1, keepdims=True) - EQUAL
    return np.asarray((best_DK / best_DK.sum(1, keepdims=True)).mean(0))
