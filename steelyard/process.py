"""What this program took of the machine, and which start of the machine it is."""

import resource
import sys
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def own_peak_mib() -> float:
    """Return the most that was resident, MiB; on Linux, `getrusage` would add that of the program that started it."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def boot_id() -> str:
    """Return what changes when the machine is started anew; "" where it does not tell."""
    return _BOOT_ID.read_text(encoding="utf-8").strip() if _BOOT_ID.exists() else ""
