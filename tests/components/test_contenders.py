"""All that compete: what is fetched from a real server leaves nothing behind, and no model fails others."""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from components.measure_latency import measure_latency
from components.recall_models import recall_models
from steelyard.bundle import ModelBundle
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.evaluation.evaluate import evaluate
from steelyard.evaluation.latency import with_times
from steelyard.evaluation.scorecard import Scorecard
from steelyard.evaluation.times import Times
from steelyard.params import Candidate
from steelyard.selection.select import read_scorecards, select
from steelyard.tracking.tracking import Tracking
from tests.mlflow_server import serving

TIMES = Times(np.full((30, 20), 2.0), np.full(30, 100.0))


def _at(path: Path) -> SimpleNamespace:
    return SimpleNamespace(path=str(path), uri=str(path), metadata={})


def test_what_is_fetched_from_a_server_leaves_nothing_behind(
    tracking_uri: str,
    bundle: ModelBundle,
    dataset: Dataset,
    candidate: Candidate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = evaluate(bundle, dataset, "s3://bucket/dataset")
    card.write(tmp_path / "card")
    with serving(tmp_path / "mlflow.db") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        with Tracking(server.uri).training(bundle.index.run_key, candidate):
            pass
        Tracking(server.uri).memory().keep(with_times(card, TIMES, 99.0))
        (tmp_path / "scratch").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
        recall_models.python_func(field="", measured=_at(tmp_path / "recalled"))
        measure_latency.python_func(
            bundles=[_at(bundle.folder)], scorecards=[_at(tmp_path / "card")], measured=_at(tmp_path / "measured")
        )
    assert list((tmp_path / "scratch").iterdir()) == []
    for folder in ("recalled", "measured"):
        written = Scorecard.read(tmp_path / folder / "one-layer")
        assert written.answered("validation") is not None
        assert written.times is not None
        assert np.array_equal(written.times.latency_ms_RS, TIMES.latency_ms_RS)


def test_a_model_whose_memory_can_t_be_measured_lacks_that_figure_and_fails_no_other(
    tracking_uri: str,
    bundle: ModelBundle,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    large = bundle.copy_to(tmp_path / "large")
    large.index.model_copy(update={"candidate": "large"}).write(tmp_path / "large" / "bundle.json")
    bundles = [bundle, ModelBundle(tmp_path / "large")]
    for one in bundles:
        evaluate(one, dataset).write(tmp_path / "cards" / one.index.candidate)
    python = tmp_path / "python"
    dies = 'case "$*" in *large*) echo "loading\nstd::bad_alloc" >&2; exit 1;; esac'
    python.write_text(f'#!/bin/sh\n{dies}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    measure_latency.python_func(
        bundles=[_at(one.folder) for one in bundles],
        scorecards=[_at(tmp_path / "cards" / one.index.candidate) for one in bundles],
        measured=_at(tmp_path / "measured"),
    )
    assert "large: its memory can't be measured: std::bad_alloc\n" in capsys.readouterr().err
    contract = Contract.from_yaml("client: acme\nmetrics: {peak_memory_mib: {weight: 1, worst: 9999, ideal: 1}}")
    selection = select(read_scorecards([tmp_path / "measured"]), contract)
    assert selection.winner == "one-layer"
    (rejected,) = selection.rejected
    assert rejected.reason.startswith("'large' has no 'peak_memory_mib'; it has: accuracy")
    assert "latency_p95_ms" in rejected.reason
