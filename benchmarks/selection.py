"""The selector on simulated problems whose truth is known: does it choose well, and is it as sure as it says?

    python benchmarks/selection.py [--scale 1.0] [--json]

Each problem has 3, 8 or 30 candidates whose true utilities spread by 0.5, 1, 2 or 5 standard errors. Every candidate
answers for the same 1,000 images, some harder for all, and is timed in 30 rounds, some slower for all.
The contract weighs accuracy, recall of a class of a quarter of the images, and the 95 % quantile of the latency. What
is measured is resampled, weighed and decided by the shipped code alone. The rivals weigh the same measured values.

One standard error is that of what tells candidates apart: of utilities less their mean over candidates of equal truth.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from new_contract import new_contract
from numpy.typing import NDArray

from steelyard.contract import Contract
from steelyard.evaluation.answers import SplitOutputs
from steelyard.evaluation.bounds import measure_quality, proportion_bound
from steelyard.evaluation.metrics import Floats, quality
from steelyard.evaluation.times import Times, TooFewSamples, measure_time, time_metric
from steelyard.selection.decision import decide, utilities
from steelyard.selection.resampling import resample_quality, resample_times
from steelyard.selection.rivals import FORMULAS
from steelyard.selection.utility import desirability, weight_shares

CONTRACT = Contract.from_yaml("""
client: simulated
metrics:
  accuracy: {weight: 5, worst: 0.3, ideal: 1.0}
  recall[a]: {weight: 2, worst: 0.3, ideal: 1.0}
  latency_p95_ms: {weight: 3, worst: 100, ideal: 1}
epsilon: 0.01
""")
SHARES = weight_shares(CONTRACT)
SHARES_M = np.array(list(SHARES.values()))
HIGHER_M = np.array([True, True, False])
CLASSES = ("a", "b")
IMAGES, RARE = 1000, 0.25
ROUNDS, SINGLES = 30, 20
TYPICAL_P, TYPICAL_MS = 0.8, 10.0
COMMON = 0.5  # correlation between candidates of how hard an image is
SLOW_ROUND, NOISE = 0.05, 0.08  # standard deviations of the logarithm of a latency
P95 = 1.6448536
CELLS = {
    (spread, candidates): many for candidates, many in ((3, 6000), (8, 3000), (30, 1500)) for spread in (0.5, 1, 2, 5)
}
CLAIM = (0.85, 0.95)  # what counts as called 0.9
PER_TASK = 250


class Truth(NamedTuple):
    """What candidates are really like."""

    accuracy_K: Floats  # in either class
    p95_ms_K: Floats

    @property
    def utilities_K(self) -> Floats:
        return weigh(np.stack([self.accuracy_K, self.accuracy_K, self.p95_ms_K], 1))


class Seen(NamedTuple):
    """What was measured of them."""

    answers: list[SplitOutputs]
    times: list[Times]
    values_KM: Floats
    costs: list[tuple[float, float, float, str]]


@dataclass
class Tally:
    """Counts over problems."""

    problems: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, other: "Tally") -> None:
        self.problems += other.problems
        self.counts += other.counts
        for name, value in other.sums.items():
            self.sums[name] += value

    def share(self, name: str, of: str) -> float:
        return self.counts[name] / max(self.counts[of], 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the problems (default: 42,000 of them)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    error = standard_error(np.random.default_rng(0))
    tasks = [
        (spread, candidates, start, min(PER_TASK, int(many * arguments.scale) - start), error)
        for (spread, candidates), many in CELLS.items()
        for start in range(0, int(many * arguments.scale), PER_TASK)
    ]
    cells: defaultdict[tuple[float, int], Tally] = defaultdict(Tally)
    with multiprocessing.get_context("spawn").Pool() as pool:
        for done, (spread, candidates, tally) in enumerate(pool.imap_unordered(solve, tasks), 1):
            cells[spread, candidates].add(tally)
            print(f"\r{done} of {len(tasks)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    figures = summary(cells) | new_contract()
    print(json.dumps(figures, indent=1) if arguments.json else table(figures))


def standard_error(random: np.random.Generator, problems: int = 400, candidates: int = 8) -> float:
    """Return the standard error of utilities less their mean, where all candidates are equally good."""
    equal = Truth(np.full(candidates, TYPICAL_P), np.full(candidates, TYPICAL_MS))
    spreads = [weigh(measure(equal, random).values_KM).var(ddof=1) for _ in range(problems)]
    return float(np.sqrt(np.mean(spreads)))


def solve(task: tuple[float, int, int, int, float]) -> tuple[float, int, Tally]:
    """Simulate problems of one cell and let the selector and its rivals choose."""
    spread, candidates, start, problems, error = task
    random = np.random.default_rng([int(10 * spread), candidates, start])
    tally = Tally()
    for number in range(problems):
        truth = candidates_at_random(candidates, spread * error, random)
        one_problem(truth, measure(truth, random), start + number, random, tally)
    return spread, candidates, tally


def candidates_at_random(candidates: int, spread: float, random: np.random.Generator) -> Truth:
    """Draw candidates whose true utilities are normal with this standard deviation, half of it quality, half speed."""
    quality_K, speed_K = random.normal(0, spread / np.sqrt(2), (2, candidates))
    per_accuracy = (SHARES["accuracy"] + SHARES["recall[a]"]) / 0.7
    per_logarithm = SHARES["latency_p95_ms"] / np.log(100)
    return Truth(
        np.clip(TYPICAL_P + quality_K / per_accuracy, 0.31, 0.999), TYPICAL_MS * np.exp(-speed_K / per_logarithm)
    )


def measure(truth: Truth, random: np.random.Generator) -> Seen:
    """Let the candidates answer and be timed."""
    from scipy.stats import norm

    candidates = len(truth.accuracy_K)
    labels_N = (random.random(IMAGES) >= RARE).astype(np.int64)
    hard_KN = np.sqrt(COMMON) * random.normal(size=IMAGES) + np.sqrt(1 - COMMON) * random.normal(
        size=(candidates, IMAGES)
    )
    right_KN = hard_KN < norm.ppf(truth.accuracy_K)[:, None]
    said_KN = np.where(right_KN, labels_N, 1 - labels_N)
    answers = [
        SplitOutputs(probabilities_NC=np.eye(2, dtype=np.float32)[said_N], labels_N=labels_N) for said_N in said_KN
    ]

    typical_K = np.log(truth.p95_ms_K) - P95 * np.hypot(SLOW_ROUND, NOISE)
    slow_R = SLOW_ROUND * random.normal(size=(ROUNDS, 1))
    times = []
    for typical in typical_K:
        latency_RS = np.exp(typical + slow_R + NOISE * random.normal(size=(ROUNDS, SINGLES)))
        times.append(Times(latency_RS, 1000 / latency_RS.mean(1)))
    return Seen(answers, times, *_values_and_costs(answers, times))


def _values_and_costs(
    answers: list[SplitOutputs], times: list[Times]
) -> tuple[Floats, list[tuple[float, float, float, str]]]:
    image, once = np.ones((1, IMAGES)), np.ones((1, ROUNDS))
    values, costs = [], []
    for k, (answered, timed) in enumerate(zip(answers, times, strict=True)):
        of_images = quality(answered, CLASSES, image, ["accuracy", "recall[a]"])
        p50_ms, p95_ms = (time_metric(name, timed, once)[0] for name in ("latency_p50_ms", "latency_p95_ms"))
        values.append([of_images["accuracy"][0], of_images["recall[a]"][0], p95_ms])
        costs.append((0.0, float(p50_ms), 0.0, f"{k:02d}"))
    return np.array(values), costs


def weigh(values_KM: Floats) -> Floats:
    """Return the utilities of measured, or true, values."""
    worth = [desirability(n, values_KM[:, m], p) for m, (n, p) in enumerate(CONTRACT.metrics.items())]
    return utilities(np.stack(worth, 1), SHARES_M)


def one_problem(truth: Truth, seen: Seen, seed: int, random: np.random.Generator, tally: Tally) -> None:
    """Decide, and count what came of it."""
    measured_K, true_K = weigh(seen.values_KM), truth.utilities_K
    decision = decide(measured_K, resampled(seen, seed), seen.costs, CONTRACT.epsilon, seed)
    tally.problems += 1
    tally.sums["tie rule's loss"] += true_K[decision.leader] - true_K[decision.winner]
    best = int(true_K.argmax())
    assert decision.p_best_K is not None
    for k in np.flatnonzero((decision.p_best_K > CLAIM[0]) & (decision.p_best_K <= CLAIM[1])):
        tally.counts["claims"] += 1
        tally.counts["right claims"] += int(k == best)
        tally.sums["claimed"] += float(decision.p_best_K[k])
    without_one(decision.winner, decision.tied_K, measured_K, seen, random, tally)
    for name in FORMULAS:
        rival(name, true_K, seen, random, tally)
    limits(truth, seen, random, tally)
    winner_breaks_a_limit(truth, seen, measured_K, tally)


def resampled(seen: Seen, seed: int) -> Floats:
    drawn = resample_quality(iter(seen.answers), CLASSES, ["accuracy", "recall[a]"], seed)
    drawn |= resample_times(seen.times, ["latency_p95_ms"], CONTRACT, seed)
    return np.sum([s * desirability(n, drawn[n], CONTRACT.metrics[n]) for n, s in SHARES.items()], axis=0)


def without_one(
    winner: int, tied_K: NDArray[np.bool_], measured_K: Floats, seen: Seen, random: np.random.Generator, tally: Tally
) -> None:
    """Take a loser away, one that is not tied with the leader and one that is: does another win?"""
    losers = np.arange(len(measured_K)) != winner
    for kind, among in (("outside", np.flatnonzero(losers & ~tied_K)), ("tied", np.flatnonzero(losers & tied_K))):
        if len(among):
            left = np.delete(np.arange(len(measured_K)), random.choice(among))
            again = decide(measured_K[left], None, [seen.costs[k] for k in left], CONTRACT.epsilon, 0)
            tally.counts[f"{kind} taken away"] += 1
            tally.counts[f"{kind} changed the winner"] += int(left[again.winner] != winner)


def rival(name: str, true_K: Floats, seen: Seen, random: np.random.Generator, tally: Tally) -> None:
    """Let a rival choose, and choose again without one of the losers."""
    score = FORMULAS[name]
    winner = int(score(seen.values_KM, SHARES_M, HIGHER_M).argmax())
    left = np.delete(np.arange(len(true_K)), random.choice(np.delete(np.arange(len(true_K)), winner)))
    again = int(left[score(seen.values_KM[left], SHARES_M, HIGHER_M).argmax()])
    tally.counts[f"{name} changed the winner"] += int(again != winner)
    tally.sums[f"{name} loss"] += true_K.max() - true_K[winner]
    tally.sums["leader's loss"] += (true_K.max() - true_K[int(weigh(seen.values_KM).argmax())]) / len(FORMULAS)


def limits(truth: Truth, seen: Seen, random: np.random.Generator, tally: Tally) -> None:
    """Set limits that one candidate truly breaks by 0 to 1 standard error, and see whether its bounds pass."""
    k, p, p95_ms = 0, truth.accuracy_K[0], truth.p95_ms_K[0]
    found = measure_quality(seen.answers[k], CLASSES, ["accuracy", "recall[a]", "macro_recall", "worst_class_recall"])
    images = {
        "accuracy": IMAGES,
        "recall[a]": RARE * IMAGES,
        "macro_recall": 0.75 * IMAGES,
        "worst_class_recall": RARE * IMAGES,
    }
    for name, measurement in found.items():
        limit = p + random.random() * np.sqrt(p * (1 - p) / images[name])
        _count_limit(name, measurement.bound >= limit, tally)
    standard_error_ms = p95_ms * np.hypot(SLOW_ROUND / np.sqrt(ROUNDS), 2.1 * NOISE / np.sqrt(ROUNDS * SINGLES))
    limit_ms = p95_ms - random.random() * standard_error_ms
    with contextlib.suppress(TooFewSamples):  # refused: more rounds would be timed
        _count_limit("latency_p95_ms", measure_time("latency_p95_ms", seen.times[k]).bound <= limit_ms, tally)


def _count_limit(name: str, passed: bool, tally: Tally) -> None:
    for each in (name, "any limit"):
        tally.counts[f"{each} broken"] += 1
        tally.counts[f"{each} passed wrongly"] += int(passed)


def winner_breaks_a_limit(truth: Truth, seen: Seen, measured_K: Floats, tally: Tally) -> None:
    """Ask for an accuracy that half of the candidates truly have: how often does the chosen one not have it?"""
    hits_K = np.rint(seen.values_KM[:, 0] * IMAGES).astype(int)
    eligible = [k for k, hits in enumerate(hits_K) if proportion_bound(int(hits), IMAGES, upper=False) >= TYPICAL_P]
    if eligible:
        chosen = decide(measured_K[eligible], None, [seen.costs[k] for k in eligible], CONTRACT.epsilon, 0).winner
        tally.counts["winners under a limit"] += 1
        tally.counts["winners that break it"] += int(truth.accuracy_K[eligible[chosen]] < TYPICAL_P)


def summary(cells: dict[tuple[float, int], Tally]) -> dict[str, object]:
    """Return the figures of all cells."""
    total = Tally()
    for tally in cells.values():
        total.add(tally)
    return {
        "problems": total.problems,
        "winner_changed_by_outside_candidate": total.share("outside changed the winner", "outside taken away"),
        "outside_candidates_taken_away": total.counts["outside taken away"],
        "winner_changed_by_tied_candidate": total.share("tied changed the winner", "tied taken away"),
        "tied_candidates_taken_away": total.counts["tied taken away"],
        "p_best_calibration": [
            {"spread": spread, "candidates": candidates} | calibration(tally)
            for (spread, candidates), tally in sorted(cells.items(), key=lambda cell: (cell[0][1], cell[0][0]))
        ],
        "p_best_overall": calibration(total),
        "tie_rule_mean_utility_loss": total.sums["tie rule's loss"] / total.problems,
        "epsilon": CONTRACT.epsilon,
        "leader_mean_utility_loss": total.sums["leader's loss"] / total.problems,
        "hard_limit_wrongly_passed": total.share("any limit passed wrongly", "any limit broken"),
        "hard_limit_cases": total.counts["any limit broken"],
        "hard_limit_wrongly_passed_by_metric": {
            name.removesuffix(" broken"): total.share(name.replace("broken", "passed wrongly"), name)
            for name in total.counts
            if name.endswith(" broken") and name != "any limit broken"
        },
        "winners_that_break_a_limit": total.share("winners that break it", "winners under a limit"),
        "rivals": {
            name: {
                "winner_changed_by_losing_candidate": total.counts[f"{name} changed the winner"] / total.problems,
                "mean_utility_loss": float(total.sums[f"{name} loss"] / total.problems),
            }
            for name in FORMULAS
        },
    }


def calibration(tally: Tally) -> dict[str, float | int | None]:
    """Return what was claimed on average where 0.9 was called, how often it was right, and how often it was called."""
    claims = tally.counts["claims"]
    return {
        "claimed": tally.sums["claimed"] / claims if claims else None,
        "right": tally.counts["right claims"] / claims if claims else None,
        "cases": claims,
        "problems": tally.problems,
    }


def table(figures: dict[str, object]) -> str:
    """Return the figures for people."""
    lines = []
    for name, figure in figures.items():
        if name == "p_best_calibration":
            lines.append("spread  candidates  claimed  right  cases")
            lines += [_calibration_line(cell) for cell in figure]  # type: ignore[attr-defined]
        elif name == "rivals":
            rivals = figure.items()  # type: ignore[attr-defined]
            lines += [f"{f'{rival}: {key}':60} {value:g}" for rival, found in rivals for key, value in found.items()]
        elif isinstance(figure, dict):
            lines += [f"{f'{name}: {key}':60} {value:g}" for key, value in figure.items()]
        else:
            lines.append(f"{name:60} {figure:g}")
    return "\n".join(lines)


def _calibration_line(cell: dict[str, float]) -> str:
    claimed, right = (f"{value:.3f}" if (value := cell[key]) is not None else "-" for key in ("claimed", "right"))
    return f"{cell['spread']:6g}  {cell['candidates']:10d}  {claimed:>7}  {right:>5}  {cell['cases']:5d}"


if __name__ == "__main__":
    main()
