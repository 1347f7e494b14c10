"""The flags; supervisor and worker read the same."""

import argparse
import os
from pathlib import Path


def parse() -> argparse.Namespace:
    """Read the command line; what it leaves out comes from the environment."""
    env = os.environ
    parser = argparse.ArgumentParser(prog="python -m serving.drift_detector", description="Watch a predictor.")
    parser.add_argument("--socket", type=Path, default=env.get("DRIFT_SOCKET", "/run/drift/drift.sock"))
    parser.add_argument("--model-dir", type=Path, help="holds the reference profile; default: the socket's folder")
    parser.add_argument("--host", default="0.0.0.0", help="of the pages")
    parser.add_argument("--http-port", type=int, default=9090)
    parser.add_argument("--snapshot", default=None, help="'' for none; default: drift.snapshot beside the socket")
    parser.add_argument("--memory-mib", type=int, default=256, help="of the worker's data; 0 for no bound")
    options = parser.parse_args()
    options.model_dir = options.model_dir or Path(env.get("MODEL_DIR", options.socket.parent))
    if options.snapshot is None:
        options.snapshot = options.socket.with_name("drift.snapshot")
    return options
