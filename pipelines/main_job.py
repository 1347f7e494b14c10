"""The main job on this machine: pipeline, then the winner served and put to the test; and `serve` afterwards."""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.local import Outcome, run_locally
from pipelines.pod import free_port, serving_pod
from pipelines.project import Project
from pipelines.rehearsal import Rehearsal, drift_state, rehearse
from steelyard.bundle import ModelBundle
from steelyard.errors import InputError
from steelyard.evaluation.scorecard import Scorecard
from steelyard.selection.select import read_scorecards
from steelyard.selection.selection import Selection
from steelyard.tracking.memory import field_of

SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What `steelyard run` answers."""

    winner: str | None
    utility: float | None
    why: str
    report: str
    card: str
    trainings: str
    trained: list[str]
    remembered: list[str]
    failed: list[str]
    stopped: dict[str, dict[str, object]] | None  # by candidate: rung and reason
    rehearsal: Rehearsal | None
    seconds: dict[str, float]
    next_steps: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        content = asdict(self)
        seen = content.pop("rehearsal") or {}
        for name in ("offline_accuracy", "http_accuracy", "clean_alarms", "images_to_alarm"):
            content[name] = seen.get(name)
        del content["next_steps"]
        return content

    def as_text(self) -> str:
        """Return the summary for people."""
        lines = ["", self.why]
        told = {"trained": self.trained, "remembered": self.remembered, "failed": self.failed}
        for label, names in (told | {"stopped": list(self.stopped or ())}).items():
            lines += [f"  {label:<12}{', '.join(names)}"] if names else []
        if seen := self.rehearsal:
            alarm = f"after {seen.images_to_alarm} images" if seen.images_to_alarm else "did not come"
            lines += [
                f"  {'over HTTP':<12}accuracy {seen.http_accuracy:.4f} on {seen.images} test images; "
                f"offline {seen.offline_accuracy:.4f}",
                f"  {'drift':<12}alarms on clean images: {seen.clean_alarms}; on corrupted ones the alarm {alarm}",
            ]
        lines += [f"  {'took':<12}{self.seconds['total']:.0f} s", f"  {'report':<12}{self.report}"]
        lines += [f"  {'data card':<12}{self.card}", f"  {'trainings':<12}{self.trainings}", "", "Go on with:"]
        return "\n".join([*lines, *(f"  {step}" for step in self.next_steps)])


def run_project(project: Project, output: Path, tracking_uri: str, tell: Callable[[str], None]) -> Summary:
    """Do the main job and say what came of it."""
    started = time.monotonic()
    outcome = run_locally(project, output, tracking_uri, tell)
    selection = outcome.selection
    trained = time.monotonic()
    rehearsal = _rehearse(outcome, output, selection.client, tell)
    seconds = outcome.seconds | ({"serve": round(time.monotonic() - trained, 1)} if rehearsal else {})
    scorecards = read_scorecards([outcome.selection_folder])
    cards = [scorecard.index for scorecard in scorecards]
    return Summary(
        winner=selection.winner,
        utility=selection.utility,
        why=selection.why,
        report=str(outcome.selection_folder / "report.html"),
        card=str(outcome.dataset.card),
        trainings=str(output / "trainings"),
        trained=[card.candidate for card in cards if not card.remembered and not card.failure],
        remembered=[card.candidate for card in cards if card.remembered],
        failed=[card.candidate for card in cards if card.failure and not card.stopped],
        stopped={card.candidate: card.stopped.model_dump() for card in cards if card.stopped} or None,
        rehearsal=rehearsal,
        seconds=seconds | {"total": round(time.monotonic() - started, 1)},
        next_steps=_next_steps(project, output, selection, scorecards),
    )


def serve_until_interrupted(
    output: Path, http_port: int, grpc_port: int, drift_port: int, tell: Callable[[str], None]
) -> None:
    """Serve the model that was selected into `output`.

    Raises:
        InputError: there is none.
    """
    if not output.is_dir():
        raise InputError(f"{output}: there is no such folder")
    if not (output / "model").is_dir():
        raise InputError(f"{output}: holds no selected model; run `steelyard run` first")
    selection = Selection.read(output / "selection" / "selection.json")
    if ModelBundle(output / "model").index.candidate != selection.winner:
        raise InputError(f"{output}: model/ is not the winner of selection/; run `steelyard run` again")
    name = selection.client
    with serving_pod(output / "model", name, http_port, grpc_port, drift_port, output / "serve.log") as pod:
        tell(f"model    {pod.predictor_url}/v1/models/{name}:predict and {pod.predictor_url}/v2/models/{name}/infer")
        tell(f"gRPC     127.0.0.1:{grpc_port}")
        tell(f"drift    {pod.detector_url}/report and {pod.detector_url}/metrics")
        tell(f"log      {output / 'serve.log'}")
        tell("Ctrl-C ends it")
        state = "OK"
        try:
            while True:
                pod.check()
                if (now := drift_state(pod)) != state:
                    state = now
                    tell(f"drift    is {state} now")
                time.sleep(SECONDS_BETWEEN_LOOKS)
        except KeyboardInterrupt:
            tell("ending")


def _next_steps(project: Project, output: Path, selection: Selection, cards: Sequence[Scorecard]) -> tuple[str, ...]:
    folder, quoted = shlex.quote(str(project.folder)), shlex.quote(str(output))
    winner = (
        (f"steelyard serve {quoted}", f"steelyard submit {folder} --endpoint URL --wait") if selection.winner else ()
    )
    measured = [card for card in cards if not card.index.failure]
    field = f" --field {field_of(measured[0])[:12]}" if measured else ""
    return (*winner, f"steelyard select --contract OTHER_CLIENT.yaml --output OTHER --memory {quoted}{field}")


def _rehearse(outcome: Outcome, output: Path, client: str, tell: Callable[[str], None]) -> Rehearsal | None:
    if outcome.model is None:
        return None
    tell("serving the winner with its drift detector")
    with serving_pod(outcome.model.folder, client, free_port(), free_port(), free_port(), output / "serve.log") as pod:
        return rehearse(pod, outcome.model, outcome.dataset, tell)
