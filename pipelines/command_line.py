"""steelyard: the command line. Each verb parses its words here and does its work elsewhere."""

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from components.images import RELEASE, Images
from components.runtime import quieten_libraries
from steelyard import __version__
from steelyard.errors import InputError, SteelyardError

WINNER, OTHER, WRONG_INPUT, NOBODY = 0, 1, 2, 3

EXIT_CODES = "exit codes: 0 a winner (or done); 2 wrong input; 3 no eligible candidate; 1 anything else"


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(words)
    quieten_libraries()
    os.environ["PYTHONSAFEPATH"] = "1"  # for processes to come: a folder `steelyard` at hand is not the package
    try:
        return int(options.do(options))
    except KeyboardInterrupt:
        _say("interrupted")
        return OTHER
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OTHER
    except Exception as error:  # the edge: one line for people, the traceback on demand
        if options.debug:
            traceback.print_exc()
        if isinstance(error, OSError) and error.filename:
            error = SteelyardError(f"{error.filename}: {error.strerror}")
        known = isinstance(error, SteelyardError)
        _say(f"error: {error}" if known else f"error: {type(error).__name__}: {error} (--debug shows where)")
        return WRONG_INPUT if isinstance(error, InputError) else OTHER


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="steelyard",
        description="Weigh image models against what a client needs, and serve the one that fits best.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"steelyard {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    preparing = (_add_run, _add_prepare, _add_train)
    choosing = (_add_contract, _add_select, _add_replay, _add_report)
    for add in (*preparing, *choosing, _add_serve, _add_compile, _add_submit, _add_deploy):
        add(verbs)
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, example: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return verb


def _add_run(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "run",
        "Train, compare, select, register and try out, all on this machine.",
        "steelyard run examples/digits --json",
    )
    verb.add_argument("folder", type=Path, help="holds params.yaml and evaluation_metrics.yaml")
    verb.add_argument("--output", type=Path, help="where results go (default: FOLDER/.steelyard)")
    verb.add_argument("--json", action="store_true", help="print one JSON object on stdout; all else goes to stderr")
    verb.set_defaults(do=_run)


def _run(options: argparse.Namespace) -> int:
    from pipelines.contract_check import doubts
    from pipelines.main_job import run_project
    from pipelines.output import claimed
    from pipelines.project import PARAMS_FILE, Project, check_architectures
    from steelyard.tracking.tracking import sqlite_uri

    project = Project.read(options.folder)
    project.check_images()
    check_architectures(project.params, options.folder / PARAMS_FILE)
    output = (options.output or options.folder / ".steelyard").resolve()
    stderr = sys.stderr  # kept: while tasks run, sys.stderr is their log

    def tell(line: str) -> None:
        stderr.write(line + "\n")
        stderr.flush()

    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(output / "mlflow.db")
    for doubt in doubts(project):
        tell(doubt)
    with claimed(output):
        summary = run_project(project, output, tracking_uri, tell)
    text = json.dumps(summary.as_json(), indent=1) if options.json else summary.as_text()
    sys.stdout.write(text + "\n")  # rather than print, which kfp.local replaces with one that indents
    return WINNER if summary.winner else NOBODY


def _add_prepare(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "prepare",
        "Decode labelled images once, split them without leaks, and say what is wrong with them. Goes on where it was "
        "cut off; over a source that has grown, it decodes what is new.",
        "steelyard prepare examples/digits/params.yaml --output build/digits",
    )
    verb.add_argument("params", type=Path, metavar="PARAMS.yaml", help="its `task` and `data` are used")
    verb.add_argument("--output", type=Path, required=True, help="gets dataset.json, the images and card.html")
    verb.add_argument("--workers", type=int, help="processes that decode (default: one for each processor, at most 8)")
    verb.add_argument("--json", action="store_true", help="print one JSON object on stdout; all else goes to stderr")
    verb.set_defaults(do=_prepare)


def _prepare(options: argparse.Namespace) -> int:
    from pipelines.preparation import prepare_file

    prepared = prepare_file(options.params, options.output, options.workers)
    sys.stdout.write(json.dumps(prepared.as_json(), indent=1) + "\n" if options.json else prepared.as_text())
    return WINNER


def _add_contract(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    example = "steelyard contract check examples/digits/evaluation_metrics.yaml --params examples/digits/params.yaml"
    group = _verb(verbs, "contract", "What a client's contract says.", example)
    verb = _verb(
        group.add_subparsers(required=True, metavar="VERB"),
        "check",
        "Explain a contract in words, and say whether the images allow anybody to meet it.",
        example,
    )
    verb.add_argument("file", type=Path, metavar="FILE", help="evaluation_metrics.yaml of the client")
    images = verb.add_mutually_exclusive_group()
    images.add_argument("--params", type=Path, metavar="PARAMS.yaml", help="whose task and images it is held against")
    images.add_argument("--dataset", type=Path, metavar="DIR", help="the same, of what `prepare` wrote")
    verb.set_defaults(do=_contract_check)


def _contract_check(options: argparse.Namespace) -> int:
    from pipelines.contract_check import words

    for part in words(options.file, options.params, options.dataset):
        print(part)
    return WINNER


def _add_train(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "train",
        "Train one candidate on a prepared dataset. Remembered in MLflow where MLFLOW_TRACKING_URI is set.",
        "steelyard train examples/digits/params.yaml --candidate tiny-cnn --data build/digits --output build/tiny-cnn",
    )
    verb.add_argument("params", type=Path, metavar="PARAMS.yaml", help="its `candidates` and `training` are used")
    verb.add_argument("--candidate", required=True, metavar="NAME", help="which of the candidates")
    verb.add_argument("--data", type=Path, required=True, metavar="DATASET", help="what `prepare` wrote")
    verb.add_argument("--output", type=Path, required=True, metavar="DIR", help="gets bundle/, the trained model")
    verb.add_argument("--contract", type=Path, metavar="FILE", help="evaluation_metrics.yaml, for `halving: true`")
    verb.add_argument("--json", action="store_true", help="print one JSON object on stdout; all else goes to stderr")
    verb.set_defaults(do=_train)


def _train(options: argparse.Namespace) -> int:
    from pipelines.training import train_file

    trained = train_file(options.params, options.candidate, options.data, options.output, options.contract)
    sys.stdout.write(json.dumps(trained.as_json(), indent=1) + "\n" if options.json else trained.as_text())
    return WINNER


def _add_select(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "select",
        "Choose among models that were measured before, without training: a new client's answer in seconds.",
        "steelyard select --contract new-client.yaml --output build/new-client --memory examples/digits",
    )
    verb.add_argument(
        "scorecards", type=Path, nargs="*", metavar="SCORECARDS", help="folders of Scorecards (default: the memory)"
    )
    verb.add_argument("--contract", type=Path, required=True, help="evaluation_metrics.yaml of the client")
    verb.add_argument("--output", type=Path, required=True, help="gets selection.json, report.html and the Scorecards")
    verb.add_argument(
        "--memory",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        help="tracking server, or a folder given to `run` or its --output (default: $MLFLOW_TRACKING_URI)",
    )
    verb.add_argument("--field", default="", help="which images, where the memory has models of several data sets")
    verb.add_argument("--seed", type=int, default=0, help="of the resampling (default: %(default)s)")
    verb.add_argument("--json", action="store_true", help="print selection.json on stdout")
    verb.set_defaults(do=_select)


def _select(options: argparse.Namespace) -> int:
    from pipelines.output import SELECTION_HOLDS, log_to_stderr, refuse_foreign_files
    from pipelines.project import read_user_file
    from pipelines.reselection import select_among, select_from_memory
    from steelyard.contract import Contract

    log_to_stderr()
    refuse_foreign_files(options.output, SELECTION_HOLDS)
    contract = Contract.from_yaml(read_user_file(options.contract), str(options.contract))
    if options.scorecards:
        selection = select_among(options.scorecards, contract, options.seed, options.output)
    elif options.memory:
        selection = select_from_memory(options.memory, options.field, contract, options.seed, options.output)
    else:
        raise InputError("say what to choose among: folders of Scorecards, --memory, or MLFLOW_TRACKING_URI")
    _say(f"report: {options.output / 'report.html'}")
    print((options.output / "selection.json").read_text(encoding="utf-8") if options.json else selection.why)
    return WINNER if selection.winner else NOBODY


def _add_replay(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "replay",
        "Decide again from what a selection was decided on, and say whether it comes out the same.",
        "steelyard replay examples/digits/.steelyard/selection",
    )
    verb.add_argument("folder", type=Path, help="what `run` wrote as selection/, or `select` as --output")
    verb.set_defaults(do=_replay)


def _replay(options: argparse.Namespace) -> int:
    from pipelines.output import log_to_stderr
    from steelyard.report.outcome import replay

    log_to_stderr()
    differences = replay(options.folder)
    print("\n".join(differences) or "the same choice, with the same figures")
    return OTHER if differences else WINNER


def _add_report(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "report",
        "Write the report of a selection anew, from its Scorecards.",
        "steelyard report examples/digits/.steelyard/selection",
    )
    verb.add_argument("folder", type=Path, help="what `run` wrote as selection/, or `select` as --output")
    verb.set_defaults(do=_report)


def _report(options: argparse.Namespace) -> int:
    from pipelines.output import log_to_stderr
    from steelyard.report.outcome import renew_report

    log_to_stderr()
    print(renew_report(options.folder))
    return WINNER


def _add_serve(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "serve",
        "Serve the model that `run` selected, with its drift detector, until Ctrl-C.",
        "steelyard serve examples/digits --port 8080",
    )
    verb.add_argument("folder", type=Path, help="the folder given to `run`, or its --output")
    verb.add_argument("--port", type=int, default=8080, help="HTTP port of the predictor (default: %(default)s)")
    verb.add_argument("--grpc-port", type=int, default=8081, help="gRPC port (default: %(default)s)")
    verb.add_argument("--drift-port", type=int, default=9090, help="/report and /metrics (default: %(default)s)")
    verb.set_defaults(do=_serve)


def _serve(options: argparse.Namespace) -> int:
    from pipelines.main_job import serve_until_interrupted

    for stop in (signal.SIGINT, signal.SIGTERM):  # also where the shell that started it ignores Ctrl-C for it
        signal.signal(stop, _stop_once)
    output = options.folder / ".steelyard" if (options.folder / ".steelyard").is_dir() else options.folder
    serve_until_interrupted(output, options.port, options.grpc_port, options.drift_port, _say)
    return WINNER


def _stop_once(_number: int, _frame: object) -> None:
    """Begin the end, and let nothing interrupt it."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    raise KeyboardInterrupt


def _add_compile(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "compile",
        "Compile the pipeline for a Kubeflow Pipelines backend.",
        "steelyard compile --output build/pipelines --image-prefix registry.example.com/ml --image-tag 0.1.0",
    )
    verb.add_argument("--output", type=Path, default=Path("build/pipelines"), help="folder (default: %(default)s)")
    verb.add_argument("--image-prefix", default=RELEASE.prefix, help="registry and path (default: %(default)s)")
    verb.add_argument("--image-tag", default=RELEASE.tag, help="(default: %(default)s)")
    verb.add_argument(
        "--gpus", type=int, choices=range(1, 17), default=1, metavar="N", help="of each training on GPUs (default: 1)"
    )
    verb.set_defaults(do=_compile)


def _compile(options: argparse.Namespace) -> int:
    from pipelines.compile import compile_all

    images = Images(prefix=options.image_prefix, tag=options.image_tag)
    for file in compile_all(options.output, images, options.gpus):
        print(file)
    return WINNER


def _add_submit(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "submit",
        "Check both files and send a compiled pipeline with them to a Kubeflow Pipelines backend.",
        "steelyard submit examples/digits --endpoint http://localhost:8888 --wait",
    )
    verb.add_argument("folder", type=Path, help="holds params.yaml and evaluation_metrics.yaml")
    verb.add_argument("--endpoint", help="of the KFP API (default: $KFP_ENDPOINT)")
    verb.add_argument("--pipeline", type=Path, help="compiled YAML (default: the release's, for CPU nodes)")
    verb.add_argument(
        "--data", default="", help="s3:// address of the images, in place of data.source (data.root for named sets)"
    )
    verb.add_argument("--no-deploy", action="store_true", help="stop after registration")
    verb.add_argument("--wait", action="store_true", help="follow it to its end, and say why a task failed")
    verb.add_argument("--namespace", default="kubeflow", help="of the run's pods (default: %(default)s)")
    verb.set_defaults(do=_submit)


def _submit(options: argparse.Namespace) -> int:
    from pipelines.project import Project
    from pipelines.submit import check_source, connect_to_kfp, follow, submit

    project = Project.read(options.folder)
    check_source(options.data or project.source)
    endpoint = options.endpoint or os.environ.get("KFP_ENDPOINT")
    if not endpoint:
        raise InputError("say where the KFP API is: --endpoint URL, or KFP_ENDPOINT")
    client = connect_to_kfp(endpoint)
    run_id = submit(client, project, pipeline=options.pipeline, data=options.data, deploy=not options.no_deploy)
    _say(f"run {run_id} created")
    if options.wait:
        return WINNER if follow(client, run_id, options.namespace, _say) else NOBODY
    return WINNER


def _add_deploy(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "deploy",
        "Put a registered model into service on the cluster of your kubeconfig, tried before it replaces another.",
        "MLFLOW_TRACKING_URI=http://localhost:5000 steelyard deploy acme --version 3 --image-tag 0.1.0",
    )
    verb.add_argument("client", help="whose model")
    verb.add_argument("--version", type=int, help="of the registered model (default: the challenger)")
    verb.add_argument("--namespace", default="steelyard", help="of the InferenceService (default: %(default)s)")
    verb.add_argument("--replicas", type=int, default=0, help="how many pods serve at least (default: as now, or 1)")
    verb.add_argument("--image-prefix", default=RELEASE.prefix, help="registry and path (default: %(default)s)")
    verb.add_argument("--image-tag", required=True, help="of the predictor and the drift detector")
    verb.add_argument("--timeout", type=float, default=600, help="seconds until ready (default: %(default)s)")
    verb.set_defaults(do=_deploy)


def _deploy(options: argparse.Namespace) -> int:
    from pipelines.deployment import deploy_registered

    images = Images(prefix=options.image_prefix, tag=options.image_tag)
    where = (options.client, options.version, options.namespace, options.replicas)
    print(deploy_registered(*where, images, options.timeout, _say))
    return WINNER


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
