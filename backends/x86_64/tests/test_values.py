"""What the lowerings compute, run, against the opcode table; and their bytes, typed from the Intel manual."""

from itertools import product

import pytest

from backends.x86_64.jit import Options, X8664Jit
from backends.x86_64.tests.machine import POISON, Program, Run
from backends.x86_64.tests.test_jit import insn_bytes
from harness.isa import opcodes as op

VALUES = (0, 1, 5, 0x1F, 0x20, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 63, 0xFEDC_BA98_7654_3210, op.MASK64)
IMMS = (0, 1, -1, 7, 127, 128, -128, -129, 0x12345, (1 << 31) - 1, -(1 << 31))
SHIFTS = ("lsh", "rsh", "arsh")
JITS = {"bmi2": X8664Jit(), "plain": X8664Jit(Options(bmi2=False))}
WIDTHS = {64: "r", 32: "w"}


def result(row: op.AluOp, bits: int, dst: int, src: int) -> int:
    mask = (1 << bits) - 1
    return row.sem(dst & mask, src & mask, bits) & mask


def stack_of(steps: list[tuple[str, int]], jit: X8664Jit) -> list[int]:
    """Runs each step and returns, for each, what it left in its register. The step may use [r10 - 8]."""
    offsets = range(16, 16 + 8 * len(steps), 8)
    text = "\n".join(f"{step}\n*(u64 *)(r10 - {off}) = r{reg}" for (step, reg), off in zip(steps, offsets, strict=True))
    run = Program({"main": f"{text}\nr0 = 0\nexit"}, [(offsets[-1], 1, 0)]).run(jit)
    assert run == Run(0)
    return [run.slot(-off) for off in offsets]


DIVISIONS = (op.DIV, op.MOD, op.SDIV, op.SMOD)  # by 0, and signed ones by -1, are rewritten before the JIT sees them
BY_REGISTER = [
    (row, bits) for row in op.ALU for bits in WIDTHS if row is not op.NEG and (row is not op.MOVSX32 or bits == 64)
]


@pytest.mark.parametrize("jit", JITS.values(), ids=JITS)
@pytest.mark.parametrize(("row", "bits"), BY_REGISTER, ids=lambda it: str(getattr(it, "name", it)))
def test_alu_by_register_in_every_pair_of_registers(row: op.AluOp, bits: int, jit: X8664Jit) -> None:
    steps, wanted, w = [], [], WIDTHS[bits]
    for n, (dst, src) in enumerate(product(range(10), range(10))):
        b = VALUES[n * 7 % len(VALUES)]
        if row in DIVISIONS and op.signed(b, bits) in (0, -1):
            b = 9
        a = b if dst == src else VALUES[n % len(VALUES)]
        steps.append((f"r{dst} = {a} ll\nr{src} = {b} ll\n{w}{dst} {row.symbol} {w}{src}", dst))
        wanted.append(result(row, bits, a, b))
    assert stack_of(steps, jit) == wanted


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize(
    "row", [row for row in op.ALU if row not in (op.NEG, *op.MOVSX)], ids=lambda row: str(row.name)
)
def test_alu_by_constant(row: op.AluOp, bits: int) -> None:
    steps, wanted, w = [], [], WIDTHS[bits]
    imms = [0, 1, 7, bits - 1] if row.name in SHIFTS else [i for i in IMMS if row not in DIVISIONS or i not in (0, -1)]
    for dst, imm, value in product((0, 3, 4, 5), imms, VALUES[2::3]):
        steps.append((f"r{dst} = {value} ll\n{w}{dst} {row.symbol} {imm}", dst))
        wanted.append(result(row, bits, value, imm & op.MASK64))
    assert stack_of(steps, JITS["bmi2"]) == wanted


@pytest.mark.parametrize("row", [op.DIV, op.MOD, op.SDIV, op.SMOD, op.LSH], ids=lambda row: str(row.name))
@pytest.mark.parametrize("jit", JITS.values(), ids=JITS)
def test_long_lowerings_leave_the_other_registers(row: op.AluOp, jit: X8664Jit) -> None:
    """Not R1-R5, R0 nor argument 6 on its way in."""
    steps = []
    for dst, src in product(range(6), range(6)):
        others = [n for n in range(6) if n not in (dst, src)]
        fill = "".join(f"r{n} = {n + 0x40}\n" for n in range(6))
        total = "".join(f"r9 *= 131\nr9 += r{n}\n" for n in others)
        steps.append((f"{fill}r{dst} {row.symbol} r{src}\nr9 = *(u64 *)(r11 + 8)\n{total}", 9))
    wanted = []
    for dst, src in product(range(6), range(6)):
        value = POISON  # what the machine has in r9
        for n in range(6):
            value = (value * 131 + n + 0x40) & op.MASK64 if n not in (dst, src) else value
        wanted.append(value)
    assert stack_of(steps, jit) == wanted


@pytest.mark.parametrize("bits", WIDTHS)
def test_neg(bits: int) -> None:
    w = WIDTHS[bits]
    steps = [(f"r{dst} = {value} ll\n{w}{dst} = -{w}{dst}", dst) for dst, value in product((0, 8), VALUES)]
    wanted = [-value & ((1 << bits) - 1) for _, value in product((0, 8), VALUES)]
    assert stack_of(steps, JITS["bmi2"]) == wanted


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("row", op.JMP, ids=lambda row: str(row.name))
def test_branches(row: op.JmpOp, bits: int) -> None:
    steps, wanted, w, mask = [], [], WIDTHS[bits], (1 << bits) - 1
    for n, (a, b) in enumerate(product(VALUES, VALUES)):
        dst, src = ((1, 2), (9, 8), (0, 5))[n % 3]
        steps.append(
            (f"r{dst} = {a} ll\nr{src} = {b} ll\nr6 = 1\nif {w}{dst} {row.symbol} {w}{src} goto +1\nr6 = 0", 6)
        )
        wanted.append(int(row.holds(a & mask, b & mask, bits)))
    for a, imm in product(VALUES, IMMS):
        steps.append((f"r5 = {a} ll\nr6 = 1\nif {w}5 {row.symbol} {imm} goto +1\nr6 = 0", 6))
        wanted.append(int(row.holds(a & mask, imm & mask, bits)))
    assert stack_of(steps, JITS["bmi2"]) == wanted


@pytest.mark.parametrize("size", op.SIZES, ids=lambda size: str(size.name))
def test_memory(size: op.Size) -> None:
    """Stores change their own bytes only; loads extend with zeros."""
    value, old = 0x8182_8384_8586_8788, 0x1111_1111_1111_1111
    mask = (1 << 8 * size.bytes) - 1
    steps, wanted = [], []
    for src in range(10):
        place = f"*({size.name} *)(r10 - 8)"
        steps.append(
            (
                f"r{src} = {old} ll\n*(u64 *)(r10 - 8) = r{src}\nr{src} = {value} ll\n{place} = r{src}\nr{src} = *(u64 *)(r10 - 8)",
                src,
            )
        )
        wanted.append(old & ~mask | value & mask)
        steps.append((f"r{src} = {value} ll\n*(u64 *)(r10 - 8) = r{src}\nr{src} = {place}", src))
        wanted.append(value & mask)
        steps.append((f"r{src} = {old} ll\n*(u64 *)(r10 - 8) = r{src}\n{place} = -2\nr{src} = *(u64 *)(r10 - 8)", src))
        wanted.append(old & ~mask | -2 & mask)
    assert stack_of(steps, JITS["bmi2"]) == wanted


# Intel SDM, volume 2, and the KERNEL rows X64-33 to X64-45: the shortest of the encodings that Linux knows.
BYTES = {
    "r1 = r1": "",
    "w1 = w1": "89 FF",
    "r7 = r2": "49 89 F5",
    "w0 = w9": "44 89 F8",
    "r1 = 0": "31 FF",
    "w8 = 0": "45 31 F6",
    "r1 = 1": "BF 01 00 00 00",
    "r1 = -1": "48 C7 C7 FF FF FF FF",
    "w1 = -1": "BF FF FF FF FF",
    "r9 = -2147483648": "49 C7 C7 00 00 00 80",
    "r1 = 0 ll": "31 FF",
    "r1 = 0xffffffff ll": "BF FF FF FF FF",
    "r1 = 0x100000000 ll": "48 BF 00 00 00 00 01 00 00 00",
    "r1 = -1 ll": "48 C7 C7 FF FF FF FF",
    "r1 = 0xffffffff80000000 ll": "48 C7 C7 00 00 00 80",
    "r1 = 0xffffffff7fffffff ll": "48 BF FF FF FF 7F FF FF FF FF",
    "r6 += r7": "4C 01 EB",
    "w1 -= w5": "44 29 C7",
    "r0 *= r3": "48 0F AF C2",
    "r8 *= r1": "4C 0F AF F7",
    "r0 += 127": "48 83 C0 7F",
    "r0 += 128": "48 05 80 00 00 00",
    "w0 |= 128": "0D 80 00 00 00",
    "r1 += 128": "48 81 C7 80 00 00 00",
    "r7 &= -128": "49 83 E5 80",
    "w0 ^= -129": "35 7F FF FF FF",
    "r0 -= 1000": "48 2D E8 03 00 00",
    "r0 &= 1000": "48 25 E8 03 00 00",
    "r1 *= 5": "48 6B FF 05",
    "w7 *= 500": "45 69 ED F4 01 00 00",
    "r7 = -r7": "49 F7 DD",
    "r1 <<= 1": "48 D1 E7",
    "w7 s>>= 1": "41 D1 FD",
    "r1 >>= 63": "48 C1 EF 3F",
    "r1 <<= 0": "48 C1 E7 00",
    "r1 <<= r4": "48 D3 E7",
    "r4 <<= r4": "48 D3 E1",
    "r1 <<= r2": "C4 E2 C9 F7 FF",
    "w1 >>= w2": "C4 E2 4B F7 FF",
    "r9 s>>= r8": "C4 42 8A F7 FF",
    "r0 /= r3": "52 49 89 D3 31 D2 49 F7 F3 5A",
    "r3 %= r0": "50 49 89 C3 48 89 D0 31 D2 49 F7 F3 58",
    "w1 /= w2": "50 52 89 F8 31 D2 F7 F6 89 C7 5A 58",
    "r1 %= 7": "50 52 49 C7 C3 07 00 00 00 48 89 F8 31 D2 49 F7 F3 48 89 D7 5A 58",
    "r1 = *(u8 *)(r2 + 0)": "48 0F B6 7E 00",
    "r1 = *(u16 *)(r2 - 128)": "48 0F B7 7E 80",
    "r7 = *(u32 *)(r9 + 128)": "45 8B AF 80 00 00 00",
    "r0 = *(u64 *)(r7 + 0)": "49 8B 45 00",
    "*(u8 *)(r0 + 1) = r4": "88 48 01",
    "*(u8 *)(r0 + 1) = r1": "40 88 78 01",
    "*(u8 *)(r0 + 1) = r10": "40 88 68 01",
    "*(u8 *)(r7 + 1) = r0": "41 88 45 01",
    "*(u8 *)(r10 - 1) = -1": "C6 45 FF FF",
    "*(u16 *)(r8 - 2) = 0x1234": "66 41 C7 46 FE 34 12",
    "*(u32 *)(r1 + 300) = -1": "C7 87 2C 01 00 00 FF FF FF FF",
    "*(u64 *)(r1 + 0) = -1": "48 C7 47 00 FF FF FF FF",
    "if r1 == 0 goto -1": "48 85 FF 74 FB",
    "r1 = (s8)r2": "48 0F BE FE",
    "r7 = (s16)r9": "4D 0F BF EF",
    "r1 = (s32)r8": "49 63 FE",
    "w2 = (s8)w1": "40 0F BE F7",
    "w0 = (s16)w3": "0F BF C2",
    "r1 = le16 r1": "0F B7 FF",
    "r7 = le32 r7": "45 89 ED",
    "r1 = le64 r1": "",
    "r1 = be16 r1": "66 C1 CF 08 0F B7 FF",
    "r7 = bswap16 r7": "66 41 C1 CD 08 45 0F B7 ED",
    "r1 = be32 r1": "0F CF",
    "r9 = bswap64 r9": "49 0F CF",
    "r1 = *(s8 *)(r2 + 1)": "48 0F BE 7E 01",
    "r1 = *(s16 *)(r2 + 2)": "48 0F BF 7E 02",
    "r7 = *(s32 *)(r2 + 4)": "4C 63 6E 04",
    "r0 s/= r3": "52 49 89 D3 48 99 49 F7 FB 5A",
    "w1 s%= w2": "50 52 89 F8 99 F7 FE 89 D7 5A 58",
    "lock *(u64 *)(r1 + 8) += r2": "F0 48 01 77 08",
    "lock *(u32 *)(r7 + 0) ^= r2": "F0 41 31 75 00",
    "r2 = atomic64_fetch_add((u64 *)(r1 + 8), r2)": "F0 48 0F C1 77 08",
    "r2 = atomic64_xchg((u64 *)(r1 + 8), r2)": "48 87 77 08",
    "r0 = atomic_cmpxchg((u32 *)(r1 + 8), r0, r2)": "F0 0F B1 77 08",
    "r2 = atomic64_fetch_or((u64 *)(r1 + 8), r2)": "49 89 C2 48 8B 47 08 49 89 C3 49 09 F3 F0 4C 0F B1 5F 08 75 EE 48 89 C6 4C 89 D0",
    "if w9 s< 0 goto -1": "45 85 FF 7C FB",
    "if r0 > 1000 goto -1": "48 81 F8 E8 03 00 00 77 F7",
    "if r1 & 1 goto -1": "48 F7 C7 01 00 00 00 75 F7",
    "if w1 & w2 goto -1": "85 F7 75 FC",
    "if r7 s>= r1 goto -1": "49 39 FD 7D FB",
}
PLAIN_BYTES = {
    "r1 <<= r2": "51 48 89 F1 48 D3 E7 59",
    "w1 s>>= w2": "51 48 89 F1 D3 FF 59",
    "r4 >>= r1": "49 89 CB 48 89 F9 49 D3 EB 4C 89 D9",
    "r1 <<= r4": "48 D3 E7",
}


@pytest.mark.parametrize(("text", "wanted"), BYTES.items(), ids=BYTES)
def test_bytes(text: str, wanted: str) -> None:
    assert insn_bytes(text).hex(" ").upper() == wanted


@pytest.mark.parametrize(("text", "wanted"), PLAIN_BYTES.items(), ids=PLAIN_BYTES)
def test_bytes_without_bmi2(text: str, wanted: str) -> None:
    assert insn_bytes(text, jit=JITS["plain"]).hex(" ").upper() == wanted
