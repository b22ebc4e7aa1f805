"""Each broken JIT is right where its defect plays no part, and shows where it does."""

import pytest

from backends.x86_64.jit import Options, X8664Jit
from backends.x86_64.tests import doubles
from backends.x86_64.tests.machine import POISON, Program, Run

REGS = "r1 = 0x101\nr2 = 0x202\nr3 = 0x303\nr4 = 0x404\nr5 = 0x505\n"
FIVE = (0x101, 0x202, 0x303, 0x404, 0x505)
Trigger = tuple[Program, list[tuple[int, ...]], int]  # with the calls it makes and its r0
SIX = {"u64 six(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)": 0x77}
SEVEN = {"u64 seven(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g)": 0x77}
EIGHT = {"u64 eight(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h)": 0x77}


def main(text: str, facts: tuple[int, int, int], kfuncs: dict[str, int] | None = None) -> Program:
    return Program({"main": text}, [facts], kfuncs or {})


ARG6_REG: Trigger = (
    main(f"r6 = 0x606\n*(u64 *)(r11 - 8) = r6\n{REGS}call six\nexit", (0, 0, 1), SIX),
    [(*FIVE, 0x606)],
    0x77,
)
ARG6_NEGATIVE: Trigger = (
    main(f"*(u64 *)(r11 - 8) = -7\n{REGS}call six\nexit", (0, 0, 1), SIX),
    [(*FIVE, 2**64 - 7)],
    0x77,
)
ARG6_ZERO: Trigger = (main(f"{REGS}*(u64 *)(r11 - 8) = 0\ncall six\nexit", (0, 0, 1), SIX), [(*FIVE, 0)], 0x77)
ARG6_AND_STACK: Trigger = (
    main(
        f"*(u64 *)(r10 - 8) = 0x99\n*(u64 *)(r11 - 8) = 6\n{REGS}call six\nr0 = *(u64 *)(r10 - 8)\nexit", (8, 0, 1), SIX
    ),
    [(*FIVE, 6)],
    0x99,
)
SHIFT_BETWEEN: Trigger = (
    main(f"*(u64 *)(r11 - 8) = 6\n{REGS}r2 = 4\nr1 <<= r2\nr2 = 0x202\ncall six\nexit", (0, 0, 1), SIX),
    [(0x1010, *FIVE[1:], 6)],
    0x77,
)
DIV_BETWEEN: Trigger = (
    main(f"*(u64 *)(r11 - 8) = 6\n{REGS}r3 /= r2\ncall six\nexit", (0, 0, 1), SIX),
    [(0x101, 0x202, 1, 0x404, 0x505, 6)],
    0x77,
)
STACK_7 = "r6 = 0x606\n*(u64 *)(r11 - 8) = r6\n*(u64 *)(r11 - 16) = 0x707\n"
ARGS_7: Trigger = (main(f"{STACK_7}{REGS}call seven\nr0 += r6\nexit", (0, 0, 2), SEVEN), [(*FIVE, 0x606, 0x707)], 0x67D)
ARGS_7_DEPTH_20: Trigger = (
    main(
        "*(u32 *)(r10 - 20) = 5\n" + f"{STACK_7}{REGS}call seven\nr1 = *(u32 *)(r10 - 20)\nr0 += r1\nexit",
        (20, 0, 2),
        SEVEN,
    ),
    [(*FIVE, 0x606, 0x707)],
    0x7C,
)
ARGS_8: Trigger = (
    main(f"{STACK_7}*(u64 *)(r11 - 24) = 0x808\n{REGS}call eight\nexit", (0, 0, 3), EIGHT),
    [(*FIVE, 0x606, 0x707, 0x808)],
    0x77,
)
TWO_EXITS: Trigger = (
    main(f"{STACK_7}{REGS}call seven\nif r0 == 0x77 goto last\nexit\nlast: r0 = 3\nexit", (0, 0, 2), SEVEN),
    [(*FIVE, 0x606, 0x707)],
    3,
)
SUBPROG_7: Trigger = (
    Program(
        {
            "main": f"{STACK_7}{REGS}r0 = 0\ncall sub\nexit",
            "sub": "r0 = *(u64 *)(r11 + 16)\nr1 = *(u64 *)(r11 + 8)\nr0 -= r1\nexit",
        },
        [(0, 0, 2), (0, 2, 0)],
    ),
    [],
    0x101,
)
DIVISOR_IN_RAX: Trigger = (main("r0 = 7\nr1 = 700\nr1 /= r0\nr0 = r1\nexit", (0, 0, 0)), [], 100)
SHIFT_OF_RCX: Trigger = (main("r4 = 3\nr1 = 4\nr4 <<= r1\nr0 = r4\nexit", (0, 0, 0)), [], 48)
MOV32_SELF: Trigger = (main("r0 = -1\nw0 = w0\nexit", (0, 0, 0)), [], 0xFFFF_FFFF)
BYTE_STORE: Trigger = (main("*(u64 *)(r10 - 8) = 0\nr2 = 0x1234\nr3 = 0\n*(u8 *)(r10 - 8) = r2\nr0 = *(u64 *)(r10 - 8)\nexit", (8, 0, 0)), [], 0x34)  # fmt: skip
UNSIGNED_ABOVE: Trigger = (main("r0 = 1\nr1 = -1\nif r1 > 5 goto out\nr0 = 2\nout: exit", (0, 0, 0)), [], 1)

# What shows: a wrong result, wrong arguments of a kfunc, a fault, or the registers that are not given back.
ON_STACK = "*(u64 *)(r10 - 8) = 5\n"
EXTEND: Trigger = (main("r1 = 0x180\nr0 = (s8)r1\nexit", (0, 0, 0)), [], 2**64 - 128)
DIVIDE: Trigger = (main("r0 = -13\nr0 s/= 3\nexit", (0, 0, 0)), [], 2**64 - 4)
SWAP: Trigger = (main("r0 = 0x11223344\nr0 = be16 r0\nexit", (0, 0, 0)), [], 0x4433)
FETCH: Trigger = (main(ON_STACK + "r0 = 2\nr0 = atomic64_fetch_add((u64 *)(r10 - 8), r0)\nexit", (8, 0, 0)), [], 5)
OLD: Trigger = (
    main(ON_STACK + "r0 = 7\nr1 = 2\nr0 = atomic64_cmpxchg((u64 *)(r10 - 8), r0, r1)\nexit", (8, 0, 0)),
    [],
    5,
)
LOOP: Trigger = (
    main(ON_STACK + "r0 = 7\nr1 = 2\nr1 = atomic64_fetch_or((u64 *)(r10 - 8), r1)\nexit", (8, 0, 0)),
    [],
    7,
)

NINE_SLOTS = "".join(f"*(u64 *)(r11 - {8 * n}) = {0x600 + n}\n" for n in range(1, 5))
CIRCLE: Trigger = (  # psABI 3.2.3: the struct is on the stack, and r9 is for the integer behind it
    main(
        f"{NINE_SLOTS}{REGS}call mixed\nexit",
        (0, 0, 4),
        {"u64 mixed(u64 a, u64 b, u64 c, u64 d, u64 e, struct {u64 lo, hi;} p, u64 f, u64 g)": 0x77},
    ),
    [(*FIVE, 0x603, 0x601, 0x602)],
    0x77,
)
ALIGNED: Trigger = (  # argument 7, a hole with what BPF code left there, the two halves and the last argument
    main(
        f"{NINE_SLOTS}*(u64 *)(r11 - 40) = 0x605\n{REGS}r6 = 7\ncall wide\nexit",
        (0, 0, 5),
        {"u64 wide(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, __int128 v, u64 h)": 0x77},
    ),
    [(*FIVE, 0x601, 0x602, 0x603, 0x603)],
    0x77,
)
PAIR: Trigger = (main("r1 = 1\ncall two\nr0 = r2\nexit", (0, 0, 0), {"__int128 two(u64 a)": 0x77}), [(1,)], POISON + 2)

DOUBLES: dict[type[X8664Jit], tuple[Trigger, str]] = {
    doubles.Arg6NotSet: (ARG6_REG, "calls"),
    doubles.Arg6InMemory: (ARG6_REG, "calls"),
    doubles.Arg6InScratch: (ARG6_REG, "calls"),
    doubles.Arg6Reversed: (ARG6_REG, "calls"),
    doubles.Arg6ZeroExtended: (ARG6_NEGATIVE, "calls"),
    doubles.Arg6ClearsEcx: (ARG6_ZERO, "calls"),
    doubles.Arg6ImmStoredToo: (ARG6_AND_STACK, "r0"),
    doubles.ShiftTakesR9: (SHIFT_BETWEEN, "calls"),
    doubles.DivTakesR9: (DIV_BETWEEN, "calls"),
    doubles.DivisorLost: (DIVISOR_IN_RAX, "r0"),
    doubles.ShiftOfRcxLost: (SHIFT_OF_RCX, "r0"),
    doubles.SeventhOneSlotOff: (ARGS_7, "calls rbx"),
    doubles.OutgoingReversed: (ARGS_8, "calls"),
    doubles.OutgoingForgetsSaved: (ARGS_7, "calls rbx"),
    doubles.OutgoingFromUnroundedDepth: (ARGS_7_DEPTH_20, "calls rbx"),
    doubles.OutgoingAboveSaved: (ARGS_7, "calls rbx"),
    doubles.OutgoingTooSmall: (ARGS_8, "rbx"),
    doubles.OutgoingNotReserved: (ARGS_7, "calls rbx"),
    doubles.IncomingAtReturnAddress: (SUBPROG_7, "r0"),
    doubles.IncomingOneSlotUp: (SUBPROG_7, "r0"),
    doubles.IncomingFromRax: (SUBPROG_7, "fault"),
    doubles.RbxNotSaved: (ARGS_7, "rbx"),
    doubles.RbxNotRestored: (ARGS_7, "rbx"),
    doubles.RspNotRestored: (ARGS_7, "rbx"),
    doubles.RspNotRestoredAtLaterExits: (TWO_EXITS, "rbx"),
    doubles.R9PushedAroundCalls: (ARGS_7, "calls"),
    doubles.Mov32OfItselfElided: (MOV32_SELF, "r0"),
    doubles.ByteStoreWithoutRex: (BYTE_STORE, "r0"),
    doubles.UnsignedTakenAsSigned: (UNSIGNED_ABOVE, "r0"),
    doubles.ExtendsFrom16: (EXTEND, "r0"),
    doubles.DividesUnsigned: (DIVIDE, "r0"),
    doubles.SwapKeepsUpper: (SWAP, "r0"),
    doubles.FetchForgotten: (FETCH, "r0"),
    doubles.OldValueForgotten: (OLD, "r0"),
    doubles.LoopForgetsR0: (LOOP, "r0"),
    doubles.KfuncArgsNotMoved: (CIRCLE, "calls"),
    doubles.KfuncArgsInACircle: (CIRCLE, "calls"),
    doubles.KfuncArgsNotAligned: (ALIGNED, "calls"),
    doubles.KfuncAreaNotReserved: (ALIGNED, "rbx"),
    doubles.HighHalfLeftBehind: (PAIR, "r0"),
}


@pytest.mark.parametrize("options", [Options(), Options(ibt=False, bmi2=False)], ids=["bmi2", "plain"])
@pytest.mark.parametrize("double", DOUBLES, ids=lambda double: double.__name__)
def test_the_jit_itself_is_right(double: type[X8664Jit], options: Options) -> None:
    (program, calls, r0), _ = DOUBLES[double]
    assert program.run(X8664Jit(options)) == Run(r0, calls)


@pytest.mark.parametrize("double", DOUBLES, ids=lambda double: double.__name__)
def test_the_defect_shows(double: type[X8664Jit]) -> None:
    (program, calls, r0), shows = DOUBLES[double]
    got = program.run(double())
    if got.fault:
        assert shows == "fault"
        return
    wrong = [name for name, bad in (("r0", got.r0 != r0), ("calls", got.calls != calls)) if bad]
    assert [*wrong, *got.lost] == shows.split()


@pytest.mark.parametrize("double", DOUBLES, ids=lambda double: double.__name__)
def test_the_rest_of_the_double_is_right(double: type[X8664Jit]) -> None:
    program = main("r1 = 40\nr1 += 2\n*(u64 *)(r10 - 8) = r1\nr0 = *(u64 *)(r10 - 8)\nexit", (8, 0, 0))
    assert program.run(double()) == Run(42)


def test_every_double_is_tried() -> None:
    found = {cls for cls in vars(doubles).values() if isinstance(cls, type) and issubclass(cls, X8664Jit)}
    assert found - {X8664Jit} == set(DOUBLES)
