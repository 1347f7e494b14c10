"""Which parts of a network learn in which epoch."""

from collections.abc import Mapping

from torch import nn

from steelyard.errors import DoesNotFit
from steelyard.models.build import Network

REST = "*"


class Freezing:
    """Sets a network's parts to learn or not; batch norm and dropout in those that do not are as in use."""

    def __init__(self, network: Network, unfreeze: Mapping[str, int] | None) -> None:
        """Look the parts up.

        Args:
            network: whose body has them.
            unfreeze: for each part of the body the epoch from which it learns, `*` being the rest. Parts that are not
                named never learn, but for the head and a stem made anew, which always do. None: all learn.

        Raises:
            DoesNotFit: there is no such part.
        """
        self._body, self._unfreeze, self._fresh = network.body, unfreeze, network.fresh
        known = {name for name, _ in network.body.named_modules() if name}
        if unknown := set(unfreeze or ()) - known - {REST}:
            parts = ", ".join(name for name, _ in network.body.named_children())
            raise DoesNotFit(f"unfreeze: the network has no part {min(unknown)!r}; it has: {parts}")

    def begin(self, epoch: int) -> None:
        """Set what learns in an epoch, in a network that is set to train."""
        if self._unfreeze is None:
            return
        for name, parameter in self._body.named_parameters():
            parameter.requires_grad_(self._learns(name, epoch))
        for name, module in self._body.named_modules():
            if not isinstance(module, nn.Sequential):
                module.training = self._learns(name, epoch)

    def _learns(self, name: str, epoch: int) -> bool:
        unfreeze = self._unfreeze or {}
        parts = [part for part in unfreeze if f"{name}.".startswith(f"{part}.")]
        if not parts and any(f"{name}.".startswith(f"{part}.") for part in self._fresh):
            return True
        first = unfreeze[max(parts, key=len)] if parts else unfreeze.get(REST)
        return first is not None and epoch >= first
