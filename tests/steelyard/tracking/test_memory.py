"""What is remembered of trainings, against a real MLflow database and a real server of artifacts."""

import os
import shutil
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from steelyard.bundle import ModelBundle
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.errors import InputError
from steelyard.evaluation.evaluate import evaluate
from steelyard.evaluation.latency import with_times
from steelyard.evaluation.scorecard import Scorecard
from steelyard.evaluation.times import Times
from steelyard.params import Candidate
from steelyard.report.outcome import write_outcome
from steelyard.selection.publish import choose
from steelyard.tracking.memory import field_of, the_field
from steelyard.tracking.tracking import Tracking
from tests.mlflow_server import serving

TIMES = Times(np.full((30, 20), 2.0), np.full(30, 100.0))
CONTRACT = Contract.from_yaml("client: acme\nmetrics: {accuracy: {weight: 1, worst: 0, ideal: 1}}")


@pytest.fixture
def tracking(tracking_uri: str) -> Tracking:
    return Tracking(tracking_uri)


@pytest.fixture(scope="module")
def measured(bundle: ModelBundle, dataset: Dataset) -> Scorecard:
    return evaluate(bundle, dataset, "s3://bucket/dataset")


def _train(tracking: Tracking, measured: Scorecard, candidate: Candidate, run_key: str) -> Scorecard:
    with tracking.training(run_key, candidate):
        pass
    return replace(measured, index=measured.index.model_copy(update={"run_key": run_key}))


def _of_other_images(card: Scorecard) -> Scorecard:
    data = card.index.dataset.model_copy(update={"evaluation_digest": "other"})
    return replace(card, index=card.index.model_copy(update={"dataset": data}))


def test_a_scorecard_comes_back_with_its_answers_mistakes_and_times(
    tracking: Tracking, measured: Scorecard, candidate: Candidate
) -> None:
    card = with_times(_train(tracking, measured, candidate, "k1"), TIMES, 123.0)
    assert card.index.hardware is not None
    here = card.index.hardware.hardware_class
    memory = tracking.memory()
    memory.keep(card)
    memory.keep(card)
    (back,) = memory.recall(field_of(card), here)
    assert back.index == card.index.model_copy(update={"remembered": True})
    for split in ("validation", "test"):
        kept, found = card.answered(split), back.answered(split)  # type: ignore[arg-type]
        assert kept is not None
        assert found is not None
        assert np.array_equal(kept.probabilities_NC, found.probabilities_NC)  # type: ignore[union-attr]
    assert back.worst_mistakes() is not None
    assert back.times is not None
    (found,) = memory.fields()
    assert found[:4] == (field_of(card), 1, "s3://bucket/dataset", (here,))
    assert abs((datetime.now() - found.newest).total_seconds()) < 600


def test_times_belong_to_the_hardware_they_were_measured_on(
    tracking: Tracking, measured: Scorecard, candidate: Candidate
) -> None:
    bare = _train(tracking, measured, candidate, "k1")
    card, memory = with_times(bare, TIMES, 123.0), tracking.memory()
    assert card.index.hardware is not None
    memory.keep(card)
    (elsewhere,) = memory.recall(field_of(card), "another processor")
    assert (elsewhere.times, elsewhere.index.hardware) == (None, None)
    assert "latency_p95_ms" not in elsewhere.index.model
    assert "parameters" in elsewhere.index.model
    hardware = card.index.hardware.model_copy(update={"hardware_class": "another processor"})
    memory.keep(replace(card, index=card.index.model_copy(update={"hardware": hardware})))
    (elsewhere,) = memory.recall(field_of(card), "another processor")
    assert elsewhere.index.hardware == hardware
    assert len(memory.fields()[0].hardware_classes) == 2
    assert memory.times(bare, "another processor").times is not None
    assert memory.times(bare, "a third").times is None


def test_models_measured_on_other_images_are_another_field(
    tracking: Tracking, measured: Scorecard, candidate: Candidate
) -> None:
    one = _train(tracking, measured, candidate, "k1")
    other = _of_other_images(_train(tracking, measured, candidate, "k2"))
    memory = tracking.memory()
    memory.keep(one)
    memory.keep(other)
    assert [card.index.run_key for card in memory.recall(field_of(one), None)] == ["k1"]
    with pytest.raises(InputError, match="measured on different data; --field says on which"):
        the_field(memory.fields())
    assert the_field(memory.fields(), field_of(other)[:8]).digest == field_of(other)
    with pytest.raises(InputError, match="no model is remembered that was measured on 'xyz'"):
        the_field(memory.fields(), "xyz")


def test_equal_names_are_told_apart_and_what_is_at_hand_keeps_its_own(
    tracking: Tracking, measured: Scorecard, candidate: Candidate
) -> None:
    cards = [_train(tracking, measured, candidate, key) for key in ("aaaaaaaa11", "bbbbbbbb22", "cccccccc33")]
    memory = tracking.memory()
    for card in cards:
        memory.keep(card)
    names = {card.candidate for card in memory.recall(field_of(cards[0]), None, besides=cards[:1])}
    assert names == {"one-layer-bbbbbbbb", "one-layer-cccccccc"}


def test_what_was_trained_twice_competes_once(tracking: Tracking, measured: Scorecard, candidate: Candidate) -> None:
    card = _train(tracking, measured, candidate, "k1")
    tracking.memory().keep(card)
    _train(tracking, measured, candidate, "k1")
    tracking.memory().keep(card)
    assert [one.candidate for one in tracking.memory().recall(field_of(card), None)] == ["one-layer"]


def test_an_address_that_only_one_machine_knows_does_not_replace_one_that_all_know(
    tracking: Tracking, measured: Scorecard, candidate: Candidate
) -> None:
    card = _train(tracking, measured, candidate, "k1")
    memory = tracking.memory()
    for address in ("minio://bucket/old", "s3://bucket/dataset", "/home/somebody/dataset"):
        memory.keep(replace(card, index=card.index.model_copy(update={"dataset_uri": address})))
    assert memory.fields()[0].dataset_uri == "s3://bucket/dataset"


def test_a_training_that_failed_or_happened_elsewhere_is_not_remembered(
    tracking: Tracking, measured: Scorecard
) -> None:
    tracking.memory().keep(measured)
    assert tracking.memory().fields() == []


def test_a_failure_neither_takes_the_place_of_a_model_with_its_key_nor_hides_it(
    tracking: Tracking, measured: Scorecard, candidate: Candidate
) -> None:
    good, memory = _train(tracking, measured, candidate, "k1"), tracking.memory()
    why = {"candidate": "pretrained", "failure": "training: no weights", "dataset_uri": "", "validation": {}}
    failed = Scorecard(index=good.index.model_copy(update=why))
    memory.keep(failed)
    memory.keep(good)
    assert [found[:4] for found in memory.fields()] == [(field_of(good), 1, "s3://bucket/dataset", ())]
    for besides in ([], [failed]):
        (recalled,) = memory.recall(field_of(good), None, besides)
        assert recalled.index == good.index.model_copy(update={"remembered": True})


@pytest.mark.parametrize("name", ["scorecard.json", "validation.npz"])
def test_a_scorecard_whose_files_are_damaged_is_left_out_with_a_warning(
    tracking: Tracking,
    measured: Scorecard,
    candidate: Candidate,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    card = _train(tracking, measured, candidate, "k1")
    tracking.memory().keep(card)
    (file,) = (tmp_path / "mlartifacts").rglob(name)
    os.truncate(file, file.stat().st_size // 2)
    assert tracking.memory().recall(field_of(card), None) == []
    assert "a remembered model is left out" in caplog.text
    assert name in caplog.text


def test_scorecards_beside_a_sqlite_file_are_read_where_they_lie(
    tracking: Tracking, measured: Scorecard, candidate: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = _train(tracking, measured, candidate, "k1")
    tracking.memory().keep(card)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (recalled,) = tracking.memory().recall(field_of(card), None)
    assert recalled.folder is not None
    assert (tmp_path / "mlartifacts") in recalled.folder.parents
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_model_whose_bundle_is_gone_competes_no_more_until_it_is_trained_again(
    tracking: Tracking, measured: Scorecard, candidate: Candidate, tmp_path: Path
) -> None:
    card, memory = _train(tracking, measured, candidate, "k1"), tracking.memory()
    memory.keep(card)
    assert tracking.recall("k1", "one-layer", tmp_path / "bundle") is None, "its training left none"
    assert (memory.recall(field_of(card), None), memory.fields()) == ([], [])
    _train(tracking, measured, candidate, "k1")
    memory.keep(card)
    assert [one.candidate for one in memory.recall(field_of(card), None)] == ["one-layer"]


def test_what_is_fetched_from_a_server_lies_in_the_cache_alone(
    tracking_uri: str, measured: Scorecard, candidate: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "mlflow.db") as server:
        tracking = Tracking(server.uri)
        card = _train(tracking, measured, candidate, "k1")
        memory = tracking.memory(tmp_path / "cache")
        memory.keep(card)
        (tmp_path / "scratch").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
        (fetched,) = memory.recall(field_of(card), None)
        shutil.rmtree(tmp_path / "kept")
        (again,) = memory.recall(field_of(card), None)
    assert list((tmp_path / "scratch").iterdir()) == []
    for one in (fetched, again):
        assert one.answered("validation") is not None


def test_each_reading_of_a_test_split_is_noted(
    tracking: Tracking, tracking_uri: str, measured: Scorecard, candidate: Candidate, tmp_path: Path
) -> None:
    card = _train(tracking, measured, candidate, "k1")
    selection = choose([card], CONTRACT)
    write_outcome(selection, [card], tmp_path / "selection")
    for _ in range(2):
        tracking.record_selection(selection, tmp_path / "selection")
    client = MlflowClient(tracking_uri=tracking_uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "steelyard"]
    (run,) = client.search_runs([experiment.experiment_id], "tags.run_key = 'k1'")
    assert [value for name, value in run.data.tags.items() if name.startswith("test_read.")] == ["acme", "acme"]
