"""System calls as data, so that one client serves this machine's kernel and a guest's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol


class Give(Enum):
    """How much of a buffer comes back after the call."""

    NOTHING = 0
    TRIMMED = 1  # up to its last byte that is not 0
    TEXT = 2  # up to its first byte that is 0


@dataclass(frozen=True, slots=True)
class Buf:
    """Memory of `size` bytes that begins with `data`; the rest is 0, in a TEXT buffer unspecified."""

    data: bytes = b""
    size: int = 0
    give: Give = Give.NOTHING

    @property
    def length(self) -> int:
        """Bytes, the given ones at least."""
        return max(self.size, len(self.data))


@dataclass(frozen=True, slots=True)
class Address:
    """An argument: the address of a buffer of this call."""

    buf: int


@dataclass(frozen=True, slots=True)
class ResultOf:
    """An argument: the result of an earlier call of the batch."""

    call: int


@dataclass(frozen=True, slots=True)
class Pointer:
    """Before the call, the 64-bit address of buffer `target` is stored in buffer `holder` at `offset`."""

    holder: int
    offset: int
    target: int


@dataclass(frozen=True, slots=True)
class Number:
    """Before the call, the 32-bit result of the earlier call `call` is stored in buffer `holder` at `offset`."""

    holder: int
    offset: int
    call: int


Arg = int | Address | ResultOf
Link = Pointer | Number


@dataclass(frozen=True, slots=True)
class Syscall:
    """One system call by name."""

    name: str
    args: tuple[Arg, ...]
    bufs: tuple[Buf, ...] = ()
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """What a call gave: its result, -errno where it failed, and the buffers that come back, by index."""

    ret: int
    bufs: Mapping[int, bytes]


# Linux arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
NUMBERS: Final[Mapping[str, Mapping[str, int]]] = {
    "x86_64": {
        "read": 0, "pread64": 17, "write": 1, "close": 3, "uname": 63, "openat": 257, "syslog": 103, "memfd_create": 319,
        "nanosleep": 35, "init_module": 175, "finit_module": 313, "bpf": 321, "mkdirat": 258,
    },
    "arm64": {
        "read": 63, "pread64": 67, "write": 64, "close": 57, "uname": 160, "openat": 56, "syslog": 116, "memfd_create": 279,
        "nanosleep": 101, "init_module": 105, "finit_module": 273, "bpf": 280, "mkdirat": 34,
    },
}  # fmt: skip


class KernelGoneError(Exception):
    """The kernel that was asked is no more: it crashed, or does not answer. The message has its last words."""


class Kernel(Protocol):
    """A running Linux."""

    arch: str

    def batch(self, calls: Sequence[Syscall]) -> list[Done]:
        """Makes the calls in order, whatever each of them gives. Raises KernelGoneError."""
        ...


def open_file(path: str, flags: int = 0) -> Syscall:
    """openat(AT_FDCWD, path, flags)."""
    return Syscall("openat", (-100, Address(0), flags, 0), (Buf(path.encode() + b"\0"),))


def close(call: int) -> Syscall:
    """Closes what an earlier call of the batch gave; a failed one's is refused by the kernel, which does no harm."""
    return Syscall("close", (ResultOf(call),))


def sleep(nanoseconds: int) -> Syscall:
    """nanosleep(2), of less than a second."""
    span = (0).to_bytes(8, "little") + nanoseconds.to_bytes(8, "little")
    return Syscall("nanosleep", (Address(0), 0), (Buf(span),))


def read_file(kernel: Kernel, path: str, limit: int = 1 << 24, chunk: int = 1 << 20) -> bytes:
    """A file as the kernel has it. Raises OSError where it cannot be opened or read."""
    fd = kernel.batch([open_file(path)])[0].ret
    if fd < 0:
        raise OSError(-fd, "cannot be opened", path)
    data = bytearray()
    try:
        while len(data) < limit:
            done = kernel.batch([Syscall("read", (fd, Address(0), chunk), (Buf(size=chunk, give=Give.TRIMMED),))])[0]
            if done.ret < 0:
                raise OSError(-done.ret, "cannot be read", path)
            if not done.ret:
                break
            data += done.bufs[0].ljust(done.ret, b"\0")
    finally:
        kernel.batch([Syscall("close", (fd,))])
    return bytes(data)


def release_of(kernel: Kernel) -> str:
    """The kernel's release, as `uname -r` prints it."""
    # struct new_utsname: six fields of 65 bytes; the third is the release.
    done = kernel.batch([Syscall("uname", (Address(0),), (Buf(size=390, give=Give.TRIMMED),))])[0]
    return done.bufs[0].ljust(390, b"\0")[130:195].split(b"\0")[0].decode()
