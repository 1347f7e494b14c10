"""python -m serving.predictor: answer images with a ModelBundle."""

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path

from steelyard.bundle import ModelBundle
from steelyard.drift.profile import ARRAYS_FILE, INDEX_FILE
from steelyard.errors import SteelyardError

log = logging.getLogger("serving.predictor")


def main() -> int:
    """Check the bundle, then serve it."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        bundle = ModelBundle(arguments.model_dir)
        bundle.verify()
    except SteelyardError as error:
        log.error("%s", error)
        return 2
    _serve(bundle, arguments)
    return 0


def _serve(bundle: ModelBundle, arguments: argparse.Namespace) -> None:
    from serving.predictor.model import ImageModel
    from serving.predictor.server import Options, Server
    from serving.predictor.tap import Tap

    tap = None
    if arguments.drift_socket:
        _publish_profile(bundle.folder, Path(arguments.drift_socket).parent)
        tap = Tap(Path(arguments.drift_socket), bundle, arguments.drift_rate)
    model = ImageModel(arguments.name, bundle, tap=tap, max_images=arguments.max_images)
    options = Options(
        host=arguments.host,
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port,
        max_body=int(arguments.max_body_mib * 2**20),
        drain_s=arguments.drain_s,
    )
    server = Server(model, options)
    model.warm_up()
    server.run()
    if tap is not None:
        tap.close()


def _publish_profile(bundle: Path, shared: Path) -> None:
    """Copy the reference profile to where the socket is: KServe fills /mnt/models for this container only."""
    if not (bundle / INDEX_FILE).exists() or shared == bundle:
        return
    try:
        for name in (ARRAYS_FILE, INDEX_FILE):  # the index last: it is what the detector looks for
            partial = shared / f".{name}.partial"
            shutil.copyfile(bundle / name, partial)
            partial.replace(shared / name)
    except OSError as error:
        log.warning("the drift detector gets no reference profile: %s", error)


def _arguments() -> argparse.Namespace:
    env = os.environ
    parser = argparse.ArgumentParser(prog="python -m serving.predictor", description=__doc__)
    parser.add_argument("--model-dir", type=Path, default=env.get("MODEL_DIR", "/mnt/models"), help="a ModelBundle")
    parser.add_argument("--name", default=env.get("MODEL_NAME", "model"), help="of the model, in the addresses")
    parser.add_argument("--host", default="0.0.0.0", help="of HTTP and gRPC (default: every address)")
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--grpc-port", type=int, default=8081, help="0 for no gRPC")
    parser.add_argument("--max-body-mib", type=float, default=32, help="larger requests get 413")
    parser.add_argument("--max-images", type=int, default=256, help="of one request")
    parser.add_argument("--drift-socket", default=env.get("DRIFT_SOCKET", "/run/drift/drift.sock"), help="'' for none")
    parser.add_argument("--drift-rate", type=float, default=1.0, help="the share of images that the detector sees")
    parser.add_argument("--drain-s", type=float, default=4, help="how long to answer on after SIGTERM, not ready")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
