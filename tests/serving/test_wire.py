"""The bytes between predictor and drift detector survive any cutting, and nonsense is refused."""

import struct

import numpy as np
import pytest

from steelyard.drift.samples import Samples
from steelyard.drift.wire import MAX_ROWS, Decoder, Layout, WireError, frame, rows

LAYOUT = Layout(classes=3, embedding=5)


def samples(count: int) -> Samples:
    rng = np.random.default_rng(count)
    return Samples(*(rng.random((count, width), np.float32) for width in LAYOUT))


@pytest.mark.parametrize("piece", [1, 7, 100, 10_000])
def test_samples_arrive_as_they_were_sent(piece: int) -> None:
    sent = [samples(1), samples(40), samples(3)]
    stream = LAYOUT.handshake() + b"".join(frame(rows(part)) for part in sent)
    decoder = Decoder()
    pieces = (stream[start : start + piece] for start in range(0, len(stream), piece))
    received = [part for data in pieces for part in decoder.feed(data)]
    assert [len(part.probabilities_NC) for part in received] == [1, 40, 3]
    for there, here in zip(received, sent, strict=True):
        for there_NX, here_NX in zip(there, here, strict=True):
            assert (there_NX == here_NX).all()


def test_a_number_that_is_none_is_the_detectors_business() -> None:
    broken = samples(1)
    broken.embedding_ND[:] = np.nan
    (received,) = Decoder().feed(LAYOUT.handshake() + frame(rows(broken)))
    assert np.isnan(received.embedding_ND).all()


HANDSHAKE = LAYOUT.handshake()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"GET /metrics HTTP/1.1\r\n", "does not speak the drift protocol"),
        (b"STYD" + struct.pack("<HIII", 2, 3, 5, 4), "version 2"),
        (b"STYD" + struct.pack("<HIII", 1, 0, 5, 4), "nonsensical widths: 0, 5, 4"),
        (b"STYD" + struct.pack("<HIII", 1, 3, 2**31, 4), "nonsensical widths"),
        (HANDSHAKE + struct.pack("<I", 0), "a frame of 0 rows"),
        (HANDSHAKE + struct.pack("<I", MAX_ROWS + 1), "a frame of 4097 rows"),
    ],
)
def test_nonsense_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(WireError, match=sentence):
        list(Decoder().feed(data))
