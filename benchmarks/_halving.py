"""What halving saves and costs: eight candidates trained fully, 100 orders of arrival replayed, one run in earnest.

`training.py` runs this. A replay takes the candidates one after the other through the rule that stops real ones, with
what they were worth at their rungs when all were trained fully, to each of three clients: one weighs accuracy most, one
all alike, one speed and size most. Compute is the processor's seconds of what was trained, as a share of those of all;
the loss is that of the client's utility, the best of all against the best of those that were trained to the end.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steelyard.bundle import ModelBundle
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.errors import Stopped
from steelyard.halving import estimates
from steelyard.params import Candidate
from steelyard.selection.halving import early_utility, goes_on, rung_epochs
from steelyard.selection.utility import desirability, weight_shares
from steelyard.tracking.tracking import Tracking, sqlite_uri
from steelyard.training.job import Places, run_job

ORDERS, EPOCHS = 100, 27  # rungs after 3 and 9 of them
WEIGHTS = {"accuracy first": (4, 1, 1), "all alike": (1, 1, 1), "speed and size first": (1, 2, 2)}


def contract_of(accuracy: float, latency: float, size: float) -> Contract:
    """Return the contract of a client with these weights."""
    return Contract.from_yaml(f"""
client: halving
metrics:
  accuracy: {{weight: {accuracy}, worst: 0.3, ideal: 0.7}}
  latency_p95_ms: {{weight: {latency}, worst: 5, ideal: 0.05}}
  model_size_mib: {{weight: {size}, worst: 4, ideal: 0.04}}
""")


CONTRACTS = {client: contract_of(*weights) for client, weights in WEIGHTS.items()}
CONTRACT = CONTRACTS["accuracy first"]  # of the run in earnest
RECIPE = {"epochs": EPOCHS, "batch_size": 32, "learning_rate": 0.002, "ema": 0.98}
WIDTHS = ((8,), (16,), (32,), (8, 16), (16, 32), (8, 16, 32), (16, 32, 64), (8, 16, 32, 64))  # of the convolutions


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A full training: the accuracy at its rungs and at the end, what is known without training, and what it cost."""

    accuracy_at: dict[int, float]  # by epoch
    accuracy: float
    known: dict[str, float]
    seconds: float

    def early(self, contract: Contract) -> dict[int, float]:
        """Return what it was worth at its rungs, by epoch."""
        return {
            epoch: early_utility(self.known | {"accuracy": accuracy}, contract)
            for epoch, accuracy in self.accuracy_at.items()
        }

    def utility(self, contract: Contract) -> float:
        """Return what it was worth at the end."""
        values, shares = self.known | {"accuracy": self.accuracy}, weight_shares(contract)
        return sum(s * float(desirability(name, values[name], contract.metrics[name])) for name, s in shares.items())


def halving(dataset: Dataset, scratch: Path) -> dict[str, float | str | None]:
    """Return the figures."""
    full = {name: fully_trained(one, dataset, scratch / "full") for name, one in candidates(False).items()}
    generator = np.random.default_rng(0)
    orders = [[full[name] for name in generator.permutation(list(full))] for _ in range(ORDERS)]
    replays = {client: np.array([replay(one, contract) for one in orders]) for client, contract in CONTRACTS.items()}
    compute, lost = np.concatenate(list(replays.values())).T
    real_seconds, finished = in_earnest(dataset, scratch / "halved")
    best = max(course.utility(CONTRACT) for course in full.values())
    return {
        "halving_compute": round(float(compute.mean()), 3),
        "halving_utility_loss": round(float(lost.mean()), 4),
        "halving, worst loss": round(float(lost.max()), 4),
        **{f"halving, {client}, compute": round(float(one[:, 0].mean()), 3) for client, one in replays.items()},
        **{f"halving, {client}, loss": round(float(one[:, 1].mean()), 4) for client, one in replays.items()},
        "halving, one run, compute": round(real_seconds / sum(course.seconds for course in full.values()), 3),
        "halving, one run, loss": round(best - max(full[name].utility(CONTRACT) for name in finished), 4),
        "halving, one run, finished": len(finished),
    }


def candidates(halved: bool) -> dict[str, Candidate]:
    """Return the eight: convolutions, each normed and pooled, and one recipe for all, as a params.yaml has it."""
    found = {}
    for widths in WIDTHS:
        name = "-".join(map(str, widths))
        layers = [layer for width in widths for layer in ({"conv": width}, {"batch_norm": True}, {"pool": 2})]
        found[name] = Candidate.model_validate(
            {"name": name, "layers": [*layers, {"flatten": True}], "training": RECIPE, "halving": halved}
        )
    return found


def fully_trained(one: Candidate, dataset: Dataset, folder: Path) -> Course:
    """Train without halving, and say what it was worth on the way."""
    seconds, bundle = job(one, dataset, folder)
    assert bundle is not None
    history, ends = bundle.index.history, rung_epochs(EPOCHS)
    return Course(
        accuracy_at={epoch.epoch: epoch.validation_accuracy for epoch in history if epoch.epoch in ends},
        accuracy=history[bundle.index.best_epoch - 1].validation_accuracy,
        known=estimates(one, dataset, CONTRACT.metrics),
        seconds=seconds,
    )


def replay(courses: Sequence[Course], contract: Contract) -> tuple[float, float]:
    """Return compute and loss of one order of arrival, for one client."""
    recorded: dict[int, list[float]] = {epoch: [] for epoch in rung_epochs(EPOCHS)}
    spent, finished = 0.0, []
    for course in courses:
        for epoch, utility in course.early(contract).items():
            stays = goes_on(utility, recorded[epoch])
            recorded[epoch].append(utility)
            if not stays:
                spent += course.seconds * epoch / EPOCHS
                break
        else:
            spent += course.seconds
            finished.append(course.utility(contract))
    best = max(course.utility(contract) for course in courses)
    return spent / sum(course.seconds for course in courses), best - max(finished)


def in_earnest(dataset: Dataset, folder: Path) -> tuple[float, list[str]]:
    """Return the seconds of all eight with halving, estimates and records included, and who was trained to the end."""
    spent, finished = 0.0, []
    for name, one in candidates(True).items():
        seconds, bundle = job(one, dataset, folder)
        spent += seconds
        finished += [name] if bundle else []
    return spent, finished


def job(one: Candidate, dataset: Dataset, folder: Path) -> tuple[float, ModelBundle | None]:
    """Do a training job as the pipeline does; return its processor's seconds, and its bundle unless it was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    tracking = Tracking(sqlite_uri(folder / "mlflow.db"))
    tracking.connect()
    places = Places(bundle=folder / one.name, checkpoints=str(folder / "checkpoints"), store=None)
    started = time.process_time()
    try:
        bundle = run_job(one, dataset, places, tracking, CONTRACT)
    except Stopped:
        bundle = None
    return time.process_time() - started, bundle
