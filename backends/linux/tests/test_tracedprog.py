"""BPF programs with a function to be traced: their insns, and a kernel that does not take them."""

import struct
from collections.abc import Sequence

import pytest

from backends.linux import bpf
from backends.linux.syscalls import Done, Syscall
from backends.linux.tracedprog import load
from backends.trampoline import RefusedError
from harness.isa.proto import parse_proto

NINE = parse_proto("u64 f(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g)")


class Kernel:
    """Takes everything, or refuses a program; keeps the insns."""

    def __init__(self, arch: str, code: bytes, refusal: str = "") -> None:
        self.arch, self.code, self.refusal = arch, code, refusal
        self.insns: list[tuple[int, int, int, int]] = []
        self.names: list[str] = []

    def batch(self, calls: Sequence[Syscall]) -> list[Done]:
        at = len(calls) // 2 - 1  # what comes before the load is closed behind it
        load_call = calls[at]
        self.insns = list(struct.iter_unpack("<BBhi", load_call.bufs[1].data))
        self.names = [call.name for call in calls]
        done = [Done(10 + at, {}) for at in range(len(calls))]
        if self.refusal:
            done[at] = Done(-22, {3: f"{self.refusal}\nprocessed 1 insns\n".encode()})
        info = bytearray(bpf.INFO_BYTES)
        struct.pack_into("<I", info, 4, 77)
        for count_at, count in ((16, 2 * len(self.code)), (104, 2), (108, 2)):
            struct.pack_into("<I", info, count_at, count)
        addresses, lengths = struct.pack("<QQ", 0x1000, 0x2000), struct.pack("<II", len(self.code), len(self.code))
        done[at + 1] = Done(0, {1: bytes(info), 2: 2 * self.code, 3: b"", 4: addresses, 5: lengths, 6: b"", 7: b""})
        return done


@pytest.mark.parametrize(
    ("arch", "code", "body"),
    [("x86_64", "f30f1efa0f1f440000c3", 0x2009), ("x86_64", "0f1f440000c3", 0x2005), ("arm64", "e9031eaa1f2003d5", 0x2008)],
)  # fmt: skip
def test_where_the_function_goes_on(arch: str, code: str, body: int) -> None:
    prog = load(Kernel(arch, bytes.fromhex(code)), NINE, tail_call=False)
    assert (prog.fd, prog.prog_id, prog.function, prog.body) == (11, 77, 0x2000, body)


def test_a_call_with_every_argument() -> None:
    kernel = Kernel("arm64", bytes(8))
    load(kernel, NINE, tail_call=False)
    assert kernel.insns == [
        (0xBF, 0x16, 0, 0),
        *((0xB7, number, 0, number) for number in range(1, 6)),
        (0x7A, 11, -8, 6),
        (0x7A, 11, -16, 7),
        (0x85, 0x10, 0, 2),
        (0xB7, 0, 0, 0),
        (0x95, 0, 0, 0),
        (0xB7, 0, 0, 0),
        (0x95, 0, 0, 0),
    ]


def test_a_tail_call_in_reach() -> None:
    kernel = Kernel("x86_64", bytes(8))
    load(kernel, parse_proto("u64 f(void)"), tail_call=True)
    assert kernel.insns[1:4] == [(0x85, 0x10, 0, 4), (0xBF, 0x61, 0, 0), (0x85, 0x10, 0, 4)]
    assert kernel.insns[8:12] == [(0x18, 0x52, 0, 0), (0, 0, 0, 0), (0xB7, 3, 0, 0), (0x85, 0, 0, 12)]
    assert kernel.names == ["bpf", "bpf", "bpf", "bpf", "close", "close"]


def test_a_program_that_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        load(Kernel("x86_64", b"\xc3", "tail_calls are not allowed"), NINE, tail_call=True)
    assert str(caught.value) == "target: errno 22: tail_calls are not allowed"
