"""The runs that several tests look at."""

import subprocess
import time
from dataclasses import dataclass
from functools import cached_property

from e2e_platform import ROOT, Platform
from mlflow import MlflowClient

PARAMS = (ROOT / "examples/digits-with-failure/params.yaml").read_text(encoding="utf-8")
CONTRACT = (ROOT / "examples/digits-with-failure/evaluation_metrics.yaml").read_text(encoding="utf-8")
CLIENT, SECOND_CLIENT = "e2e-acme", "e2e-globex"
DEMANDING_CONTRACT = """
client: e2e-nobody
metrics: {accuracy: {weight: 1, worst: 0.5, ideal: 1, must: ">= 0.99999"}}
"""


def patient_params(candidate: str, epochs: int) -> str:
    """Return params.yaml of a training that was never done before; a hundred epochs take a minute or two."""
    return f"""
task: classification
data: {{source: digits, image_size: 16, grayscale: true, split: {{train: 0.5, validation: 0.25, test: 0.25, seed: 43}}}}
training: {{epochs: {epochs}, batch_size: 64, learning_rate: 0.0003, seed: {time.time_ns() % 2**31}}}
candidates:
  {candidate}: {{layers: [{{conv: 16}}, {{pool: 2}}, {{conv: 32}}, {{pool: 2}}, {{flatten: true}}, {{dense: 64}}]}}
"""


def contract_of(client: str) -> str:
    return CONTRACT.replace("client: acme", f"client: {client}")


@dataclass
class Runs:
    """The runs, started together; those that depend on others are started when asked for."""

    platform: Platform
    main: str
    gpu: str
    submitted: "subprocess.Popen[str]"  # `steelyard submit --wait` of a project without images

    @cached_property
    def finished_main(self) -> str:
        """The first client's run, successfully ended."""
        assert self.platform.ended(self.main) == "SUCCEEDED"
        return self.main

    @cached_property
    def finished_second(self) -> str:
        """A second client with two replicas, chosen for among what the first one's run left in memory."""
        assert self.finished_main
        with self.platform.tracking() as uri:
            mlflow = MlflowClient(tracking_uri=uri)
            experiment = mlflow.get_experiment_by_name("steelyard").experiment_id
            trained = mlflow.search_runs([experiment], "attributes.run_name = 'tiny-cnn'")[0]
        contract, field = contract_of(SECOND_CLIENT), trained.data.tags["field"]
        run = self.platform.submit("e2e-second", "reselect.yaml", contract=contract, field=field, replicas=2)
        assert self.platform.ended(run) == "SUCCEEDED"
        return run
