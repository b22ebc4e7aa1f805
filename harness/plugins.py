"""The back ends by name."""

import argparse
import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from backends.base import Backend
from backends.linux.settings import Settings


class UnknownBackendError(ValueError):
    """A back end's name that is not in the list."""


class InputRefusedError(ValueError):
    """What was asked cannot be done here; the message says why."""


def settings_of(options: argparse.Namespace) -> Settings:
    """The kernel images and the emulator that a command line names. Raises InputRefusedError where they are none."""
    settings = Settings(tuple(options.kernel or ()), options.qemu)
    if settings.images or settings.qemu is not None:
        from backends.linux.here import check
        from backends.linux.modules import UnavailableError

        try:
            check(settings)
        except UnavailableError as error:
            raise InputRefusedError(str(error)) from error
    return settings


def _interp(_settings: Settings) -> Backend:
    from backends.interp import Interpreter

    return Interpreter()


# An engine costs its import, so each is imported when it is asked for.
def _x86_64(tail: str = "") -> Callable[[Settings], Backend]:
    def make(_settings: Settings) -> Backend:
        from backends.image import Tail
        from backends.native import NativeBackend
        from backends.x86_64.jit import Options, X8664Jit

        if not tail:
            return NativeBackend("jit-x86_64", X8664Jit())
        return NativeBackend(f"jit-x86_64-{tail}", X8664Jit(Options(tail=Tail(tail))))

    return make


def _arm64(tail: str = "") -> Callable[[Settings], Backend]:
    def make(_settings: Settings) -> Backend:
        from backends.arm64.jit import Arm64Jit, Options
        from backends.image import Tail
        from backends.native import NativeBackend

        if not tail:
            return NativeBackend("jit-arm64", Arm64Jit())
        return NativeBackend(f"jit-arm64-{tail}", Arm64Jit(Options(tail=Tail(tail))))

    return make


def _linux_host(_settings: Settings) -> Backend:
    from backends.linux import here
    from backends.linux.backend import LinuxBackend
    from backends.linux.differs import load_differences

    differences = load_differences()
    live = here.host(differences)
    return LinuxBackend("linux-host", live.arch, live, differences)


def _linux(arch: str) -> Callable[[Settings], Backend]:
    def make(settings: Settings) -> Backend:
        from backends.linux import here
        from backends.linux.backend import LinuxBackend
        from backends.linux.differs import load_differences

        return LinuxBackend(f"linux-{arch}", arch, here.guest(arch, settings), load_differences())

    return make


def _golden(arch: str) -> Callable[[Settings], Backend]:
    def make(_settings: Settings) -> Backend:
        from backends.linux import golden
        from backends.linux.backend import LinuxBackend
        from backends.linux.differs import load_differences

        return LinuxBackend(
            f"golden-{arch}", arch, golden.Golden(arch, golden.path_of(arch)), load_differences(), recorded=True
        )

    return make


TAILS: Final = ("static", "dynamic")  # how tail calls may be lowered besides as Linux does
BACKENDS: Final[Mapping[str, Callable[[Settings], Backend]]] = {
    "interp": _interp,
    "jit-x86_64": _x86_64(),
    "jit-arm64": _arm64(),
    **{f"jit-x86_64-{tail}": _x86_64(tail) for tail in TAILS},
    **{f"jit-arm64-{tail}": _arm64(tail) for tail in TAILS},
    "golden-x86_64": _golden("x86_64"),
    "golden-arm64": _golden("arm64"),
    "linux-x86_64": _linux("x86_64"),
    "linux-arm64": _linux("arm64"),
    "linux-host": _linux_host,
}
BUILT_IN: Final = ("interp", "jit-x86_64", "jit-arm64")  # what runs where nothing is asked for
RUNTIME: Final = "plugin:"  # before the command of a runtime behind bpf_conformance's plugin protocol
IMAGE: Final = "image:"  # before the command of a plugin that gives native code, docs/native-image-plugin.md
RECORDED: Final = ("golden-x86_64", "golden-arm64")


def referees(settings: Settings) -> tuple[list[str], list[str]]:
    """The back ends whose kernel can be booted here, and a line on each, with the reason where it cannot."""
    from backends.linux import here

    names: list[str] = []
    lines: list[str] = []
    for arch in ("x86_64", "arm64"):
        found, text = here.look(arch, settings)
        lines.append(f"linux-{arch}: {text}")
        names += [f"linux-{arch}"] if found else []
    return names, lines


def make_backends(names: Sequence[str] | None, settings: Settings | None = None) -> list[Backend]:
    """The named back ends, or the built-in ones. Raises UnknownBackendError."""
    for name in names or ():
        if any(name.startswith(prefix) and name[len(prefix) :].strip() for prefix in (RUNTIME, IMAGE)):
            continue
        if name not in BACKENDS:
            close = difflib.get_close_matches(name, BACKENDS, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UnknownBackendError(
                f"there is no back end {name!r}{hint}; there are: {', '.join(BACKENDS)}, {RUNTIME}COMMAND, {IMAGE}COMMAND"
            )
    return [_make(name, settings or Settings()) for name in dict.fromkeys(names or BUILT_IN)]


def _make(name: str, settings: Settings) -> Backend:
    kind, colon, text = name.partition(":")
    if not colon:
        return BACKENDS[name](settings)
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise UnknownBackendError(f"{name}: {error}") from error
    if f"{kind}:" == IMAGE:
        from backends.external import ImagePlugin

        return ImagePlugin(name, command)
    from backends.runtime import RuntimeBackend

    return RuntimeBackend(name, command)
