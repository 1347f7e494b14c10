"""What a new client costs: a decision, without report, over 100 remembered models, 10,000 images and 10 classes.

    python benchmarks/new_contract.py

Seconds of the processor with every import beyond NumPy's, and the most memory, of a process of its own; best of three,
of which the first leaves the bytecode that an installed package has.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from steelyard.data.dataset import DatasetRef
from steelyard.evaluation.answers import SplitOutputs
from steelyard.evaluation.bounds import measure_quality
from steelyard.evaluation.measurement import exactly
from steelyard.evaluation.metrics import quality_names
from steelyard.evaluation.mistakes import Mistakes
from steelyard.evaluation.scorecard import Hardware, Scorecard, ScorecardIndex
from steelyard.evaluation.times import Times, measure_time

MODELS = 100
ROUNDS, SINGLES = 30, 20
NEW_CONTRACT = """
import numpy, json, resource, sys
began = resource.getrusage(resource.RUSAGE_SELF)
from pathlib import Path
from steelyard.contract import Contract
from steelyard.selection.select import read_scorecards, select
contract = Contract.from_yaml('''
client: new
metrics:
  accuracy: {weight: 5, worst: 0.5, ideal: 0.99}
  macro_recall: {weight: 2, worst: 0.5, ideal: 0.99}
  latency_p95_ms: {weight: 2, worst: 20, ideal: 0.5}
  model_size_mib: {weight: 1, worst: 100, ideal: 1}
''')
selection = select(read_scorecards(Path(sys.argv[1]).iterdir()), contract)
ended = resource.getrusage(resource.RUSAGE_SELF)
line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
assert selection.winner and selection.ranking[0].p_best is not None
cpu_s = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
print(json.dumps({"new_contract_cpu_s": round(cpu_s, 3), "new_contract_peak_mib": round(int(line.split()[1]) / 1024)}))
"""


def new_contract() -> dict[str, float]:
    """Let a process of its own answer for a new client over 100 remembered models; the best of three."""
    with tempfile.TemporaryDirectory() as folder:
        remember(Path(folder), np.random.default_rng(0))
        words = [sys.executable, "-c", NEW_CONTRACT, folder]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        runs = [
            json.loads(subprocess.run(words, capture_output=True, check=True, env=environment).stdout) for _ in range(3)
        ]
    return min(runs, key=lambda run: run["new_contract_cpu_s"])


def remember(folder: Path, random: np.random.Generator, images: int = 10_000, classes: int = 10) -> None:
    """Write Scorecards of 100 models that told 10 classes apart on 10,000 images of either split."""
    names = tuple(f"class {c}" for c in range(classes))
    labels = {split: random.integers(0, classes, images) for split in ("validation", "test")}
    for number in range(MODELS):
        answers = {}
        for split, labels_N in labels.items():
            logits_NC = random.normal(size=(images, classes)).astype(np.float32)
            logits_NC[np.arange(images), labels_N] += random.uniform(2, 4)
            likely_NC = np.exp(logits_NC)
            answers[split] = SplitOutputs(
                probabilities_NC=likely_NC / likely_NC.sum(1, keepdims=True), labels_N=labels_N
            )
        latency_RS = random.lognormal(random.normal(1, 0.5), 0.1, (ROUNDS, SINGLES))
        times = Times(latency_RS, 1000 / latency_RS.mean(1))
        index = ScorecardIndex(
            candidate=f"model-{number:03d}",
            task="classification",
            classes=names,
            run_key=f"{number:064d}",
            dataset=DatasetRef(content_digest="content", split_digest="split"),
            validation=measure_quality(answers["validation"], names, quality_names("classification", names)),
            model={"latency_p95_ms": measure_time("latency_p95_ms", times)}
            | {"model_size_mib": exactly("model_size_mib", random.uniform(1, 90))},
            hardware=Hardware(hardware_class="cpu", rounds=ROUNDS, images_per_round=SINGLES),
        )
        wrong_M = np.zeros(24, np.int64)
        pictures_MHWC = random.integers(256, size=(24, 96, 96, 3), dtype=np.uint8)
        mistakes = Mistakes(pictures_MHWC, wrong_M, wrong_M, np.ones(24, np.float32))
        Scorecard(index=index, answers=answers, mistakes=mistakes, times=times).write(folder / index.candidate)


if __name__ == "__main__":
    print(json.dumps(new_contract(), indent=1))
