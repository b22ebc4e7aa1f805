"""A running kernel as a source of replies, with kernels that answer what they are told to."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from backends.base import Died, Job, Refused, Unsupported
from backends.linux import backend as backends
from backends.linux.ask import Answer, last_words
from backends.linux.backend import Live, needs_stack_args, reply_of
from backends.linux.modules import NoKfuncs, UnavailableError
from backends.linux.syscalls import Done, KernelGoneError, Syscall
from harness.isa.asm import Source, assemble
from harness.isa.insn import Prog
from harness.isa.proto import parse_proto

REFUSED = "0: (95) exit\nR0 !read_ok\nverification time 9 usec\nstack depth 0\nprocessed 1 insns (limit 1000000)\n"


def prog(text: str = "exit") -> Prog:
    return assemble([Source("main", text)], []).prog


def job(text: str = "exit", case: str = "") -> Job:
    return Job(prog(text), None, b"", (), case=case)


@dataclass
class Kernel:
    """Refuses every program with the log it was given; dies of one whose second insn is a call of 77."""

    arch: str = "x86_64"
    log: str = REFUSED
    asked: list[int] = field(default_factory=list)
    closed: bool = False

    def batch(self, calls: Sequence[Syscall]) -> list[Done]:
        names = [call.name for call in calls]
        if names == ["uname"]:
            return [Done(0, {0: b"\0" * 130 + b"7.2.99-test\0"})]
        insns = calls[1].bufs[1].data
        self.asked.append(len(insns) // 8)
        if struct.pack("<i", 77) in insns:
            raise KernelGoneError("the guest crashed; it said nothing")
        return [Done(3, {2: b""}), Done(-13, {3: self.log.encode()}), *[Done(-9, {0: b""})] * (len(calls) - 2)]

    def close(self) -> None:
        self.closed = True


def live(kernels: list[Kernel]) -> Live:
    rest = iter(kernels)
    return Live("x86_64", lambda: next(rest), lambda kernel, release, bodies: NoKfuncs())


def test_a_refusal() -> None:
    source = live([Kernel()])
    assert source.reply(job()) == Refused("R0 !read_ok", 13, 0, REFUSED, 1)
    assert source.release == "7.2.99-test"


def test_a_kernel_that_dies_is_started_again() -> None:
    first, second = Kernel(), Kernel()
    source = live([first, second])
    assert source.reply(job("r0 = 0\ncall 77\nexit")) == Died("the guest crashed; it said nothing")
    assert first.closed
    assert isinstance(source.reply(job()), Refused)
    assert source.release == "7.2.99-test"


def test_no_kernel_is_looked_for_once() -> None:
    tries: list[int] = []

    def boot() -> Kernel:
        tries.append(1)
        raise UnavailableError("no kernel image for x86_64")

    source = Live("x86_64", boot, lambda kernel, release, bodies: NoKfuncs())
    replies = [source.reply(job()) for _ in range(3)]
    assert replies == [Unsupported("no kernel image for x86_64")] * 3
    assert tries == [1]


def test_a_kernel_that_never_comes_up() -> None:
    def boot() -> Kernel:
        raise KernelGoneError("the guest is silent; it said nothing")

    source = Live("x86_64", boot, lambda kernel, release, bodies: NoKfuncs())
    assert source.reply(job()) == Died("the kernel does not come up: the guest is silent; it said nothing")


def test_boots_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "MAX_BOOTS", 2)
    source = live([Kernel(), Kernel()])
    killer = job("r0 = 0\ncall 77\nexit")
    assert [isinstance(source.reply(killer), Died) for _ in range(2)] == [True, True]
    assert source.reply(job()) == Died("the kernel died 2 times; it is not started again")


def test_what_the_host_is_spared() -> None:
    source = Live(
        "x86_64", Kernel, lambda kernel, release, bodies: NoKfuncs(), spare=lambda case: f"not {case}" if case else None
    )
    assert source.reply(job(case="c::x")) == Unsupported("not c::x")
    assert isinstance(source.reply(job()), Refused)


def test_a_kernel_without_stack_arguments() -> None:
    source = live([Kernel(log="R11 is invalid\n")])
    assert source.reply(job("*(u64 *)(r11 - 8) = 5\nexit")) == Unsupported("Linux 7.2.99-test has no stack arguments")
    assert isinstance(source.reply(job()), Refused)


def test_who_needs_stack_arguments() -> None:
    six = parse_proto("u64 f(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)")
    typed = assemble([Source("main", "r0 = 0\nexit"), Source("f", "r0 = 0\nexit", six)], []).prog
    assert needs_stack_args(typed)
    assert needs_stack_args(prog("r0 = *(u64 *)(r11 + 8)\nexit"))
    assert not needs_stack_args(prog("r0 = 11\nexit"))


def test_native_code_that_cannot_be_moved() -> None:
    reply = reply_of("x86_64", job(), Answer(0, ""), {})
    assert isinstance(reply, Unsupported)
    assert reply.reason.startswith("its native code cannot be judged: the kernel gave no native code")


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        ("0: (95) exit\nR0 !read_ok\nprocessed 1 insns (limit 1000000)\n", "R0 !read_ok"),
        ("R11 is invalid\nverification time 3 usec\nstack depth 0 max 0\ninsns processed 0\n", "R11 is invalid"),
        ("0: (95) exit\nR0 !read_ok\nVerification failed: x: y\nReason\nAt\n", "R0 !read_ok"),
    ],
)
def test_the_last_words_of_a_log(log: str, words: str) -> None:
    assert last_words(log) == words


def test_where_a_program_was_refused() -> None:
    assert Answer(13, "0: (b7) r0 = 1\n1: (85) call pc+1\nwhy\n").insn == 1
    assert Answer(13, "0: (b7) r0 = 1\n1: BUG_db\nwhy\n").insn == 1
    assert Answer(22, "R11 is invalid\n").insn is None
