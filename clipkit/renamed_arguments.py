"""Arguments of earlier versions, refused with the spelling that replaces them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from clipkit.errors import ConfigError

_Callable = TypeVar("_Callable", bound=Callable[..., Any])


def renamed_arguments(renamed: Mapping[str, str]) -> Callable[[_Callable], _Callable]:
    """Refuse the previous keywords of a function or class with one line instead of a TypeError.

    Examples:
        >>> @renamed_arguments({"size": "image_size"})
        ... def transform(image_size): ...
        >>> transform(size=3)
        Traceback (most recent call last):
        clipkit.errors.ConfigError: transform: size is now called image_size
    """

    def decorate(function: _Callable) -> _Callable:
        if isinstance(function, type):
            function.__init__ = decorate(function.__init__)  # type: ignore[misc]
            return function
        is_constructor = function.__name__ == "__init__"

        @functools.wraps(function)
        def checked(*args: Any, **options: Any) -> Any:
            for name in options.keys() & renamed.keys():
                owner = type(args[0]) if is_constructor else function
                raise ConfigError(f"{owner.__qualname__}: {name} is now called {renamed[name]}")
            return function(*args, **options)

        return checked  # type: ignore[return-value]

    return decorate


def refuse_renamed(module: str, renamed: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that names what replaces an earlier name."""

    def getattr_of_module(name: str) -> Any:
        if name in renamed:
            raise ImportError(f"{module}: {name} is now called {renamed[name]}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return getattr_of_module
