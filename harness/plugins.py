"""The back ends by name."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from backends.base import Backend


class UnknownBackendError(ValueError):
    """A back end's name that is not in the list."""


def _interp() -> Backend:
    from backends.interp import Interpreter

    return Interpreter()


# An engine costs its import, so each is imported when it is asked for.
def _x86_64() -> Backend:
    from backends.native import NativeBackend
    from backends.x86_64.jit import X8664Jit

    return NativeBackend("jit-x86_64", X8664Jit())


def _arm64() -> Backend:
    from backends.arm64.jit import Arm64Jit
    from backends.native import NativeBackend

    return NativeBackend("jit-arm64", Arm64Jit())


BACKENDS: Final[Mapping[str, Callable[[], Backend]]] = {
    "interp": _interp,
    "jit-x86_64": _x86_64,
    "jit-arm64": _arm64,
}


def make_backends(names: Sequence[str] | None) -> list[Backend]:
    """The named back ends, or all. Raises UnknownBackendError."""
    for name in names or ():
        if name not in BACKENDS:
            close = difflib.get_close_matches(name, BACKENDS, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UnknownBackendError(f"there is no back end {name!r}{hint}; there are: {', '.join(BACKENDS)}")
    return [BACKENDS[name]() for name in dict.fromkeys(names or BACKENDS)]
