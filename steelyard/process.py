"""What this program took of the machine."""

import resource
import sys
from pathlib import Path


def own_peak_mib() -> float:
    """Return the most that was resident, MiB; on Linux, `getrusage` would add that of the program that started it."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
