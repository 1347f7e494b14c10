import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import torch
from steelyard.training.device import keep_freed_memory

def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        activations = [torch.ones(2**20) for _ in range(20)]
        del activations
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(5)
given_back = faults(5)
keep_freed_memory()
faults(5)
print(given_back, faults(5))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_what_a_step_frees_is_kept_for_the_next() -> None:
    fixed = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}  # glibc adapts it, by chance
    command = [sys.executable, "-c", STEPS]
    ran = subprocess.run(command, env=fixed, capture_output=True, text=True, check=True)
    given_back, kept = map(int, ran.stdout.split())
    assert given_back > 20_000  # pages of 4 KiB
    assert kept < 1_000
