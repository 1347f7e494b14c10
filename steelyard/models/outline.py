"""Networks without weights: what they do to a shape, at no cost."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)


def on_meta(make: Callable[[], Module]) -> Module:
    """Make a module on the meta device, and leave torch's generator as it was."""
    with torch.random.fork_rng(devices=[]), _Weightless():
        module = make()
    return module.to("meta")


class _Weightless(TorchFunctionMode):
    """Puts weights on the meta device; `torch.device("meta")` would also put there what RegNet counts blocks with."""

    _MAKERS = (torch.empty, torch.zeros, torch.ones)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        where = {"device": "meta"} if func in self._MAKERS else {}
        return func(*args, **{**(kwargs or {}), **where})
