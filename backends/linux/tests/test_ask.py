"""What is put to a kernel and how its answer is read, with a kernel that gives what it was told to."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from backends.base import Job, Unsupported
from backends.linux.ask import Answer, KfuncIds, NativeFunc, _functions, ask, last_words
from backends.linux.backend import reply_of
from backends.linux.syscalls import Done, Syscall
from harness.isa.asm import Source, assemble
from harness.isa.btf import GLOBAL, STATIC
from harness.isa.insn import Prog
from harness.isa.proto import parse_proto

REFUSED_72 = (
    "0: R1=ctx() R10=fp0\n"
    "; cc @ cc:0\n0: (b7) r1 = 0                        ; R1=0\n"
    "; cc @ cc:1\n1: (95) exit\n"
    "R0 !read_ok\n"
    "verification time 20 usec\nstack depth 0\n"
    "processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n"
)
# 7.3 puts a report behind the classic line.
REFUSED_73 = (
    "0: R1=ctx() R10=fp0\n"
    "; cc @ cc:0\n0: (b7) r1 = 0                        ; R1=0\n"
    "; cc @ cc:1\n1: (95) exit\n"
    "R0 !read_ok\n"
    "\nVerification failed: register: R0 is not initialized\n"
    "Reason:\n  R0 holds no value.\nAt:\n  1: (95) exit\nCausal path:\n  entry\nSuggestion:\n  write R0 first\n"
    "verification time 20 usec\nstack depth 0\n"
    "processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n"
)
ACCEPTED = "verification time 20 usec\nstack depth 16+8\nprocessed 5 insns (limit 1000000)\n"
MAIN, SUB = 0xFFFF_FFFF_C000_0100, 0xFFFF_FFFF_C000_0200


def prog(*sources: Source) -> Prog:
    return assemble(list(sources or [Source("main", "r1 = 0\nexit")]), []).prog


def job(program: Prog | None = None, ctx: bytes = b"") -> Job:
    return Job(program or prog(), None, ctx, ())


@dataclass
class Kernel:
    """Gives one list of answers per batch: those of BTF_LOAD, PROG_LOAD, TEST_RUN and the info; the two closes succeed."""

    answers: list[list[Done]]
    arch: str = "x86_64"
    asked: list[list[Syscall]] = field(default_factory=list)

    def batch(self, calls: Sequence[Syscall]) -> list[Done]:
        assert [call.name for call in calls] == ["bpf"] * 4 + ["close"] * 2
        self.asked.append(list(calls))
        return [*self.answers[len(self.asked) - 1], Done(0, {}), Done(0, {})]

    def load(self, number: int = 0) -> Syscall:
        """PROG_LOAD of a batch: its buffers are attr, insns, licence, log, and then what the program needs."""
        return self.asked[number][1]


def refused(errno: int, log: str) -> list[Done]:
    nothing = Done(-9, {0: b"", **dict.fromkeys(range(1, 8), b"")})
    return [Done(3, {2: b""}), Done(-errno, {3: log.encode()}), nothing, nothing]


def word(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


# --- reading


@pytest.mark.parametrize("log", [REFUSED_72, REFUSED_73], ids=["7.2", "7.3"])
def test_a_refusal(log: str) -> None:
    answer = ask(Kernel([refused(13, log)]), job())
    assert (answer.errno, answer.message, answer.insn, answer.processed) == (13, "R0 !read_ok", 1, 2)
    assert (answer.stack_depths, answer.retval, answer.funcs) == ((0,), None, ())


def test_our_line_info_is_not_in_the_log() -> None:
    log = "; f(a) @ other.c:7\n; cc @ cc:12\n12: (95) exit\n; not ours @ cc\nR0 !read_ok\n"
    assert ask(Kernel([refused(13, log)]), job()).log == (
        "; f(a) @ other.c:7\n12: (95) exit\n; not ours @ cc\nR0 !read_ok\n"
    )


LAST_WORDS = {
    "nothing": ("", ""),
    "statistics only": (ACCEPTED, ""),
    "an insn before": ("0: (95) exit\nR0 !read_ok\nprocessed 1 insns (limit 1000000)\n", "R0 !read_ok"),
    "blank lines": ("why\n\n  \n", "why"),
    "7.2's statistics": ("why\nstack depth 0 max 0\nmax_states_per_insn 1\ninsns processed 3\n", "why"),
    "7.3's report": ("why\nVerification failed: a: b\nReason:\n  c\n", "why"),
}


@pytest.mark.parametrize("name", LAST_WORDS)
def test_last_words(name: str) -> None:
    log, words = LAST_WORDS[name]
    assert last_words(log) == words


def test_where_a_program_was_refused() -> None:
    assert Answer(13, "0: (b7) r0 = 1\n1: (85) call pc+1\nwhy\n").insn == 1
    assert Answer(13, "0: (b7) r0 = 1\n1: BUG_db\nwhy\n").insn == 1
    assert Answer(22, "R11 is invalid\n").insn is None


def info(code: bytes, room: int = 1 << 16) -> Done:
    """Struct bpf_prog_info of two functions, of which the second has 2 bytes; Linux include/uapi/linux/bpf.h."""
    head = bytearray(232)
    for at, value in ((16, len(code)), (20, 16), (104, 2), (108, 2), (148, 2), (168, 2), (216, 9)):
        struct.pack_into("<I", head, at, value)
    lines = struct.pack("<8I", 0, 1, 1, 0 << 10, 2, 1, 1, 3 << 10)
    bufs = [
        bytes(head),
        code[:room],
        bytes.fromhex("b700000007000000 95"),  # xlated; zeros at the end do not come back
        struct.pack("<QQ", MAIN, SUB),
        struct.pack("<II", len(code) - 2, 2),
        lines,
        struct.pack("<QQ", MAIN, SUB),
    ]
    return Done(0, {0: b"", **{index: buf.rstrip(b"\0") for index, buf in enumerate(bufs, 1)}})


def accepted(code: bytes, run: Done, room: int = 1 << 16) -> list[Done]:
    return [Done(3, {2: b""}), Done(4, {3: ACCEPTED.encode()}), run, info(code, room)]


def test_an_accepted_program() -> None:
    run = Done(0, {0: b"\4\0\0\0\x07\0\0\x80", 1: b"\1\2"})
    answer = ask(Kernel([accepted(bytes.fromhex("0f1f00c390c3"), run)]), job(ctx=b"\1\1\1\1"))
    assert answer == Answer(
        errno=0,
        log=ACCEPTED,
        xlated=bytes.fromhex("b700000007000000 9500000000000000"),
        processed=5,
        stack_depths=(16, 8),
        run_errno=0,
        retval=0x8000_0007,
        memory=b"\1\2\0\0",
        funcs=(NativeFunc(MAIN, bytes.fromhex("0f1f00c3")), NativeFunc(SUB, bytes.fromhex("90c3"))),
        lines=((0, MAIN), (3, SUB)),
    )


def test_a_run_that_fails() -> None:
    answer = ask(Kernel([accepted(b"\xc3" * 4, Done(-22, {0: b"\4", 1: b"\7"}))]), job(ctx=b"\7\0"))
    assert (answer.errno, answer.run_errno, answer.retval) == (0, 22, None)


class Secretive(Kernel):
    """Refuses to tell: what it was given to fill in comes back as it was."""

    def batch(self, calls: Sequence[Syscall]) -> list[Done]:
        done = super().batch(calls)
        given = {index: buf.data.rstrip(b"\0") for index, buf in enumerate(calls[3].bufs)}
        return [*done[:3], Done(-22, given), *done[4:]]


def test_an_info_that_is_refused_gives_no_native_code() -> None:
    answer = ask(Secretive([accepted(b"\xc3" * 4, Done(0, {0: b""}))]), job())
    assert isinstance(reply_of("x86_64", job(), answer, {}), Unsupported)


def test_native_code_that_has_no_room_is_not_made_up() -> None:
    program = prog(Source("main", "r0 = 0\nexit"), Source("f", "r0 = 0\nexit"))
    answer = ask(Kernel([accepted(b"\x90" * 70000, Done(0, {0: b""}), room=65536)]), job(program))
    assert isinstance(reply_of("x86_64", job(program), answer, {}), Unsupported)


def test_a_log_without_room_is_no_refusal() -> None:
    """The kernel ends the load with ENOSPC: it is asked again with more room, then for statistics alone."""
    full, run = refused(28, "0: (b7) r0 = 1\n"), Done(0, {0: b"\4\0\0\0\x07"})
    kernel = Kernel([full, accepted(b"\xc3" * 4, run)])
    assert ask(kernel, job()).errno == 0
    rooms = [word(kernel.load(number).bufs[0].data, 28) for number in (0, 1)]
    assert rooms == [1 << 18, 1 << 24] == [kernel.load(number).bufs[3].length for number in (0, 1)]
    kernel = Kernel([full, full, accepted(b"\xc3" * 4, run)])
    assert ask(kernel, job()).errno == 0
    assert [word(kernel.load(number).bufs[0].data, 24) for number in range(3)] == [5, 5, 4]  # log_level
    assert ask(Kernel([full] * 3), job()).errno == 28


# --- asking


def test_a_load() -> None:
    kernel = Kernel([refused(13, REFUSED_72)] * 2)
    ask(kernel, job())
    ask(kernel, replace(job(), verbose=True))
    load = kernel.load()
    attr, insns, licence = (buf.data for buf in load.bufs[:3])
    assert load.args[0] == 5  # BPF_PROG_LOAD
    assert (word(attr, 0), word(attr, 4), word(attr, 44)) == (
        31,
        2,
        16,
    )  # BPF_PROG_TYPE_SYSCALL; insns; BPF_F_SLEEPABLE
    assert [word(kernel.load(number).bufs[0].data, 24) for number in (0, 1)] == [1 | 4, 2 | 4]  # log_level
    assert insns.hex(" ", 8) == "b701000000000000 9500000000000000"
    assert licence == b"GPL\0"


def test_every_insn_has_a_line_but_a_second_slot() -> None:
    kernel = Kernel([refused(13, REFUSED_72)])
    ask(kernel, job(prog(Source("main", "r0 = 5 ll\nexit"))))
    attr, *bufs = (buf.data for buf in kernel.load().bufs)
    assert (word(attr, 92), word(attr, 104)) == (16, 2)  # line_info_rec_size, line_info_cnt
    assert [row[0] for row in struct.iter_unpack("<IIII", bufs[3])] == [0, 2]


def test_line_info_that_does_not_fit_is_left_out() -> None:
    why = "line_info[1].insn_off:1 is beyond the program\n"
    kernel = Kernel([refused(22, why), refused(22, "last insn is not an exit or jmp\n")])
    assert ask(kernel, job()).message == "last insn is not an exit or jmp"
    assert [word(kernel.load(number).bufs[0].data, 104) for number in (0, 1)] == [2, 0]
    assert len(kernel.load(1).bufs) == 4


def test_another_refusal_is_not_asked_again() -> None:
    kernel = Kernel([refused(13, REFUSED_72)])
    ask(kernel, job())
    assert len(kernel.asked) == 1


TYPED = Source("f", "r0 = 0\nexit", parse_proto("u64 f(void)"))
WIDE = Source("g", "r0 = 0\nexit", parse_proto("global int g(u32 a)"))
CALLS = "call f\ncall g\nexit"


def functions(*sources: Source) -> list[tuple[int, str, int]]:
    return [(subprog.start, str(proto), linkage) for subprog, proto, linkage in _functions(prog(*sources))]


def test_no_function_has_a_prototype() -> None:
    sources = Source("main", "call f\nexit"), Source("f", "r0 = 0\nexit")
    assert functions(*sources) == []
    kernel = Kernel([refused(13, REFUSED_72)])
    ask(kernel, job(prog(*sources)))
    assert word(kernel.load().bufs[0].data, 88) == 0  # func_info_cnt


def test_every_function_has_a_prototype() -> None:
    main = Source("main", CALLS, parse_proto("int main(struct c *ctx)"))
    assert functions(main, TYPED, WIDE) == [
        (0, "int main(struct c *ctx)", GLOBAL),
        (3, "u64 f(void)", STATIC),
        (5, "int g(u32 a)", GLOBAL),
    ]


def test_some_functions_have_a_prototype() -> None:
    sources = Source("main", CALLS), Source("f", "r0 = 0\nexit"), WIDE
    assert functions(*sources) == [
        (0, "int main(void *ctx)", GLOBAL),
        (3, "u64 f(void)", STATIC),
        (5, "int g(u32 a)", GLOBAL),
    ]
    kernel = Kernel([refused(13, REFUSED_72)])
    ask(kernel, job(prog(*sources)))
    attr, *bufs = (buf.data for buf in kernel.load().bufs)
    assert (word(attr, 76), word(attr, 88)) == (8, 3)  # func_info_rec_size, func_info_cnt
    # int, void *, main, its FUNC; u64, f, its FUNC; u32, g, its FUNC
    assert list(struct.iter_unpack("<II", bufs[3])) == [(0, 4), (3, 7), (5, 10)]


KF, KG = parse_proto("u64 kf(u64 a)"), parse_proto("u64 kg(u64 a)")


def test_kfuncs_are_called_by_the_ids_of_the_kernel() -> None:
    program = assemble([Source("main", "r1 = 1\ncall kf\ncall kg\nexit")], [KF, KG]).prog
    kernel = Kernel([refused(13, REFUSED_72)])
    ask(kernel, job(program), KfuncIds((17, 19), {KF: (1, 1234), KG: (2, 0x0102_0304)}))
    bufs = [buf.data for buf in kernel.load().bufs]
    # opcode 85, src 2 (BPF_PSEUDO_KFUNC_CALL), off, imm
    assert bufs[1][8:24].hex(" ", 8) == "85200100d2040000 8520020004030201"
    assert bufs[-1].hex(" ", 4) == "00000000 11000000 13000000"  # fd_array, whose first is not used


def test_a_kfunc_that_the_kernel_does_not_have_stays() -> None:
    program = assemble([Source("main", "r1 = 1\ncall kf\nexit")], [KF]).prog
    kernel = Kernel([refused(13, REFUSED_72)])
    ask(kernel, job(program))
    assert kernel.load().bufs[1].data[8:16].hex() == "8520000001000000"
