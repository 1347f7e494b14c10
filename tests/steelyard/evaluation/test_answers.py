"""Answers on disk: read as they were written, or refused in one sentence."""

from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import ArtifactError
from steelyard.evaluation.answers import MaskCounts, SplitOutputs, read_answers, write_answers

GOOD = {"probabilities": np.full((4, 3), 1 / 3, np.float32), "labels": np.array([0, 1, 2, 0])}


def test_masks_survive_the_disk(tmp_path: Path) -> None:
    counts_NCC = np.random.default_rng(0).integers(0, 9, (5, 3, 3))
    write_answers(MaskCounts(counts_NCC=counts_NCC), tmp_path / "validation.npz")
    again = read_answers(tmp_path / "validation.npz", "segmentation", 3)
    assert isinstance(again, MaskCounts)
    assert again.counts_NCC.tolist() == counts_NCC.tolist()
    assert again.truth.tolist() == counts_NCC.sum(2).tolist()


def test_no_file_is_no_answer(tmp_path: Path) -> None:
    assert read_answers(tmp_path / "test.npz", "classification", 3) is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"probabilities": np.full((4, 3), np.nan)}, "probabilities must be numbers from 0 to 1"),
        ({"probabilities": np.full((4, 3), 1.5)}, "probabilities must be numbers from 0 to 1"),
        ({"probabilities": np.full((4, 3), -0.1)}, "probabilities must be numbers from 0 to 1"),
        ({"probabilities": np.full((4, 2), 0.5)}, r"have shape \(4, 2\), not \(4 labels, 3 classes\)"),
        ({"probabilities": np.full((3, 3), 0.5)}, r"have shape \(3, 3\), not \(4 labels, 3 classes\)"),
        ({"probabilities": np.full(4, 0.5)}, r"have shape \(4,\), not"),
        ({"labels": np.array([0, 1, 2, 3])}, "labels must be indices of classes"),
        ({"labels": np.array([0, 1, 2, -1])}, "labels must be indices of classes"),
        ({"labels": np.array([0.0, 1.0, np.nan, 2.0])}, "labels and counts must be whole numbers, not float64"),
        ({"labels": np.array(["a", "b", "c", "a"])}, "labels and counts must be whole numbers, not <U1"),
        ({"labels": np.empty(0, np.int64), "probabilities": np.empty((0, 3))}, "and at least one"),
        ({"labels": np.array([{}] * 4)}, "is damaged: Object arrays cannot be loaded"),
    ],
)
def test_answers_that_can_t_be_are_refused(change: dict[str, np.ndarray], complaint: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "validation.npz", **{**GOOD, **change})
    with pytest.raises(ArtifactError, match=rf"validation\.npz: .*{complaint}") as caught:
        read_answers(tmp_path / "validation.npz", "classification", 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("counts_NCC", "complaint"),
    [
        (np.ones((2, 3, 2), int), r"counts have shape \(2, 3, 2\), not \(images, 3 classes, 3 classes\)"),
        (np.zeros((2, 3, 3), int), "counts must be at least 0, and some above"),
        (np.full((2, 3, 3), -1), "counts must be at least 0, and some above"),
        (np.empty((0, 3, 3), int), "counts must be at least 0, and some above"),
    ],
)
def test_counts_that_can_t_be_are_refused(counts_NCC: np.ndarray, complaint: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", counts=counts_NCC)
    with pytest.raises(ArtifactError, match=complaint):
        read_answers(tmp_path / "test.npz", "segmentation", 3)


def test_answers_of_another_task_are_refused_rather_than_read_as_what_they_are_not(tmp_path: Path) -> None:
    write_answers(MaskCounts(counts_NCC=np.ones((4, 3, 3), np.int64)), tmp_path / "masks.npz")
    with pytest.raises(
        ArtifactError, match=r"masks\.npz: holds no probabilities, which answers of classification have"
    ):
        read_answers(tmp_path / "masks.npz", "classification", 3)
    write_answers(SplitOutputs(probabilities_NC=GOOD["probabilities"], labels_N=GOOD["labels"]), tmp_path / "rows.npz")
    with pytest.raises(ArtifactError, match=r"rows\.npz: holds no counts, which answers of segmentation have"):
        read_answers(tmp_path / "rows.npz", "segmentation", 3)


@pytest.mark.parametrize("masks", [False, True])
def test_a_file_that_was_cut_or_changed_is_refused_in_one_line_or_read_as_it_was(masks: bool, tmp_path: Path) -> None:
    file = tmp_path / "validation.npz"
    random = np.random.default_rng(0)
    if masks:
        write_answers(MaskCounts(counts_NCC=random.integers(0, 9, (20, 3, 3))), file)
    else:
        labels_N = random.integers(3, size=30)
        write_answers(SplitOutputs(probabilities_NC=random.random((30, 3), np.float32), labels_N=labels_N), file)
    whole = file.read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole), 23)]
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= int(random.integers(1, 256))
        damaged.append(bytes(changed))
    complaints = []
    for content in damaged:
        file.write_bytes(content)
        try:
            read_answers(file, "segmentation" if masks else "classification", 3)
        except ArtifactError as error:
            complaints.append(str(error))
    assert len(complaints) > 0.8 * len(damaged)
    assert not any("\n" in complaint for complaint in complaints)
