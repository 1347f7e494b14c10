import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision import models

from steelyard.params import Training
from steelyard.training import device
from steelyard.training.device import precision

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


@pytest.mark.parametrize(
    ("arch", "wanted"),
    [("resnet18", "bfloat16"), ("convnext_tiny", "bfloat16"), ("mobilenet_v2", "float32"), ("mnasnet0_5", "float32")],
)
def test_a_cpu_with_bfloat16_learns_depthwise_networks_without(
    monkeypatch: pytest.MonkeyPatch, arch: str, wanted: str
) -> None:
    monkeypatch.setattr(device, "_has_bfloat16", lambda _: True)
    with torch.device("meta"):
        network = models.get_model(arch)
    assert str(precision(Training(), torch.device("cpu"), network)) == f"torch.{wanted}"
    assert precision(Training(), torch.device("cuda"), network) == torch.bfloat16
    for stated in ("bfloat16", "float32"):
        assert str(precision(Training(precision=stated), torch.device("cpu"), network)) == f"torch.{stated}"


def test_a_cpu_without_bfloat16_learns_all_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_has_bfloat16", lambda _: False)
    assert precision(Training(), torch.device("cpu"), nn.Linear(2, 2)) == torch.float32
