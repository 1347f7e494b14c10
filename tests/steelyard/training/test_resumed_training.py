"""A training that is killed goes on where it was and ends with the same bits."""

import multiprocessing.process
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from steelyard import store as storage
from steelyard.bundle import Epoch
from steelyard.data.dataset import Dataset
from steelyard.data.prepare import prepare
from steelyard.errors import StoreError
from steelyard.params import Candidate, Params
from steelyard.store import ObjectStore
from steelyard.training import checkpoint
from steelyard.training import train as training
from steelyard.training.checkpoint import CheckpointIndex, Checkpoints
from steelyard.training.live import Live
from tests.processes import processes
from tests.s3_server import BUCKET, S3Server

# Everything random is on: order, crop, flip, colour, cutout, mixing, dropout; and what has a memory of its own.
ROUGH = Candidate.model_validate(
    {
        "name": "rough",
        "layers": [{"conv": 8}, {"batch_norm": True}, {"dropout": 0.3}, {"pool": 2}, {"flatten": True}, {"dense": 32}],
        "training": {
            "epochs": 18,
            "batch_size": 32,
            "learning_rate": 0.01,
            "schedule": "cosine",
            "warmup_epochs": 1,
            "label_smoothing": 0.1,
            "ema": 0.99,
            "augment": {"crop": 1, "flip": True, "colour": 0.2, "cutout": 2, "mixup": 0.2, "cutmix": 1.0},
        },
    }
)
NOUGHT = dict.fromkeys(("batches", "images", "loss", "hits", "counted", "weight", "learning_seconds"), 0)
INDEX = CheckpointIndex.model_validate({"step": 1, "history": (), "micro_batch": 1, **NOUGHT})


def work(dataset: Path, checkpoints: Path, weights: Path) -> None:
    """Train with checkpoints that come often and take long enough to be hit."""

    def slowly(tensors: dict[str, torch.Tensor], file: Path) -> None:
        save_file(tensors, file)
        time.sleep(0.02)

    torch.set_num_threads(1)
    training.SECONDS_BETWEEN_CHECKPOINTS = 0.1
    checkpoint.save_file = slowly
    trained = training.train(ROUGH, Dataset(dataset), lambda epoch: None, Checkpoints(str(checkpoints)))
    save_file(trained.model.state_dict(), weights)


def started(*places: Path) -> "multiprocessing.process.BaseProcess":
    process = processes.Process(target=work, args=places)
    process.start()
    return process


def kill_somewhere(process: "multiprocessing.process.BaseProcess", checkpoints: Path, draw: random.Random) -> None:
    """Kill it a few checkpoints later: inside an epoch, or while the next checkpoint is written."""
    for _ in range(draw.randint(1, 2)):
        before = last(checkpoints)
        while last(checkpoints) == before and process.is_alive():
            time.sleep(0.002)
    if draw.random() < 0.5:
        time.sleep(draw.uniform(0, 0.05))
    else:
        while not is_writing(checkpoints) and process.is_alive():
            time.sleep(0.002)
    os.kill(int(process.pid or 0), signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def is_writing(checkpoints: Path) -> bool:
    """Asks `os.walk`, which passes over a folder that vanishes meanwhile; `Path.glob` fails."""
    return any(files for folder, _, files in os.walk(checkpoints) if ".partial-" in folder)


def last(checkpoints: Path) -> str:
    return max((file.name for file in checkpoints.glob("*.json")), default="")


@pytest.mark.parametrize("layout", ["arrays", "shards"])
def test_five_kills_change_no_bit(params: Params, tmp_path: Path, layout: str) -> None:
    prepare(params.data.model_copy(update={"layout": layout}), params.task, tmp_path / "data")
    unbroken = started(tmp_path / "data", tmp_path / "unbroken", tmp_path / "unbroken.safetensors")
    draw = random.Random(layout)
    for _ in range(5):
        kill_somewhere(
            started(tmp_path / "data", tmp_path / "broken", tmp_path / "broken.safetensors"), tmp_path / "broken", draw
        )
    final = started(tmp_path / "data", tmp_path / "broken", tmp_path / "broken.safetensors")
    for process in (unbroken, final):
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "broken.safetensors").read_bytes() == (tmp_path / "unbroken.safetensors").read_bytes()
    assert len(list((tmp_path / "broken").glob("*.json"))) == 2


def shorter(candidate: Candidate, epochs: int) -> Candidate:
    return candidate.model_copy(update={"training": candidate.training.model_copy(update={"epochs": epochs})})


class Enough(Exception):
    """Raised by an observer that ends a training."""


def cut_off(candidate: Candidate, dataset: Dataset, checkpoints: Checkpoints, after: int) -> None:
    def observe(epoch: Epoch) -> None:
        if isinstance(epoch, Epoch) and epoch.epoch == after:
            raise Enough

    with pytest.raises(Enough):
        training.train(candidate, dataset, observe, checkpoints)


def test_through_an_object_store_it_goes_on_as_well(dataset: Dataset, store: ObjectStore) -> None:
    address, short = f"{BUCKET}/checkpoints/resumed", shorter(ROUGH, epochs=5)
    cut_off(short, dataset, Checkpoints(address, store), after=3)
    seen: list[Epoch | Live] = []
    resumed = training.train(short, dataset, seen.append, Checkpoints(address, store))
    assert [epoch.epoch for epoch in seen if isinstance(epoch, Epoch)] == [1, 2, 3, 4, 5]
    assert resumed.resumed_from_step == 3 * (dataset.index.images["train"] // 32)
    unbroken = training.train(short, dataset, lambda epoch: None)
    for name, value in unbroken.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    Checkpoints(address, store).clear()
    assert list(store.walk(address)) == []


def test_a_damaged_checkpoint_gives_way_to_the_one_before(dataset: Dataset, tmp_path: Path) -> None:
    cut_off(ROUGH, dataset, Checkpoints(str(tmp_path)), after=3)
    before, damaged = sorted(tmp_path.glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    found = Checkpoints(str(tmp_path)).latest()
    assert found is not None
    assert f"{found[0].step:010d}" == before.stem


def test_a_disk_that_takes_no_more_ends_the_training_in_one_sentence(dataset: Dataset, tmp_path: Path) -> None:
    Checkpoints(str(tmp_path)).save(INDEX, {"x": torch.zeros(2)})
    (tmp_path / "0000000002.safetensors").mkdir()  # in whose place no file can be put
    with pytest.raises(StoreError, match="a checkpoint can't be written"):
        Checkpoints(str(tmp_path)).save(INDEX.model_copy(update={"step": 2}), {"x": torch.ones(2)})
    found = Checkpoints(str(tmp_path)).latest()
    assert found is not None
    assert found[0].step == 1
    assert torch.equal(found[1]["x"], torch.zeros(2))


def test_a_disk_that_can_t_be_read_now_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> None:
        raise OSError(5, "Input/output error")

    place = Checkpoints(str(tmp_path))
    place.save(INDEX, {"x": torch.zeros(2)})
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "load_file", broken)
        with pytest.raises(StoreError, match="checkpoint 0000000001 can't be read"):
            place.latest()
    assert place.latest() is not None
    (tmp_path / "0000000001.safetensors").write_bytes(b"")
    assert place.latest() is None


def test_a_checkpoint_behind_one_that_can_t_be_read_is_kept(tmp_path: Path) -> None:
    place = Checkpoints(str(tmp_path))
    for step in (50, 51):
        place.save(INDEX.model_copy(update={"step": step}), {"x": torch.zeros(2)})
        (tmp_path / f"{step:010d}.safetensors").write_bytes(b"torn")
    assert place.latest() is None
    for step in (6, 12):
        place.save(INDEX.model_copy(update={"step": step}), {"x": torch.full((2,), float(step))})
    found = place.latest()
    assert found is not None
    assert found[0].step == 12
    assert sorted(file.name for file in tmp_path.glob("*.json")) == ["0000000006.json", "0000000012.json"]


def test_an_object_store_that_comes_back_is_waited_for_and_one_that_does_not_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SECONDS_BETWEEN_TRIES", 0.1)
    server = S3Server(tmp_path / "s3")
    place = Checkpoints(f"{BUCKET}/away", server.store)
    with ThreadPoolExecutor() as pool:
        saving = pool.submit(place.save, INDEX, {"x": torch.ones(2)})
        assert not wait([saving], timeout=1).done
        server.start()
        saving.result()
    server.stop()
    monkeypatch.setattr(storage, "PATIENCE_S", 0.5)
    with pytest.raises(StoreError, match="gave up after"):
        place.save(INDEX.model_copy(update={"step": 2}), {"x": torch.zeros(2)})
    server.start()
    found = place.latest()
    server.stop()
    assert found is not None
    assert found[0].step == 1
    assert torch.equal(found[1]["x"], torch.ones(2))
