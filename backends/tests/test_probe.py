"""Every always-on check, made to fail by native code written by hand, and by nothing else."""

import pytest

from backends.base import Job, Ran
from backends.tests.hand import KFUNC_AT, bl, call, job_of, run_hand

TEN = "u64 callee(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u64 i, u64 j)"
MAIN = """
    r1 = 1
    r2 = 2
    r3 = 3
    r4 = 4
    r5 = 5
    *(u64 *)(r11 - 8) = 600
    *(u64 *)(r11 - 16) = -7
    *(u64 *)(r11 - 24) = 0
    *(u64 *)(r11 - 32) = 900
    *(u64 *)(r11 - 40) = 0x3b9ab4f8
    call callee
    exit
"""
CALLEE = """
    r0 = *(u64 *)(r11 + 8)
    r1 = *(u64 *)(r11 + 16)
    r0 += r1
    r1 = *(u64 *)(r11 + 24)
    r0 += r1
    r1 = *(u64 *)(r11 + 32)
    r0 += r1
    r1 = *(u64 *)(r11 + 40)
    r0 += r1
    exit
"""
# The two functions above as an independent assembler gives them, run against a C callee elsewhere.
ARM64_MAIN = """
    aa1e03e9 d503201f a9bf7bfd 910003fd a9bf6bff 910003fa d10043ff d2800020 d2800041 d2800062 d2800083 d28000a4
    d2804b05 928000c6 d2800007 d280708a f90003ea d2969f0a f2a7734a f90007ea 94000007 aa0003e8 910043ff a8c16bff
    a8c17bfd aa0803e0 d65f03c0
"""
ARM64_CALLEE = """
    aa1e03e9 d503201f a9bf7bfd 910003fd a9bf6bfa aa0503e8 aa0603e0 8b000108 aa0703e0 8b000108 f9400ba0 8b000108
    f9400fa0 8b000108 a8c16bff a8c17bfd aa0803e0 d65f03c0
"""
X86_MAIN = """
    f30f1efa 55 4889e5 4883ec20 bf01000000 be02000000 ba03000000 b904000000 41b805000000 41b958020000 48c745e0f9ffffff
    48c745e800000000 48c745f084030000 48c745f8f8b49a3b e806000000 4883c420 c9 c3
"""
X86_CALLEE = """
    f30f1efa 55 4889e5 4c89c8 488b7d10 4801f8 488b7d18 4801f8 488b7d20 4801f8 488b7d28 4801f8 c9 c3
"""


@pytest.fixture(scope="module")
def ten() -> Job:
    return job_of({"main": MAIN, TEN: CALLEE})


def first(outcome: Ran) -> tuple[str, str]:
    return outcome.violations[0].check, outcome.violations[0].message


def replaced(code: str, old: str, new: str) -> str:
    assert code.count(old) >= 1
    return code.replace(old, new, 1)


def test_right_code_breaks_nothing(ten: Job) -> None:
    for arch, *code in (("arm64", ARM64_MAIN, ARM64_CALLEE), ("x86_64", X86_MAIN, X86_CALLEE)):
        outcome = run_hand(arch, ten, *code)
        assert outcome.violations == ()
        assert outcome.retval == 999996109
        assert [c.args for c in outcome.calls] == [(1, 2, 3, 4, 5, 600, 2**64 - 7, 0, 900, 0x3B9AB4F8)]


ARM64_BROKEN = [
    ("ABI-ARG", "main", "d2804b05 928000c6", "d2804b06 928000c5", "argument 6 `f` at x5"),
    ("ABI-ARG", "main", "f90007ea", "f90003ea", "argument 9 `i` at [sp]"),
    ("ABI-ARG", "main", "928000c6", "52800006", "argument 7 `g` at x6"),
    ("ABI-SP", "main", "d10043ff", "d10023ff", "`str x10, [sp]` uses SP"),
    ("ABI-SAVED", "callee", "aa0503e8", "d2800033", "returns with x19 = 0x1"),
    ("ABI-SAVED", "callee", "aa0503e8", "d2800032", "returns with x18 = 0x1"),
    ("ABI-SAVED", "callee", "a8c16bff", "d503201f", "callee returns to 0x3000efe0"),
    ("ABI-SAVED", "main", "910043ff", "d503201f", "main returns"),
    ("ABI-STACK", "callee", "f9400fa0", "f94013a0", "reads 8 bytes at 0x10 above the frame, where 16 bytes"),
    ("ABI-STACK", "callee", "f9400fa0", "f81f03e0", "writes 16 bytes below SP"),
    ("ABI-STACK", "callee", "f9400fa0", "f9401be0", "above the frame"),
    ("MEM", "callee", "f9400fa0", "f940003f", "a read of 8 bytes at 0x2"),
    ("MEM", "callee", "f9400fa0", "f9000100", "a write of 8 bytes"),
]


@pytest.mark.parametrize(("check", "where", "old", "new", "words"), ARM64_BROKEN)
def test_arm64_break(ten: Job, check: str, where: str, old: str, new: str, words: str) -> None:
    main, callee = ARM64_MAIN, ARM64_CALLEE
    if where == "main":
        main = replaced(main, old, new)
    else:
        callee = replaced(callee, old, new)
    got, message = first(run_hand("arm64", ten, main, callee))
    assert got == check, message
    assert words in message


X86_BROKEN = [
    ("ABI-ARG", "main", "41b958020000", "41ba58020000", "argument 6 `f` at r9"),
    ("ABI-ARG", "main", "48c745e0f9ffffff", "48c745e8f9ffffff", "argument 7 `g` at [rsp]"),
    ("ABI-SP", "main", "4883ec20", "4883ec24", "SP is"),
    ("ABI-SAVED", "callee", "4c89c8", "4889cb", "returns with rbx = 0x4"),
    ("ABI-SAVED", "callee", "488b7d28", "48897d08", "overwrites the return address"),
    ("ABI-SAVED", "callee", "c9 c3", "5d5d c3", "callee returns"),
    ("ABI-STACK", "callee", "488b7d28", "488b7d30", "reads 8 bytes at 0x20 above the frame, where 32 bytes"),
    ("ABI-STACK", "callee", "488b7d28", "48897df8", "writes 8 bytes below SP"),
    ("MEM", "callee", "488b7d28", "488b3f90", "a read of 8 bytes at"),
    ("MEM", "callee", "488b7d28", "48893f90", "a write of 8 bytes at"),
]


@pytest.mark.parametrize(("check", "where", "old", "new", "words"), X86_BROKEN)
def test_x86_break(ten: Job, check: str, where: str, old: str, new: str, words: str) -> None:
    main, callee = X86_MAIN, X86_CALLEE
    if where == "main":
        main = replaced(main, old, new)
    else:
        callee = replaced(callee, old, new)
    got, message = first(run_hand("x86_64", ten, main, callee))
    assert got == check, message
    assert words in message


def test_landing_pads(ten: Job) -> None:
    got, message = first(run_hand("arm64", ten, ARM64_MAIN, ARM64_CALLEE, landing_pads=True))
    assert (got, "no BTI landing pad" in message) == ("ABI-LAND", True)
    assert run_hand("x86_64", ten, X86_MAIN, X86_CALLEE, landing_pads=True).violations == ()
    bare = replaced(X86_MAIN, "f30f1efa", "0f1f4000")
    got, message = first(run_hand("x86_64", ten, bare, X86_CALLEE, landing_pads=True))
    assert (got, "no ENDBR64 landing pad" in message) == ("ABI-LAND", True)


def test_indirect_call_lands_on_a_landing_pad() -> None:
    job = job_of({"main": "call callee\nexit", "u64 callee(void)": "r0 = 7\nexit"})
    # lea rax, [rip + callee]; call rax; ret
    main = "f30f1efa 488d0503000000 ffd0 c3"
    good = "f30f1efa b807000000 c3"
    assert run_hand("x86_64", job, main, good, landing_pads=True).violations == ()
    got, message = first(run_hand("x86_64", job, main, "b807000000 c3", landing_pads=True))
    assert (got, "the target of this indirect call" in message) == ("ABI-LAND", True)
    # adr x10, callee; stp x29, x30, [sp, #-16]!; blr x10; ldp; ret
    main = "d503245f 1000008a a9bf7bfd d63f0140 a8c17bfd d65f03c0"
    main = replaced(main, "1000008a", "100000aa")
    assert run_hand("arm64", job, main, "d503245f d28000e0 d65f03c0", landing_pads=True).violations == ()
    got, _ = first(run_hand("arm64", job, main, "d28000e0 d65f03c0", landing_pads=True))
    assert got == "ABI-LAND"


KF8 = "u64 kf(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h)"
KF8_MAIN = """
    r1 = 1
    r2 = 2
    r3 = 3
    r4 = 4
    r5 = 5
    *(u64 *)(r11 - 8) = 6
    *(u64 *)(r11 - 16) = 7
    *(u64 *)(r11 - 24) = 8
    call kf
    exit
"""
X86_ARGS = "bf01000000 be02000000 ba03000000 b904000000 41b805000000 41b906000000"


def test_a_kfunc_destroys_what_a_callee_may_destroy() -> None:
    job = job_of({"main": KF8_MAIN}, {KF8: "sum"})
    head = f"4883ec10 {X86_ARGS} 48c7042407000000 48c744240808000000"
    at = 4 + 6 * 6 - 4 + 8 + 9
    right = f"{head} {call(at, KFUNC_AT)} 4883c410 c3"
    outcome = run_hand("x86_64", job, right)
    assert (outcome.retval, outcome.violations) == (36, ())
    for reads, what in (
        ("4889f8", "rdi"),
        ("4c89c8", "r9"),
        ("4889d0", "rdx"),
        ("488b0424", "the area of its outgoing stack arguments"),
        ("488b442408", "the area of its outgoing stack arguments"),
    ):
        # A kfunc that returns what was in the place beforehand, so that only the destruction shows.
        before = {"rdi": 1, "r9": 6, "rdx": 3}.get(what, 7 if reads == "488b0424" else 8)
        told = job_of({"main": KF8_MAIN}, {KF8: before})
        outcome = run_hand("x86_64", told, f"{head} {call(at, KFUNC_AT)} {reads} 4883c410 c3")
        assert [(v.check, what in v.message) for v in outcome.violations] == [("ABI-SCRATCH", True)]


def test_bits_above_a_narrow_result_are_poison() -> None:
    job = job_of({"main": "call kf\nexit"}, {"u8 kf(void)": 0xFF})
    outcome = run_hand("x86_64", job, f"{call(0, KFUNC_AT)} c3")
    assert outcome.retval is not None
    assert outcome.retval & 0xFF == 0xFF
    assert outcome.retval != 0xFF
    got, message = first(outcome)
    assert (got, "the bits above a narrow result" in message) == ("ABI-SCRATCH", True)


def test_memory_below_sp_does_not_survive_a_call() -> None:
    job = job_of({"main": "call kf\nexit"}, {"u64 kf(void)": 5})
    # stur x9, [sp, #-24] is below SP; so is the read of it after the call
    code = f"a9bf7bfd d2800129 f81e83e9 {bl(12, KFUNC_AT)} f85e83e0 a8c17bfd d65f03c0"
    outcome = run_hand("arm64", job, code)
    assert outcome.retval != 9
    assert [v.check for v in outcome.violations] == ["ABI-STACK", "ABI-STACK"]
    # movz x9, #5; str through a copy of SP, so that no insn names SP
    hidden = f"a9bf7bfd 910003e9 d28000aa f81f012a {bl(16, KFUNC_AT)} 910003e9 f85f0120 a8c17bfd d65f03c0"
    assert first(run_hand("arm64", job, hidden))[0] == "ABI-STACK"


def test_narrow_arguments_are_compared_by_their_type() -> None:
    job = job_of({"main": "r1 = 0x1ff\ncall kf\nexit"}, {"u64 kf(u8 a)": "sum"})
    code = "bfff{:02x}0000 {} c3"
    assert run_hand("x86_64", job, code.format(0x77, call(5, KFUNC_AT))).violations == ()
    assert first(run_hand("x86_64", job, "bffe010000 " + call(5, KFUNC_AT) + " c3"))[0] == "ABI-ARG"


def test_a_call_too_many_or_of_another_function_is_an_error() -> None:
    job = job_of({"main": "call kf\nexit"}, {"u64 kf(void)": 5, "u64 other(void)": 6})
    twice = f"{call(0, KFUNC_AT)} {call(5, KFUNC_AT)} c3"
    assert "no further call" in first(run_hand("x86_64", job, twice))[1]
    assert "a call of kf" in first(run_hand("x86_64", job, f"{call(0, KFUNC_AT + 16)} c3"))[1]
    nowhere = first(run_hand("x86_64", job, f"{call(0, KFUNC_AT + 0x4000)} c3"))
    assert (nowhere[0], "where no function is" in nowhere[1]) == ("ABI-ARG", True)


def test_the_context_is_exactly_as_long_as_it_was_given() -> None:
    job = job_of({"main": "r0 = *(u8 *)(r1 + 3)\nexit"}, ctx=b"\x01\x02\x03\x04")
    assert run_hand("x86_64", job, "0fb64703 c3").violations == ()
    assert run_hand("x86_64", job, "8b4700 25000000ff c1e818 c3").violations == ()
    for code in ("488b4700 c3", "8b4701 c3", "0fb64704 c3", "488b4700 c3", "0fb647ff c3"):
        assert first(run_hand("x86_64", job, code))[0] == "MEM"


def test_an_endless_loop_ends() -> None:
    job = job_of({"main": "r0 = 0\nexit"})
    check, message = first(run_hand("x86_64", job, "ebfe"))
    assert (check, "still running after" in message) == ("END", True)


def test_a_wild_return_is_told_from_a_wild_access() -> None:
    job = job_of({"main": "r0 = 0\nexit"})
    # push 0x1234; ret
    check, message = first(run_hand("x86_64", job, "6834120000 c3"))
    assert (check, "main returns to 0x1234" in message) == ("ABI-SAVED", True)
    # mov x30, #0x1234; ret
    check, message = first(run_hand("arm64", job, "d282469e d65f03c0"))
    assert (check, "main returns to 0x1234" in message) == ("ABI-SAVED", True)


def test_runs_do_not_depend_on_their_order(ten: Job) -> None:
    other = job_of({"main": "r0 = 3\nexit"})
    for _ in range(3):
        assert run_hand("x86_64", other, "b803000000 c3").retval == 3
        assert run_hand("x86_64", ten, X86_MAIN, X86_CALLEE).retval == 999996109
