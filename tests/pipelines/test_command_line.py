"""The commands as a user calls them."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3

from pipelines.command_line import main
from pipelines.output import claimed
from pipelines.pod import free_port, serving_pod
from steelyard.bundle import ModelBundle
from steelyard.errors import InputError, SteelyardError
from tests.conftest import SMALL_CONTRACT, SMALL_PARAMS

FAILING = """
  reckless: {layers: [{flatten: true}, {dense: 32}], training: {learning_rate: 1.0e+30}}
"""


def _steelyard(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipelines", *map(str, words)]
    environ = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text(SMALL_PARAMS + FAILING.lstrip("\n"))
    (folder / "evaluation_metrics.yaml").write_text(SMALL_CONTRACT)
    (folder / ".steelyard").mkdir()
    shutil.copyfile(migrated_database, folder / ".steelyard" / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def first_run(project: Path) -> "subprocess.CompletedProcess[str]":
    return _steelyard("run", project, "--json")


def test_run_does_the_main_job_and_prints_one_json_object(
    project: Path, first_run: "subprocess.CompletedProcess[str]"
) -> None:
    assert first_run.returncode == 0, first_run.stderr
    answer = json.loads(first_run.stdout)
    assert answer["winner"] in ("one-layer", "small-cnn")
    assert answer["winner"] in answer["why"]
    assert sorted(answer["trained"]) == ["one-layer", "small-cnn"]
    assert (answer["remembered"], answer["failed"], answer["stopped"]) == ([], ["reckless"], None)
    assert 0 < answer["utility"] <= 1
    assert answer["http_accuracy"] == answer["offline_accuracy"] > 0.7
    assert answer["clean_alarms"] == 0
    assert 0 < answer["images_to_alarm"] <= 450
    assert {"prepare_data", "train_candidate", "measure_latency", "select_model", "serve"} <= answer["seconds"].keys()
    report = Path(answer["report"]).read_text()
    assert "the loss became" in report
    pages = {page.name: page.read_text() for page in Path(answer["trainings"]).iterdir()}
    assert pages.keys() == {"one-layer.html", "small-cnn.html", "reckless.html"}
    assert ["the loss became" in pages[name] for name in sorted(pages)] == [False, True, False]
    assert "epoch 2 of 2" in first_run.stderr, "progress is visible"


def test_another_client_is_answered_from_the_scorecards_alone(
    project: Path, first_run: "subprocess.CompletedProcess[str]", tmp_path: Path
) -> None:
    assert first_run.returncode == 0
    contract = tmp_path / "other.yaml"
    contract.write_text("client: other\nmetrics: {parameters: {weight: 1, worst: 1000000, ideal: 100}}")
    cards = sorted((project / ".steelyard" / "selection" / "scorecards").iterdir())
    answer = _steelyard("select", "--contract", contract, "--output", tmp_path / "out", "--json", *cards)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["winner"] == "small-cnn"
    (tmp_path / "out" / "report.html").unlink()
    assert _steelyard("report", tmp_path / "out").returncode == 0
    assert "small-cnn" in (tmp_path / "out" / "report.html").read_text()


def test_another_client_is_answered_from_memory_and_the_answer_can_be_replayed(
    project: Path, first_run: "subprocess.CompletedProcess[str]", tmp_path: Path
) -> None:
    assert first_run.returncode == 0
    contract = tmp_path / "other.yaml"
    contract.write_text(
        "client: other\nprice_per_hour: 0.5\n"
        "metrics: {accuracy: {weight: 1, worst: 0, ideal: 1}, images_per_dollar: {weight: 1, worst: 1, ideal: 1.0e+12}}"
    )
    out = tmp_path / "out"
    answer = _steelyard("select", "--contract", contract, "--output", out, "--json", "--memory", project)
    assert answer.returncode == 0, answer.stderr
    selection = json.loads(answer.stdout)
    assert {one["candidate"] for one in selection["ranking"]} == {"one-layer", "small-cnn"}
    assert all(one["cost"]["dollars_per_million"] > 0 for one in selection["ranking"])
    contract.write_text(contract.read_text() + "\nhardware_class: an abacus")
    refused = _steelyard("select", "--contract", contract, "--output", out, "--memory", project)
    assert refused.returncode == 2
    assert "was timed on 'an abacus'; name one of these" in refused.stderr
    assert selection["hardware_class"] in refused.stderr
    replayed = _steelyard("replay", out)
    assert (replayed.returncode, replayed.stdout) == (0, "the same choice, with the same figures\n")
    (out / "selection.json").write_text(json.dumps(selection | {"winner": "somebody"}))
    replayed = _steelyard("replay", out)
    assert replayed.returncode == 1
    assert "winner: 'somebody' before" in replayed.stdout


def test_select_without_anything_to_choose_among_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "contract.yaml").write_text(SMALL_CONTRACT)
    words = ("select", "--contract", tmp_path / "contract.yaml", "--output", tmp_path / "out")
    ended = _steelyard(*words)
    assert ended.returncode == 2
    assert "--memory" in ended.stderr
    ended = _steelyard(*words, "--memory", tmp_path)
    assert ended.returncode == 2
    assert "holds no mlflow.db" in ended.stderr


def test_serve_answers_until_it_is_interrupted(project: Path, first_run: "subprocess.CompletedProcess[str]") -> None:
    assert first_run.returncode == 0
    ports = {name: free_port() for name in ("--port", "--grpc-port", "--drift-port")}
    words = [word for name, port in ports.items() for word in (name, str(port))]
    command = [sys.executable, "-m", "pipelines", "serve", str(project), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stderr is not None
            said = [next(serving.stderr) for _ in range(5)]
            assert f"http://127.0.0.1:{ports['--port']}/v1/models/acme:predict" in said[0]
            assert said[1].endswith(f"127.0.0.1:{ports['--grpc-port']}\n")
            assert listening(ports["--grpc-port"]) == {"127.0.0.1"}
            ready = urllib3.request("GET", f"http://127.0.0.1:{ports['--port']}/v2/models/acme/ready")
            report = urllib3.request("GET", f"http://127.0.0.1:{ports['--drift-port']}/report").json()
            assert (ready.status, report["state"], report["samples"]) == (200, "OK", 0)
            shape = ModelBundle(project / ".steelyard" / "model").index.input_shape
            noise = {
                "name": "images",
                "datatype": "UINT8",
                "shape": [200, *shape],
                "data": [0, 255] * (100 * math.prod(shape)),
            }
            infer = f"http://127.0.0.1:{ports['--port']}/v2/models/acme/infer"
            assert urllib3.request("POST", infer, json={"inputs": [noise]}).status == 200
            assert any(line == "drift    is DRIFT now\n" for line in serving.stderr)
        finally:
            serving.send_signal(signal.SIGTERM)
        assert serving.wait(20) == 0
    with pytest.raises(urllib3.exceptions.HTTPError):
        urllib3.request("GET", f"http://127.0.0.1:{ports['--port']}/", retries=False)


def test_a_second_run_trains_nothing_and_nobody_eligible_is_exit_code_3_with_report_and_json(
    project: Path, first_run: "subprocess.CompletedProcess[str]"
) -> None:
    assert first_run.returncode == 0
    (project / "evaluation_metrics.yaml").write_text(SMALL_CONTRACT.replace(">= 0.6", ">= 0.9999"))
    ended = _steelyard("run", project, "--json")
    assert ended.returncode == 3, ended.stderr
    answer = json.loads(ended.stdout)
    assert (answer["trained"], sorted(answer["remembered"])) == ([], ["one-layer", "small-cnn"])
    assert (answer["winner"], answer["utility"], answer["http_accuracy"]) == (None, None, None)
    assert "warning: accuracy must be >= 0.9999" in ended.stderr
    assert "Nobody is eligible" in Path(answer["report"]).read_text()
    assert not (project / ".steelyard" / "model").exists()


def listening(port: int) -> set[str]:
    """Return the addresses at which somebody listens on a port; "::" for all of IPv6."""
    found = set()
    for family, file in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path("/proc/net", file).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, its_port = local.partition(":")
            if state == "0A" and int(its_port, 16) == port:
                words = [int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8)]
                found.add(socket.inet_ntop(family, b"".join(words)).removeprefix("::ffff:"))
    return found


def _edit(file: str, wrong: str, right: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / file).read_text()
        assert wrong in text
        (folder / file).write_text(text.replace(wrong, right))

    return edit


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: (folder / "params.yaml").unlink(), r"params.yaml: there is no such file"),
        (lambda folder: (folder / "params.yaml").write_bytes(b"\xff\xfe\x00"), "params.yaml: is not UTF-8 text"),
        (lambda folder: (folder / "params.yaml").write_text("- a"), "params.yaml: must be a mapping"),
        (_edit("params.yaml", "image_size", "imagesize"), "params.yaml: data.imagesize: unknown key; did you mean"),
        (_edit("params.yaml", "{pool: 2}", "{pool: 20}"), "candidates.small-cnn.layers.1 (pool): cannot pool"),
        (_edit("params.yaml", "source: digits", "source: ./nowhere"), "data.source: "),
        (
            _edit("params.yaml", "candidates:", "candidates:\n  big: {arch: resnet19}"),
            "big.arch: torchvision has no model",
        ),
        (_edit("evaluation_metrics.yaml", "accuracy", "acuracy"), "metrics.acuracy: unknown metric; did you mean"),
        (_edit("evaluation_metrics.yaml", "client: acme", "client: ACME Ltd"), "client: must be a DNS label"),
        (_edit("evaluation_metrics.yaml", "accuracy:", "recall[eleven]:"), "recall[eleven]"),
        (_edit("evaluation_metrics.yaml", "accuracy:", "mean_iou:"), "mean_iou: is a metric of segmentation"),
        (_edit("evaluation_metrics.yaml", "accuracy:", "top_10_accuracy:"), "top_10_accuracy: is always 1"),
    ],
)
def test_wrong_input_is_one_line_on_stderr_and_exit_code_2(
    tmp_path: Path, damage: Callable[[Path], None], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(SMALL_PARAMS)
    (tmp_path / "evaluation_metrics.yaml").write_text(SMALL_CONTRACT)
    damage(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", str(tmp_path), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert complaint in captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_debug_adds_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["run", "contract", "compile", "submit", "select", "serve", "report"])
def test_every_verb_teaches_by_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"steelyard {verb}" in text.partition("example:")[2]


def test_a_source_on_this_machine_is_not_submitted_to_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(SMALL_PARAMS.replace("source: digits", "source: ."))
    (tmp_path / "evaluation_metrics.yaml").write_text(SMALL_CONTRACT)
    assert main(["submit", str(tmp_path), "--endpoint", "http://127.0.0.1:1"]) == 2
    assert "lies on this machine" in capsys.readouterr().err


def test_select_never_replaces_a_folder_that_holds_other_files(
    project: Path, first_run: "subprocess.CompletedProcess[str]", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert first_run.returncode == 0
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    cards = [str(card) for card in (project / ".steelyard" / "selection" / "scorecards").iterdir()]
    words = [
        "select",
        "--contract",
        str(project / "evaluation_metrics.yaml"),
        "--output",
        str(tmp_path / "out"),
        *cards,
    ]
    assert main(words) == 2
    assert "holds other files (thesis.txt)" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_an_output_folder_is_held_by_one_run_at_a_time_and_never_somebody_else_s(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "new"),
        pytest.raises(SteelyardError, match="another run is at work"),
        claimed(tmp_path / "new"),
    ):
        pass
    with claimed(tmp_path / "new"):
        pass
    (tmp_path / "theirs" / "model").mkdir(parents=True)
    with pytest.raises(InputError, match="holds 'model', which no run of steelyard made"), claimed(tmp_path / "theirs"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't be written"), claimed(tmp_path / "file"):
        pass


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        pod = serving_pod(tmp_path, "acme", port, free_port(), free_port(), tmp_path / "log")
        with pytest.raises(InputError, match=f"port {port} is taken"), pod:
            pass


def test_a_folder_that_is_named_like_the_package_hides_it_from_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "steelyard").mkdir()
    (tmp_path / "contract.yaml").write_text(SMALL_CONTRACT)
    assert main(["contract", "check", str(tmp_path / "contract.yaml")]) == 0
    program = "import steelyard; print(steelyard.__version__)"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
