"""The verdict's parts that a case cannot name: errno, the log by level, cost, limits, and the rewritten program."""

import pytest

from harness.isa.asm import Source, assemble
from harness.isa.insn import Prog
from harness.isa.proto import parse_proto
from harness.isa.verified import FuncFacts
from verifier.verdict import Accepted, Rejected
from verifier.verify import Verifier

SIX = parse_proto("u64 f(u64 a, u64 b, u64 c, u64 d, u64 e, u64 g)")
FIVE = "r1 = 1\nr2 = 2\nr3 = 3\nr4 = 4\nr5 = 5\n"


def prog(main: str, callee: str | None = None) -> Prog:
    sources = [Source("main", main)] + ([Source("f", callee, SIX)] if callee else [])
    return assemble(sources, [parse_proto("u64 kf(u64 a)")]).prog


def rejected(program: Prog, verifier: Verifier | None = None) -> Rejected:
    verdict = (verifier or Verifier()).verify(program)
    assert isinstance(verdict, Rejected)
    return verdict


# Errors as Linux 7.2.13 returned them.
ERRNO = [
    (prog("r11 += 1\nexit"), 22),
    (prog("r0 = r3\nexit"), 13),
    (prog("r0 = *(u64 *)(r11 + 8)\nexit"), 13),
    (prog("*(u64 *)(r11 - 64) = 1\nr0 = 0\nexit"), 22),
    (prog(FIVE + "call f\nexit", "r0 = 0\nexit"), 14),
    (prog("*(u64 *)(r11 - 8) = 1\nr0 = 0\nexit"), 22),
    (prog("r2 = r10\nr2 -= 8\nr0 = 0\nexit"), 13),
    (prog("r2 = *(u64 *)(r1 + 0)\nr1 += r2\nr0 = 0\nexit"), 22),
    (prog("r0 = *(u64 *)(r1 - 8)\nexit"), 13),
    (prog("r0 = *(u64 *)(r10 - 4)\nexit"), 13),
    (prog("r3 = *(u8 *)(r1 + 0)\nr3 &= 120\nr2 = r10\nr2 += r3\nr0 = *(u64 *)(r2 - 64)\nexit"), 22),
]


@pytest.mark.parametrize(("program", "errno"), ERRNO)
def test_errno(program: Prog, errno: int) -> None:
    assert rejected(program).errno == errno


def test_log_levels() -> None:
    program = prog("r6 = 77\nr0 = r3\nexit")
    end = "R3 !read_ok\nprocessed 2 insns (limit 1000000)\n"
    assert rejected(program).log == end
    path = "0: R1=ctx() R10=fp[0]0\n0: (b7) r6 = 77 ; R6=77\n1: (bf) r0 = r3\n"
    assert rejected(program, Verifier(log_level=1)).log == path + end
    accepted = Verifier(log_level=2).verify(prog("r0 = 0\nexit"))
    assert accepted.log.splitlines()[1:] == [
        "0: (b7) r0 = 0 ; R0=0",
        "1: (95) exit",
        "processed 2 insns (limit 1000000)",
    ]
    assert Verifier(log_level=1).verify(prog("r0 = 0\nexit")).log == "processed 2 insns (limit 1000000)\n"


def test_cost_is_one_step_an_insn_on_straight_code() -> None:
    for count in (10, 100, 1000):
        verdict = Verifier().verify(prog("r0 = 1\n" * count + "exit"))
        assert verdict.stats.processed_insns == count + 1


def test_limits_end_the_walk() -> None:
    verdict = rejected(prog("r0 = 1\n" * 50 + "exit"), Verifier(max_insns=20))
    assert (verdict.rule, verdict.message) == ("too-complex", "BPF program is too large. Processed 21 insn")
    many = rejected(prog("r0 = *(u8 *)(r1 + 0)\nif r0 > 5 goto out\n" * 9000 + "out: r0 = 0\nexit"))
    assert many.message == "The sequence of 8193 jumps is too complex."


def test_facts() -> None:
    callee = "r6 = *(u64 *)(r11 + 8)\n*(u8 *)(r10 - 20) = 1\nr0 = r6\nexit"
    verdict = Verifier().verify(prog("*(u64 *)(r10 - 8) = 1\n*(u64 *)(r11 - 8) = 6\n" + FIVE + "call f\nexit", callee))
    assert isinstance(verdict, Accepted)
    assert verdict.verified.funcs == (FuncFacts(8, 0, 1), FuncFacts(20, 1, 0))
    assert verdict.stats.stack_depths == (8, 24)


def test_division_by_a_register_is_guarded() -> None:
    # Linux, do_misc_fixups(): if r1 != 0 goto +2; w0 ^= w0; goto +1; r0 /= r1, and so on.
    rows = [
        ("r0 /= r1", "5501020000000000 ac00000000000000 0500010000000000 3f10000000000000"),
        ("r0 %= r1", "1501010000000000 9f10000000000000"),
        ("w0 /= w1", "5601020000000000 ac00000000000000 0500010000000000 3c10000000000000"),
        ("w0 %= w1", "1601020000000000 9c10000000000000 0500010000000000 bc00000000000000"),
    ]
    for text, raw in rows:
        verdict = Verifier().verify(prog(f"r0 = 7\nr1 = 0\nif r0 == 9 goto out\n{text}\nout: exit"))
        assert isinstance(verdict, Accepted)
        rewritten = verdict.verified.prog
        added = raw.split()
        assert [insn.to_bytes().hex() for insn in rewritten.insns[3 : 3 + len(added)]] == added
        assert verdict.verified.origin == (0, 1, 2, *[3] * len(added), 4)
        assert rewritten.insns[2].off == len(added)
        assert rewritten.subprogs[0].end == len(rewritten.insns)


def test_division_by_a_constant_stays() -> None:
    program = prog("r0 = 7\nr0 /= 3\nexit")
    verdict = Verifier().verify(program)
    assert isinstance(verdict, Accepted)
    assert verdict.verified.prog is program
