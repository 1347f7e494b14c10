"""CUDA graphs, of which everything but the capture is tried here: no graph can be captured without a GPU."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steelyard.models.build import Network
from steelyard.models.normalised import Normalised
from steelyard.params import Training
from steelyard.training import graphs
from steelyard.training.graphs import Graphs
from steelyard.training.learner import FEW_STEPS, Learner
from steelyard.training.loss import Loss

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
IMAGES_NHWC = torch.from_numpy(RNG.integers(0, 256, (32, 8, 8, 3), np.uint8))
LABELS_N = torch.from_numpy(RNG.integers(0, 4, 32))

Answer = Callable[[Tensor], Tensor]


class Captured:
    """Stands for what torch captures: notes its calls, and answers as the module or wrongly."""

    def __init__(self, module: nn.Module, wrong: float = 0.0) -> None:
        self.module, self.wrong = module, wrong
        self.shapes: list[torch.Size] = []
        self.full = False
        self.always: Tensor | None = None

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        self.shapes.append(images_NCHW.shape)
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.module(images_NCHW if self.always is None else self.always) * (1 + self.wrong)  # type: ignore[no-any-return]


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Captured]:
    """Those that were captured; each is said to take half of the time."""
    found: list[Captured] = []

    def capture(module: nn.Module, images_NCHW: Tensor) -> Answer:
        module(images_NCHW)  # as warming up does
        found.append(Captured(module))
        return found[-1]

    monkeypatch.setattr(graphs, "_capture", capture)
    monkeypatch.setattr(Graphs, "_seconds", lambda _, answer, __: 0.5 if isinstance(answer, Captured) else 1.0)
    return found


def learner(*, graphed: bool, steps: int = 10, **recipe: object) -> Learner:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 8))
    model = Normalised(Network(body, 8, 4), np.full(3, 0.5), np.full(3, 0.25))
    settings = Training.model_validate({"batch_size": 32, "precision": "float32", **recipe})
    made = Learner(model, settings, Loss(settings, "abcd", CPU), steps, CPU)
    if graphed:
        made._graphs = Graphs(made.model, CPU, wanted=True)
    made.begin(1)
    return made


def weights(made: Learner) -> list[Tensor]:
    return list(made.model.state_dict().values())


def test_a_training_through_a_graph_is_the_one_without(captured: list[Captured]) -> None:
    plain, graphed = learner(graphed=False), learner(graphed=True)
    for step, count in enumerate((32, 32, 32, 17, 32)):
        figures = [one.learn((IMAGES_NHWC[:count], LABELS_N[:count]), step) for one in (plain, graphed)]
        assert torch.equal(*figures)
    assert all(map(torch.equal, weights(plain), weights(graphed)))
    (only,) = captured
    assert {shape[0] for shape in only.shapes} == {32}
    assert len(only.shapes) == 4  # one that is compared, then the second, third and fifth batch


@pytest.mark.parametrize(("wrong", "faster", "used"), [(0.0, True, True), (0.2, True, False), (0.0, False, False)])
def test_a_graph_that_is_wrong_or_no_faster_is_not_used(
    captured: list[Captured], monkeypatch: pytest.MonkeyPatch, wrong: float, faster: bool, used: bool
) -> None:
    capture = graphs._capture

    def wrongly(module: nn.Module, images_NCHW: Tensor) -> Answer:
        graph = capture(module, images_NCHW)
        captured[-1].wrong = wrong
        return graph

    monkeypatch.setattr(graphs, "_capture", wrongly)
    if not faster:
        monkeypatch.setattr(Graphs, "_seconds", lambda *_: 1.0)
    plain, graphed = learner(graphed=False), learner(graphed=True)
    for step in range(4):
        for one in (plain, graphed):
            one.learn((IMAGES_NHWC, LABELS_N), step)
    assert all(map(torch.equal, weights(plain), weights(graphed)))
    assert len(captured) == 1
    assert len(captured[0].shapes) == (4 if used else 1)


def test_what_can_t_be_captured_is_learnt_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(module: nn.Module, images_NCHW: Tensor) -> Answer:
        module(images_NCHW)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "_capture", refuse)
    monkeypatch.setattr(graphs, "_wait", lambda _: None)
    plain, graphed = learner(graphed=False), learner(graphed=True)
    with caplog.at_level("INFO"):
        for step in range(3):
            for one in (plain, graphed):
                one.learn((IMAGES_NHWC, LABELS_N), step)
    assert all(map(torch.equal, weights(plain), weights(graphed)))
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA graph: operation not permitted when stream is capturing"
    ]


def test_gradients_that_are_summed_go_through_no_graph(captured: list[Captured]) -> None:
    graphed = learner(graphed=True)
    graphed.micro_batch = 16
    for step in range(3):
        graphed.learn((IMAGES_NHWC, LABELS_N), step)
    assert captured == []


def test_a_full_device_does_without_the_graph_before_it_takes_fewer_images(captured: list[Captured]) -> None:
    plain, graphed = learner(graphed=False), learner(graphed=True)
    for step in range(4):
        if step == 2:
            captured[0].full = True
        for one in (plain, graphed):
            one.learn((IMAGES_NHWC, LABELS_N), step)
    assert graphed.micro_batch == 33
    assert all(map(torch.equal, weights(plain), weights(graphed)))
    assert len(captured) == 1


def test_a_graph_that_answers_for_other_images_is_not_used(
    captured: list[Captured], monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = graphs._capture

    def stale(module: nn.Module, images_NCHW: Tensor) -> Answer:
        graph = capture(module, images_NCHW)
        captured[-1].always = images_NCHW.clone()
        return graph

    monkeypatch.setattr(graphs, "_capture", stale)
    plain, graphed = learner(graphed=False), learner(graphed=True)
    for step in range(4):
        for one in (plain, graphed):
            one.learn((IMAGES_NHWC, LABELS_N), step)
    assert all(map(torch.equal, weights(plain), weights(graphed)))
    assert len(captured[0].shapes) == 1


def test_where_other_parts_learn_another_graph_is_captured(captured: list[Captured]) -> None:
    graphed = learner(graphed=True, unfreeze={"4": 1, "0": 2})
    for epoch in (1, 1, 2):
        graphed.begin(epoch)
        for step in range(3):
            graphed.learn((IMAGES_NHWC, LABELS_N), step)
    assert len(captured) == 2


def test_a_cpu_has_no_graphs(captured: list[Captured]) -> None:
    plain = learner(graphed=False, steps=FEW_STEPS)
    for step in range(3):
        plain.learn((IMAGES_NHWC, LABELS_N), step)
    assert captured == []
