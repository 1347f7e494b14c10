"""Where networks are trained, and in which numbers."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from steelyard.params import Training
from steelyard.process import own_peak_mib

# torch looks once whether cuBLAS is bound to give equal bits, and refuses a deterministic training where it is not.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
MUCH_DEPTHWISE = 0.014  # EfficientNetV2-S has 0.015, ConvNeXt-T 0.012
_KEPT_BYTES, _LARGEST_KEPT_BYTES = 2**30, 2**25  # glibc admits no more of the second


def best_device() -> torch.device:
    """Return the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Return `cpu`, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def precision(recipe: Training, device: torch.device, network: nn.Module) -> torch.dtype:
    """Return the numbers to train in: bfloat16 where the processor has it, unless the recipe says otherwise.

    A CPU that only emulates it is slower with it: ResNet-18 at 32 px took 8 times as long on an AVX2 one. One that has
    it is slower with networks that are depthwise for a good part: with AMX, at 64 px and 24 images, MobileNet, MNASNet
    and EfficientNet-B0 took 1.5 to 2.4 times as long as in float32, ResNet, ConvNeXt and MaxViT 0.6 to 0.7.
    """
    if recipe.precision == "auto":
        slower = device.type == "cpu" and _depthwise_share(network) > MUCH_DEPTHWISE
        return torch.bfloat16 if _has_bfloat16(device) and not slower else torch.float32
    return torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32


def peak_mib(device: torch.device) -> float:
    """Return the most memory that was taken, MiB: of a GPU, or of this process on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else own_peak_mib()


def forget_peak(device: torch.device) -> None:
    """Let `peak_mib` be of what follows; only a GPU's can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def gpu_load(device: torch.device) -> tuple[float | None, float | None]:
    """Return how much of a GPU's memory is taken, MiB, and in which percentage of the last second it worked.

    Both are None without a GPU; the second also where NVML does not tell, as of a slice of a GPU.
    """
    if device.type != "cuda":
        return None, None
    memory_mib = torch.cuda.memory_allocated(device) / 2**20
    try:
        import pynvml
    except ImportError:
        return memory_mib, None
    try:
        return memory_mib, torch.cuda.utilization(device)
    except (pynvml.NVMLError, RuntimeError):  # torch does not find a slice by its name
        return memory_mib, None


def keep_freed_memory() -> None:
    """Let this process keep memory that a step frees, for the next one: glibc alone does not.

    It gave back and took anew what a small network on a CPU needs for its activations, and page faults were a quarter
    of the step.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)


def seed(number: int, device: torch.device) -> None:
    """Begin torch's random numbers anew; `torch.manual_seed` writes down who called it, for the GPUs there may be."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(number)


@contextmanager
def arithmetic(deterministic: bool) -> Iterator[None]:
    """Let a GPU choose its fastest algorithms, or bind it to those that give the same bits each time."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _depthwise_share(network: nn.Module) -> float:
    """Return which part of the weights of layers is of depthwise convolutions."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    depthwise = [layer for layer in layers if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1]
    return sum(layer.weight.numel() for layer in depthwise) / sum(layer.weight.numel() for layer in layers)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
