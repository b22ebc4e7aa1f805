"""Kfuncs of cases in a running kernel: a module made for it, loaded once for all that is known by then."""

from collections.abc import Iterable, Mapping

from backends.calls import Body
from backends.linux.ask import KfuncIds
from backends.linux.backend import UnavailableError
from backends.linux.syscalls import Kernel
from backends.linux.tools import Tool


class NoKfuncs:
    """A kernel that gets no module: this machine's own."""

    def ids(self, bodies: Iterable[Body]) -> KfuncIds:
        """Never."""
        raise UnavailableError("kfuncs of cases need a module, which this machine's own kernel does not get")

    def addresses(self, bodies: Iterable[Body]) -> Mapping[int, str]:
        """None."""
        return {}

    def plain(self, text: str, bodies: Iterable[Body]) -> str:
        """As it is."""
        return text


class LoadedKfuncs(NoKfuncs):
    """A guest's kfuncs."""

    def __init__(self, kernel: Kernel, release: str, compiler: Tool, bodies: Iterable[Body]) -> None:
        pass
