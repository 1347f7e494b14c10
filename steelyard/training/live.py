"""Live: what is told of a training between the ends of its epochs."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Where a training stands: means over the epoch so far."""

    step: int
    loss: float
    accuracy: float
    learning_rate: float
    images_per_s: float
    gpu_memory_mib: float | None  # None without a GPU
    gpu_utilisation: float | None  # percent of the last second in which it worked; None where NVML does not tell

    def figures(self) -> dict[str, float]:
        """Return all figures that there are, by name."""
        return {name: value for name, value in asdict(self).items() if name != "step" and value is not None}

    def __str__(self) -> str:
        words = [f"learning rate {self.learning_rate:.2g}, loss {self.loss:.3f}, accuracy {self.accuracy:.3f}"]
        if self.gpu_memory_mib is not None:
            words.append(f"GPU memory {self.gpu_memory_mib:.0f} MiB")
        if self.gpu_utilisation is not None:
            words.append(f"GPU at {self.gpu_utilisation:.0f} %")
        return ", ".join(words)
