"""Row files are read as they were written, however little of them is opened at a time."""

from pathlib import Path

import numpy as np
import pytest

from steelyard.data.pixels import RowFile, Rows


@pytest.mark.parametrize("gap_bytes", [0, 100, 2**24])
@pytest.mark.parametrize("dtype", [np.dtype(np.uint8), np.dtype([("digest", np.uint8, 5), ("width", np.int32)])])
def test_rows_are_read_in_the_order_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap_bytes: int, dtype: np.dtype[np.void]
) -> None:
    monkeypatch.setattr("steelyard.data.pixels.GAP_BYTES", gap_bytes)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (50, 3 * dtype.itemsize), np.uint8).view(dtype)
    file = RowFile(tmp_path / "rows.npy", (3,), dtype)
    file.write(25, rows[25:])
    file.write(0, rows[:25])
    file.close(50)
    for asked in (rng.integers(0, 50, 200), np.arange(50), np.empty(0, np.int64)):
        assert np.array_equal(Rows(tmp_path / "rows.npy")[asked], rows[asked])
    assert np.array_equal(np.concatenate(list(Rows(tmp_path / "rows.npy").parts(7))), rows)
