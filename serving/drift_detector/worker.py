"""The supervised process: takes samples from the socket, judges them, and tells over HTTP."""

import argparse
import asyncio
import logging
import mmap
import os
import resource
import signal
from pathlib import Path

from serving.drift_detector import options, pages
from serving.drift_detector.watch import Watch
from steelyard.drift.wire import Decoder, WireError

SNAPSHOT_S = 30
READ_BYTES = 2**16
RESERVE_BYTES = 2**24  # twice a thread's stack

log = logging.getLogger("serving.drift_detector")


def main() -> None:
    """Watch until SIGTERM."""
    arguments = options.parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if arguments.memory_mib:
        resource.setrlimit(resource.RLIMIT_DATA, (arguments.memory_mib * 2**20,) * 2)
    watch = Watch(arguments.model_dir, Path(arguments.snapshot) if arguments.snapshot else None)
    pages.serve(watch, arguments.host, arguments.http_port)
    asyncio.run(_work(watch, arguments))
    watch.write_snapshot()


async def _work(watch: Watch, arguments: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    arguments.socket.parent.mkdir(parents=True, exist_ok=True)
    # asyncio removes a socket that an earlier process left behind.
    await asyncio.start_unix_server(lambda reader, writer: _take(watch, reader, writer), arguments.socket)
    log.info("listening at %s", arguments.socket)
    seconds = 0
    while not stopping.is_set():
        _end_if_memory_is_short()
        watch.look_for_profile()
        seconds += 1
        if seconds % SNAPSHOT_S == 0:
            watch.write_snapshot()
        try:
            await asyncio.wait_for(stopping.wait(), 1)
        except TimeoutError:
            continue


def _end_if_memory_is_short() -> None:
    """Make way for another worker: where a thread's stack can't be had, pages go unanswered without a word."""
    try:
        mmap.mmap(-1, RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        log.error("less than %d MiB of memory are left: ending", RESERVE_BYTES // 2**20)
        os._exit(1)


async def _take(watch: Watch, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take one predictor's samples until it is gone or talks nonsense."""
    decoder = Decoder()
    try:
        while data := await reader.read(READ_BYTES):
            for samples in decoder.feed(data):
                watch.take(samples)
    except WireError as error:
        watch.complain(str(error))
    finally:
        writer.close()


if __name__ == "__main__":
    main()
