"""The kernels that this machine can run: what is needed of tools and images, and what is said where they are missing."""

import atexit
import gzip
import os
import platform
import shutil
import struct
import zlib
from pathlib import Path
from typing import Final

from backends.linux.attach import Attacher
from backends.linux.backend import Live
from backends.linux.differs import Differences
from backends.linux.fetch import kernels, verify
from backends.linux.guest import AGENT, AGENT_FLAGS, Guest
from backends.linux.host import HostKernel
from backends.linux.modules import LoadedKfuncs, ModuleLoader, NoKfuncs, UnavailableError
from backends.linux.settings import Settings
from backends.linux.syscalls import Kernel
from backends.linux.tools import CompileError, Tool, find_compiler, find_qemu, link_static

FETCH: Final = "`callconv kernel fetch` gets what is missing"
_PE_MACHINES: Final = {0x8664: "x86_64", 0xAA64: "arm64"}  # PE format, "Machine types"


def arch_of(image: Path) -> str:
    """Which architecture a kernel image is for. Raises UnavailableError where it is none that is known.

    Linux Documentation/arch/x86/boot.rst ("HdrS"), Documentation/arch/arm64/booting.rst (its magic number); else its PE header.
    """
    try:
        with image.open("rb") as stream:
            head = stream.read(4096)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(image) as unpacked:
                head = unpacked.read(4096)
    except (OSError, EOFError, zlib.error) as error:
        raise UnavailableError(f"the kernel image {image} cannot be read: {error}") from error
    head = head.ljust(4096, b"\0")
    if head[0x202:0x206] == b"HdrS":
        return "x86_64"
    if head[0x38:0x3C] == b"ARM\x64":
        return "arm64"
    at = struct.unpack_from("<I", head, 0x3C)[0] if head[:2] == b"MZ" else len(head)
    if head[at : at + 4] == b"PE\0\0":
        machine = struct.unpack_from("<H", head, at + 4)[0]
        if machine in _PE_MACHINES:
            return _PE_MACHINES[machine]
    raise UnavailableError(f"{image} is no Linux image for x86-64 or arm64 (a bzImage or Image)")


def check(settings: Settings) -> None:
    """Whether what the user named can be used at all. Raises UnavailableError."""
    for image in settings.images:
        arch_of(image)
    if settings.qemu is not None and shutil.which(settings.qemu) is None:
        raise UnavailableError(f"--qemu: there is no program {settings.qemu!r}")


def _image(arch: str, settings: Settings) -> Path:
    for given in settings.images:
        if arch_of(given) == arch:
            return given
    if settings.images:
        raise UnavailableError(f"no kernel image given is for {arch}")
    for cached in kernels(settings.cache):
        if cached.arch == arch and verify(cached):
            return cached.path
    raise UnavailableError(f"no kernel image for {arch}: {FETCH}; --kernel PATH names one of your own")


def _qemu(arch: str, settings: Settings) -> Tool:
    tool = find_qemu(settings.cache, arch, settings.qemu)
    if tool is None:
        wanted = f"no QEMU at {settings.qemu}" if settings.qemu else f"no QEMU for {arch}"
        raise UnavailableError(f"{wanted}: {FETCH}; --qemu PATH names one of your own")
    return tool


def _compiler(arch: str, settings: Settings) -> Tool:
    tool = find_compiler(settings.cache, arch)
    if tool is None:
        raise UnavailableError(f"no C compiler for {arch}, which the guest's agent needs: {FETCH}")
    return tool


def look(arch: str, settings: Settings) -> tuple[bool, str]:
    """Whether a guest can be booted, and the image, or what is missing."""
    try:
        image, _, _ = _image(arch, settings), _qemu(arch, settings), _compiler(arch, settings)
    except UnavailableError as error:
        return False, str(error)
    known = {cached.path: f"{cached.package} {cached.version}" for cached in kernels(settings.cache)}
    return True, known.get(image, str(image))


def boot_guest(arch: str, settings: Settings) -> Guest:
    """A guest of one architecture. Raises UnavailableError, KernelGoneError."""
    image, qemu, compiler = _image(arch, settings), _qemu(arch, settings), _compiler(arch, settings)
    try:
        agent = link_static(compiler, AGENT.read_text(encoding="utf-8"), AGENT_FLAGS)
    except CompileError as error:
        raise UnavailableError(f"the guest's agent cannot be built: {error}") from error
    return Guest(arch, image, qemu, agent)


def guest(arch: str, settings: Settings) -> Live:
    """A kernel image in QEMU."""

    def loader(kernel: Kernel) -> ModuleLoader:
        return ModuleLoader(kernel, _compiler(arch, settings), settings.cache)

    live = Live(
        arch,
        lambda: boot_guest(arch, settings),
        lambda kernel, release, bodies: LoadedKfuncs(loader(kernel), release, bodies),
        trampolines=lambda kernel, requests: Attacher(loader(kernel), requests),
    )
    atexit.register(live.close)  # an emulator must not outlive the run
    return live


def boot_host() -> HostKernel:
    """The kernel under this process. Raises UnavailableError."""
    if os.geteuid() != 0:
        raise UnavailableError("bpf(2) on this machine's own kernel needs root")
    try:
        return HostKernel()
    except OSError as error:
        raise UnavailableError(f"this machine's own kernel cannot be asked: {error}") from error


def host(differences: Differences) -> Live:
    """The kernel under this process, which is spared what is known to kill kernels."""
    arch = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())

    def spare(case: str) -> str | None:
        return (
            "a kernel is known to die of it; this machine's own is spared" if differences.crashes(case, arch) else None
        )

    return Live(arch, boot_host, lambda *_: NoKfuncs(), spare=spare)
