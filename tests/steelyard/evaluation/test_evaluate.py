from pathlib import Path

import numpy as np
import pytest

from steelyard.bundle import ModelBundle, read_failure, write_failure
from steelyard.data.dataset import Dataset
from steelyard.errors import ArtifactError, FootprintUnknown, TrainingDiverged
from steelyard.evaluation.answers import SPLITS, SplitOutputs
from steelyard.evaluation.evaluate import evaluate, failed_scorecard
from steelyard.evaluation.footprint import peak_memory_mib
from steelyard.evaluation.latency import IMAGES_PER_ROUND, ROUNDS, measure_times, with_times
from steelyard.evaluation.scorecard import Scorecard


@pytest.fixture(scope="module")
def scorecard(bundle: ModelBundle, dataset: Dataset) -> Scorecard:
    return evaluate(bundle, dataset)


def test_a_scorecard_tells_what_the_onnx_file_answers(
    scorecard: Scorecard, bundle: ModelBundle, dataset: Dataset
) -> None:
    answers_N = bundle.predict_all(dataset.head("validation")).probabilities_NC.argmax(1)
    accuracy = scorecard.index.validation["accuracy"].value
    assert accuracy == pytest.approx((answers_N == dataset.labels_N("validation")).mean())
    assert accuracy > 0.8
    assert scorecard.index.model["training_minutes"].value > 0
    assert scorecard.index.model["parameters"].value == 8 * 8 * 32 + 32 + 32 * 10 + 10
    assert scorecard.index.model["model_size_mib"].value == pytest.approx(bundle.model_path.stat().st_size / 2**20)


def test_weights_beside_the_onnx_file_count_as_what_is_served(bundle: ModelBundle, tmp_path: Path) -> None:
    copy = bundle.copy_to(tmp_path)
    (copy.model_path.parent / "model.onnx.data").write_bytes(bytes(2**20))
    assert copy.size_mib == pytest.approx(bundle.size_mib + 1)


def test_the_test_split_is_answered_and_not_measured(scorecard: Scorecard, dataset: Dataset) -> None:
    assert scorecard.index.test == {}
    assert len(scorecard.answers["test"].labels_N) == dataset.index.images["test"]


def test_a_scorecard_survives_the_disk_and_is_copied_with_its_answers(scorecard: Scorecard, tmp_path: Path) -> None:
    scorecard.write(tmp_path / "card")
    again = Scorecard.read(tmp_path / "card")
    again.write(tmp_path / "copy")
    for read in (again, Scorecard.read(tmp_path / "copy")):
        assert read.index == scorecard.index
        assert read.keeps_answers
        assert read.answers == {}, "answers are read when they are asked for"
        for split in SPLITS:
            found, kept = read.answered(split), scorecard.answers[split]
            assert isinstance(found, SplitOutputs)
            assert isinstance(kept, SplitOutputs)
            np.testing.assert_array_equal(found.probabilities_NC, kept.probabilities_NC)
            np.testing.assert_array_equal(found.labels_N, kept.labels_N)


def test_times_are_measured_in_rounds_and_bounded(scorecard: Scorecard, bundle: ModelBundle) -> None:
    times = measure_times({"a": bundle, "b": bundle})
    assert times["a"].latency_ms_RS.shape == (ROUNDS, IMAGES_PER_ROUND)
    assert all((t.latency_ms_RS > 0).all() and (t.throughput_R > 0).all() for t in times.values())
    model = with_times(scorecard, times["a"], peak_memory_mib=99.0).index.model
    assert model["peak_memory_mib"].value == 99
    assert model["latency_p50_ms"].value <= model["latency_p95_ms"].value <= model["latency_p95_ms"].bound
    assert model["throughput_images_per_s"].bound <= model["throughput_images_per_s"].value


def test_a_model_that_can_t_be_loaded_has_no_footprint_and_the_reason_is_told(
    bundle: ModelBundle, tmp_path: Path
) -> None:
    damaged = bundle.copy_to(tmp_path / "damaged")
    damaged.model_path.write_bytes(b"damaged")
    with pytest.raises(FootprintUnknown, match=r"^one-layer: its memory can't be measured: .*model\.onnx failed"):
        peak_memory_mib(damaged)


def test_a_failed_candidate_has_a_scorecard_that_says_why(dataset: Dataset, tmp_path: Path) -> None:
    write_failure(tmp_path / "bundle", "bad", "training", TrainingDiverged("the loss became nan"), dataset.ref)
    failure = read_failure(tmp_path / "bundle")
    assert failure is not None
    failed_scorecard(failure, dataset).write(tmp_path / "card")
    assert Scorecard.read(tmp_path / "card").index.failure == "training: the loss became nan"


def test_a_scorecard_can_t_lead_out_of_its_folder(scorecard: Scorecard, tmp_path: Path) -> None:
    scorecard.write(tmp_path / "card")
    file = tmp_path / "card" / "scorecard.json"
    file.write_text(file.read_text().replace('"one-layer"', '"../elsewhere"'))
    with pytest.raises(ArtifactError, match="candidate: a candidate's name has"):
        Scorecard.read(tmp_path / "card")
