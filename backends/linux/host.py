"""The kernel under this process, through the C library's syscall()."""

import ctypes
import platform
from collections.abc import Sequence
from typing import Final

from backends.linux.syscalls import NUMBERS, Address, Buf, Done, Give, Number, ResultOf, Syscall

MACHINES: Final = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


class HostKernel:
    """Makes system calls in this process. Raises OSError on a machine that is no Linux or of another architecture."""

    def __init__(self) -> None:
        if platform.system() != "Linux" or platform.machine() not in MACHINES:
            raise OSError(f"{platform.system()} on {platform.machine()} is not Linux on x86-64 or arm64")
        self.arch = MACHINES[platform.machine()]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long

    def batch(self, calls: Sequence[Syscall]) -> list[Done]:
        """One call after the other."""
        done: list[Done] = []
        for call in calls:
            done.append(self._call(call, done))
        return done

    def _call(self, call: Syscall, earlier: list[Done]) -> Done:
        memory = [ctypes.create_string_buffer(buf.data, max(buf.length, 1)) for buf in call.bufs]
        for link in call.links:
            if isinstance(link, Number):
                value, size = earlier[link.call].ret & 0xFFFF_FFFF, 4
            else:
                value, size = ctypes.addressof(memory[link.target]), 8
            ctypes.memmove(ctypes.addressof(memory[link.holder]) + link.offset, value.to_bytes(size, "little"), size)
        args: list[int] = []
        for arg in call.args:
            match arg:
                case Address(buf):
                    args.append(ctypes.addressof(memory[buf]))
                case ResultOf(index):
                    args.append(earlier[index].ret)
                case int():
                    args.append(arg)
        ret = self._libc.syscall(NUMBERS[self.arch][call.name], *(ctypes.c_uint64(a & (1 << 64) - 1) for a in args))
        errno = ctypes.get_errno() if ret < 0 else 0
        return Done(
            -errno if errno else ret,
            {i: _given(buf, memory[i]) for i, buf in enumerate(call.bufs) if buf.give != Give.NOTHING},
        )


def _given(buf: Buf, memory: "ctypes.Array[ctypes.c_char]") -> bytes:
    return memory.value if buf.give == Give.TEXT else memory.raw.rstrip(b"\0")
