"""Refuse exchanges between ranks in what one rank runs alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

from clipkit.training.lightning_compat import TorchDispatchMode

_EXCHANGES: Final = ("c10d", "_c10d_functional", "_c10d_functional_autograd")
"""Namespaces of the operations that exchange tensors between ranks."""


class ExchangeRefusedError(Exception):
    """An exchange in which the other ranks would not take part."""


@final
class Alone(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises an error instead of an exchange between ranks, which would wait forever for others.

    Raises:
        ExchangeRefusedError: At the first exchange inside the block; nothing was sent.

    Examples:
        >>> with Alone():
        ...     torch.ones(2).sum()
        tensor(2.)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation of this rank."""
        if getattr(func, "namespace", "") in _EXCHANGES:
            raise ExchangeRefusedError(str(func))
        return func(*args, **(kwargs or {}))
