"""The arm64 JIT's code run: stack arguments value by value, arithmetic and jumps against the opcode table."""

import pytest

from backends.arm64.jit import Arm64Jit, Options
from backends.arm64.tests.machine import ExternCall, run, verified
from harness.isa import opcodes as op
from harness.isa.opcodes import MASK32, MASK64
from harness.isa.verified import FuncFacts, Verified

NO_STACK = FuncFacts(0, 0, 0)
VALUES = {6: 0x6666, 7: -7, 8: 0x0808_0808, 9: 0x6666_6667, 10: 10, 11: -1100, 12: 0x7FFF_FFFF}
RESULTS = {
    6: 0x6666,
    7: 0xFFFF_FFFF_FFFF_FFF9,
    8: 0x0808_0808,
    9: 0x6666_6667,
    10: 10,
    11: 0xFFFF_FFFF_FFFF_FBB4,
    12: 0x7FFF_FFFF,
}


def _passing(count: int, wanted: int, *, through_register: bool) -> Verified:
    """Main passes `count` arguments to a subprog that returns argument `wanted`."""
    stores = []
    for k in range(count, 5, -1):
        off = 8 * (k - 5)
        if through_register:
            stores += [f"r6 = {VALUES[k]}", f"*(u64 *)(r11 - {off}) = r6"]
        else:
            stores += [f"*(u64 *)(r11 - {off}) = {VALUES[k]}"]
    main = "\n".join([*stores, *(f"r{n} = {n}" for n in range(1, 6)), "call f", "exit"])
    callee = f"r0 = *(u64 *)(r11 + {8 * (wanted - 5)})\nexit"
    slots = count - 5
    return verified(("main", main, FuncFacts(0, 0, slots)), ("f", callee, FuncFacts(0, slots, 0)))


@pytest.mark.parametrize("through_register", [False, True])
@pytest.mark.parametrize(("count", "wanted"), [(n, k) for n in (6, 8, 9, 12) for k in range(6, n + 1)])
def test_every_stack_argument_arrives(count: int, wanted: int, through_register: bool) -> None:
    seen = run(_passing(count, wanted, through_register=through_register))
    assert (seen.result, seen.sp_kept, seen.lost, seen.fault) == (RESULTS[wanted], True, (), "")


def test_a_kfunc_gets_twelve_arguments_where_aapcs64_puts_them() -> None:
    stores = "\n".join(f"*(u64 *)(r11 - {8 * (k - 5)}) = {k * 11}" for k in range(6, 13))
    text = f"{stores}\nr1 = 11\nr2 = 22\nr3 = 33\nr4 = 44\nr5 = 55\ncall twelve\nexit"
    proto = f"u64 twelve({', '.join(['u64'] * 12)})"
    seen = run(verified(("main", text, FuncFacts(0, 0, 7)), kfuncs=[proto]))
    assert seen.calls == (ExternCall("twelve", (11, 22, 33, 44, 55, 66, 77, 88, 99, 110, 121, 132), True),)
    assert (seen.result, seen.sp_kept, seen.lost, seen.fault) == (858, True, (), "")


def test_lowerings_between_store_and_call_leave_the_arguments_alone() -> None:
    text = """
        *(u64 *)(r11 - 8) = 600
        *(u64 *)(r11 - 16) = 700
        *(u64 *)(r11 - 24) = 800
        *(u64 *)(r11 - 32) = 0x12345678
        r1 = 0x1234567
        r1 += 0x12345678
        r2 = 100
        r2 %= 7
        r3 = 1
        if r3 == 0x1234567 goto +0
        *(u32 *)(r10 - 13) = 0x12345678
        r4 = *(u32 *)(r10 - 13)
        r5 = r4
        r5 &= 0x12345
        r0 = 77
        call nine
        exit
    """
    kfunc = f"u64 nine({', '.join(['u64'] * 9)})"
    seen = run(verified(("main", text, FuncFacts(16, 0, 4)), kfuncs=[kfunc]))
    args = (0x1357_9BDF, 2, 1, 0x1234_5678, 0x0240, 600, 700, 800, 0x1234_5678)
    assert seen.calls == (ExternCall("nine", args, True),)


def test_frames_of_three_functions_keep_apart() -> None:
    """Main calls f with 9 arguments, f calls g with 12, between uses of R6-R9 and of the stack."""
    main = """
        r6 = 1000
        *(u64 *)(r10 - 8) = 30
        *(u64 *)(r11 - 8) = 6
        *(u64 *)(r11 - 16) = 7
        *(u64 *)(r11 - 24) = 8
        *(u64 *)(r11 - 32) = 9
        r1 = 1
        call f
        r0 += r6
        r1 = *(u64 *)(r10 - 8)
        r0 += r1
        exit
    """
    f = """
        r6 = *(u64 *)(r11 + 32)
        r7 = *(u64 *)(r11 + 8)
        *(u64 *)(r10 - 16) = 200
        *(u64 *)(r11 - 8) = r6
        *(u64 *)(r11 - 16) = r7
        *(u64 *)(r11 - 24) = 1
        *(u64 *)(r11 - 32) = 2
        *(u64 *)(r11 - 40) = 3
        *(u64 *)(r11 - 48) = 4
        *(u64 *)(r11 - 56) = 5
        call g
        r1 = *(u64 *)(r10 - 16)
        r0 += r1
        r1 = *(u64 *)(r11 + 32)
        r0 += r1
        exit
    """
    g = """
        r6 = -1
        r7 = -1
        r0 = *(u64 *)(r11 + 8)
        r0 *= 10000
        r1 = *(u64 *)(r11 + 56)
        r1 *= 100000
        r0 += r1
        exit
    """
    program = verified(("main", main, FuncFacts(8, 0, 4)), ("f", f, FuncFacts(16, 4, 7)), ("g", g, FuncFacts(0, 7, 0)))
    for options in (Options(), Options(bti=False, pac=False)):
        seen = run(program, Arm64Jit(options))
        assert (seen.result, seen.sp_kept, seen.lost, seen.fault) == (591_239, True, (), "")


PAIRS = [
    (0xFEDC_BA98_7654_3210, 0x8000_0000_0000_0009),
    (0x8000_0000_8000_0000, MASK64),
    (5, 0),
    (0x0000_0001_FFFF_FFF0, 0x7FFF_FFFF),
    (7, 7),
]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("row", op.ALU, ids=lambda row: row.name)
def test_arithmetic(row: op.AluOp, bits: int) -> None:
    if (row, bits) == (op.MOVSX32, 32):
        return
    r, mask = ("r", MASK64) if bits == 64 else ("w", MASK32)
    for left, right in PAIRS:
        insn = f"{r}1 = -{r}1" if row is op.NEG else f"{r}1 {row.symbol} {r}2"
        seen = run(verified(("main", f"{insn}\nr0 = r1\nexit", NO_STACK)), r1=left, r2=right)
        assert seen.result == row.sem(left & mask, right & mask, bits) & mask, (left, right)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("row", [row for row in op.ALU if row not in (op.NEG, *op.MOVSX)], ids=lambda row: row.name)
def test_arithmetic_with_constants(row: op.AluOp, bits: int) -> None:
    r, mask = ("r", MASK64) if bits == 64 else ("w", MASK32)
    shift = row in (op.LSH, op.RSH, op.ARSH)
    for imm in (0, 1, 31) if shift else (1, -1, 0x1000, -0x1000, 0x1234_5678, -(1 << 31), 0x7FFF_FFFF, 255):
        for left, _ in PAIRS[:2]:
            program = verified(("main", f"{r}1 {row.symbol} {imm}\nr0 = r1\nexit", NO_STACK))
            assert run(program, r1=left).result == row.sem(left & mask, imm & mask, bits) & mask, (left, imm)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("row", op.JMP, ids=lambda row: row.name)
def test_jumps(row: op.JmpOp, bits: int) -> None:
    r, mask = ("r", MASK64) if bits == 64 else ("w", MASK32)
    tail = "goto yes\nr0 = 1\nexit\nyes: r0 = 2\nexit"
    for left, right in PAIRS:
        seen = run(verified(("main", f"if {r}1 {row.symbol} {r}2 {tail}", NO_STACK)), r1=left, r2=right)
        assert seen.result == 1 + row.holds(left & mask, right & mask, bits), (left, right)
    for imm in (0, 7, -1, 0x1000, 0x1234_5678, -(1 << 31)):
        for left in (7, MASK64, 0x1_0000_0000):
            seen = run(verified(("main", f"if {r}1 {row.symbol} {imm} {tail}", NO_STACK)), r1=left)
            assert seen.result == 1 + row.holds(left & mask, imm & mask, bits), (left, imm)


@pytest.mark.parametrize(
    ("size", "from_reg", "from_imm"),
    [
        ("u8", 0x88, 0xF0),
        ("u16", 0x7788, 0xCDF0),
        ("u32", 0x5566_7788, 0x89AB_CDF0),
        ("u64", 0x1122_3344_5566_7788, 0xFFFF_FFFF_89AB_CDF0),
    ],
)
@pytest.mark.parametrize("off", [-8, -16, -15])
def test_memory(size: str, from_reg: int, from_imm: int, off: int) -> None:
    stack = FuncFacts(16, 0, 4)
    for base, place in (("", f"r10 - {-off}"), (f"r4 = r10\nr4 += {off}\n", "r4 + 0")):
        store = f"{base}*({size} *)({place}) = %s\nr0 = *({size} *)({place})\nexit"
        assert run(verified(("main", store % "r1", stack)), r1=0x1122_3344_5566_7788).result == from_reg
        w = -0x7654_3210
        assert run(verified(("main", store % w, stack))).result == from_imm
