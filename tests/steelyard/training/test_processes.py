"""Two processes that torchrun's launcher starts learn like one."""

import logging
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from steelyard.bundle import Epoch
from steelyard.data.dataset import Dataset
from steelyard.errors import SourceError, SteelyardError, Stopped
from steelyard.models.build import Network
from steelyard.params import Candidate
from steelyard.training import train as training
from steelyard.training.checkpoint import Checkpoints
from steelyard.training.group import Group
from steelyard.training.processes import Processes
from steelyard.training.train import follow, train

TOLERANCE = 1e-4
LAYERS = [{"conv": 8}, {"pool": 2}, {"flatten": True}, {"dense": 32}]
RECIPE = {  # 897 images: shares of 15 and 16, and a last batch of 29
    "epochs": 3,
    "batch_size": 31,
    "learning_rate": 0.01,
    "precision": "float32",
}


def candidate_of(**recipe: object) -> Candidate:
    return Candidate.model_validate({"name": "x", "layers": LAYERS, "training": {**RECIPE, **recipe}})


CASES = {
    "plain": candidate_of(),
    "augmented": candidate_of(augment={"crop": 1, "flip": True, "mixup": 0.2}, label_smoothing=0.1),
    "freed later": candidate_of(unfreeze={"*": 2}),
    "averaged": candidate_of(ema=0.99, schedule="cosine"),
}


def begin() -> None:
    torch.set_num_threads(1)
    logging.getLogger("torch").setLevel(logging.ERROR)


def in_two(*arguments: object) -> None:
    Processes(count=2, begin=begin).run(*arguments)  # type: ignore[arg-type]


def take_part(candidate: Candidate, dataset: Path, weights: Path, checkpoints: Path | None, group: Group) -> None:
    places = Checkpoints(str(checkpoints)) if checkpoints else None
    if group.rank:
        follow(candidate, Dataset(dataset), places, None, group)
    else:
        trained = train(candidate, Dataset(dataset), lambda epoch: None, places, group=group)
        save_file(trained.model.state_dict(), weights)


def learn_all(dataset: Path, folder: Path, group: Group) -> None:
    for name, candidate in CASES.items():
        take_part(candidate, dataset, folder / name, None, group)
    take_part(CASES["averaged"], dataset, folder / "resumed", folder / "checkpoints", group)
    training.build = lambda *_: Network(Cramped(), 8, 10)
    take_part(candidate_of(), dataset, folder / "cramped", None, group)


class Cramped(nn.Module):
    """A body on a device that takes few images at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())

    def forward(self, images_NCHW: Tensor) -> Tensor:
        if self.training and len(images_NCHW) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.inner(images_NCHW)  # type: ignore[no-any-return]


def weights_of_one(candidate: Candidate, dataset: Dataset, checkpoints: Checkpoints | None = None) -> dict[str, Tensor]:
    return train(candidate, dataset, lambda epoch: None, checkpoints).model.state_dict()


def assert_close(weights: Path, wanted: dict[str, Tensor]) -> None:
    found = load_file(weights)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=TOLERANCE, msg=f"{weights.name}: {name}")


def cut_off(candidate: Candidate, dataset: Dataset, checkpoints: Checkpoints) -> None:
    def observe(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(candidate, dataset, observe, checkpoints)


def test_two_processes_reach_the_weights_of_one(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(CASES["averaged"], dataset, Checkpoints(str(tmp_path / "checkpoints")))
    in_two(learn_all, dataset.folder, tmp_path)
    for name, candidate in CASES.items():
        assert_close(tmp_path / name, weights_of_one(candidate, dataset))
    assert_close(tmp_path / "resumed", weights_of_one(CASES["averaged"], dataset))
    monkeypatch.setattr(training, "build", lambda *_: Network(Cramped(), 8, 10))
    assert_close(tmp_path / "cramped", weights_of_one(candidate_of(), dataset))


def end_one(dataset: Path, folder: Path, group: Group) -> None:
    if group.rank:
        learn = training.Learner.learn

        def killed(self: training.Learner, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
            if step == 40:  # in the second of three epochs
                os.kill(os.getpid(), signal.SIGKILL)
            return learn(self, batch, step)

        training.Learner.learn = killed  # type: ignore[method-assign]
    take_part(CASES["plain"], dataset, folder / "weights", folder / "checkpoints", group)


def test_a_killed_process_ends_all_with_one_sentence_and_another_run_goes_on(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SteelyardError, match=r"^process 1 of the training was ended: Signal 9 \(SIGKILL\)[^\n]*$"):
        in_two(end_one, dataset.folder, tmp_path)
    assert not (tmp_path / "weights").exists()
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    found = checkpoints.latest()
    assert found is not None
    assert len(found[0].history) == 1
    resumed = weights_of_one(CASES["plain"], dataset, checkpoints)
    for name, value in weights_of_one(CASES["plain"], dataset).items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=TOLERANCE)


def complain(error: Exception, group: Group) -> None:
    group.begin_at(0)
    if group.rank:
        raise error
    group.begin_at(1)


@pytest.mark.parametrize("error", [Stopped.at(2, "it was not good enough"), SourceError("nothing is left")])
def test_an_error_stays_what_it_is_from_one_process_to_another(error: SteelyardError) -> None:
    with pytest.raises(type(error)) as told:
        in_two(complain, error)
    assert str(told.value) == str(error)


def begin_apart(group: Group) -> None:
    group.begin_at(group.rank)


def test_processes_that_found_different_checkpoints_do_not_begin() -> None:
    with pytest.raises(SteelyardError, match="found different checkpoints"):
        in_two(begin_apart)


@pytest.mark.parametrize("images", [1, 2, 3, 5, 8, 9, 31, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_image_is_in_one_share_and_none_is_alone(images: int, size: int) -> None:
    shares = [list(range(images))[Group(rank=rank, size=size).share(images)] for rank in range(size)]
    assert [image for share in shares for image in share] == list(range(images))
    lengths = {len(share) for share in shares if share}
    assert images == 1 or (min(lengths) > 1 and max(lengths) - min(lengths) <= 1)
