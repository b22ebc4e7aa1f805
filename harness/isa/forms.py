"""The insns of assembly that need no label: loads, atomics, byte swaps, and the places they name."""

import re
from collections.abc import Mapping
from typing import Final

from harness.isa import opcodes as op
from harness.isa.insn import Insn, Reg, Src
from harness.isa.tokens import REG, SIGNED_SYM, Line

_MOVSX_BY_TYPE: Final = {f"s{row.off}": row for row in op.MOVSX}
SIZE_BY_NAME: Final = {row.name: row for row in op.SIZES}
_SIGNED_SIZES: Final = {f"s{row.bytes * 8}": row for row in op.SIZES if row is not op.DW}
SWAP: Final = re.compile(r"(le|be|bswap)(16|32|64)\Z")
_SWAP_BY_NAME: Final = {row.name: row for row in op.END}
_ATOMIC_BY_SYMBOL: Final = {row.symbol: row for row in op.ATOMIC if row.symbol}
# `atomic_fetch_add` and `atomic64_fetch_add` with `((u64 *)(r1 + 0), r2)`; `xchg_64` and `cmpxchg32_32` with `(r1 + 0, r2)`.
FETCH: Final = re.compile(r"atomic(?:64)?_(fetch_add|fetch_or|fetch_and|fetch_xor|xchg|cmpxchg)\Z")
EXCHANGE: Final = re.compile(r"(xchg|cmpxchg)(_64|32_32)\Z")
_ATOMIC_BY_NAME: Final = {row.name: row for row in op.ATOMIC}


def symbol(line: Line, known: Mapping[str, object]) -> str:
    """An operator; `s` may be a token of its own before it."""
    symbol = line.peek()
    if symbol == "s" and line.peek(1) in SIGNED_SYM:
        line.take()
        symbol = SIGNED_SYM[line.peek()]
    if symbol not in known:
        raise line.expected("one of " + " ".join(known))
    line.take()
    return symbol


def encode_alu(row: op.AluOp, bits: int, dst: int, src: Src) -> Insn:
    """One arithmetic insn."""
    cls = op.ALU64_CLASS if bits == 64 else op.ALU32_CLASS
    code = row.code << 4 | cls.code
    if isinstance(src, Reg):
        return Insn(code | op.SRC_REG, dst, src.n, row.off)
    return Insn(code, dst, 0, row.off, src.value)


def sized(line: Line, sizes: Mapping[str, op.Size]) -> op.Size:
    """`(u64 *)`."""
    line.want("(")
    if line.peek() not in sizes:
        raise line.expected("one of " + " ".join(sizes))
    size = sizes[line.take()]
    line.want("*")
    line.want(")")
    return size


def place(line: Line, end: str = ")") -> tuple[int, int]:
    """`r10 - 8`, up to `end`, as (base, off)."""
    base, _ = line.reg()
    off = line.number(-(1 << 15), (1 << 15) - 1, "an offset") if line.peek() != end else 0
    line.want(end)
    return base, off


def pointer(line: Line) -> tuple[op.Size, int, int]:
    """`(u64 *)(r10 - 8)` as (size, base, off)."""
    size = sized(line, SIZE_BY_NAME)
    line.want("(")
    return size, *place(line)


def address(line: Line) -> tuple[op.Size, int, int]:
    """`*(u64 *)(r10 - 8)` as (size, base, off)."""
    line.want("*")
    return pointer(line)


def encode_atomic(row: op.AtomicOp, size: op.Size, base: int, off: int, src: int) -> Insn:
    """One read-modify-write."""
    return Insn(op.STX.code | size.code | op.MODE_ATOMIC, base, src, off, row.code)


def load(line: Line, dst: int) -> Insn:
    """`*(u64 *)(r2 + 8)`, `*(s8 *)(r2 + 8)`, `*(u8 *)skb[r2 + 4]`."""
    line.want("*")
    signed = line.peek(1) in _SIGNED_SIZES
    size = sized(line, _SIGNED_SIZES if signed else SIZE_BY_NAME)
    if line.peek() == "skb" and not signed:
        return packet_load(line, dst, size)
    line.want("(")
    base, off = place(line)
    mode = op.MODE_MEMSX if signed else op.MODE_MEM
    return Insn(op.LDX.code | size.code | mode, dst, base, off)


def packet_load(line: Line, dst: int, size: op.Size) -> Insn:
    """`skb[12]`, `skb[r2 + 4]`, after the size."""
    column = line.column()
    if dst or size is op.DW:
        raise line.fail(column, "a packet is loaded into r0, by u8, u16 or u32")
    line.take()
    line.want("[")
    mode, index = op.MODE_ABS, 0
    if REG.match(line.peek()):
        mode, index = op.MODE_IND, line.reg()[0]
        if line.peek() == "+" and line.peek(1).startswith("-"):  # as the verifier's log has it
            line.take()
    zero = mode == op.MODE_IND and line.peek() == "]"
    imm = 0 if zero else line.number(-(1 << 31), (1 << 31) - 1, "an offset")
    line.want("]")
    return Insn(op.LD.code | size.code | mode, 0, index, 0, imm)


def move_signed(line: Line, dst: int, bits: int) -> Insn:
    """`(s8)r2`."""
    line.want("(")
    column, row = line.column(), _MOVSX_BY_TYPE.get(line.peek())
    if row is None or (bits == 32 and row is op.MOVSX32):
        raise line.expected("s8, s16 or, to a 64-bit register, s32")
    line.take()
    line.want(")")
    column = line.column()
    n, src_bits = line.reg()
    if src_bits != bits:
        raise line.fail(column, f"expected a {bits}-bit register, found a {src_bits}-bit one")
    return encode_alu(row, bits, dst, Reg(n))


def swap(line: Line, dst: int, bits: int) -> Insn:
    """`be16 r1`."""
    match = SWAP.match(line.take())
    assert match is not None
    row, column = _SWAP_BY_NAME[match.group(1)], line.column()
    if line.reg() != (dst, bits) or bits == 32:
        raise line.fail(column, "a byte swap names one 64-bit register twice")
    return Insn(row.cls.code | op.END_CODE << 4 | row.src, dst, imm=int(match.group(2)))


def atomic(line: Line) -> Insn:
    """After `lock`: `*(u64 *)(r1 + 0) += r2`."""
    size, base, off = address(line)
    row = _ATOMIC_BY_SYMBOL[symbol(line, _ATOMIC_BY_SYMBOL)]
    column = line.column()
    src, bits = line.reg()
    if bits == 32 and size is op.DW:
        raise line.fail(column, "expected a 64-bit register, found a 32-bit one")
    return encode_atomic(row, size, base, off, src)


def fetch(line: Line, dst: int, bits: int) -> Insn:
    """What gives an old value: `atomic_fetch_add((u64 *)(r1 + 0), r2)`, `xchg_64(r1 + 0, r2)`, `load_acquire(...)`."""
    word = line.take()
    line.want("(")
    exchange, named = EXCHANGE.match(word), FETCH.match(word)
    if exchange:
        size = op.DW if exchange.group(2) == "_64" else op.W
        base, off = place(line, ",")
    else:
        size, base, off = pointer(line)
        if not named:
            line.want(")")
            return Insn(op.STX.code | size.code | op.MODE_ATOMIC, dst, base, off, op.LOAD_ACQUIRE)
        line.want(",")
    row = _ATOMIC_BY_NAME[(exchange or named)[1]]  # type: ignore[index]
    column = line.column()
    if row is op.CMPXCHG:
        if line.reg() != (0, bits) or dst:
            raise line.fail(column, "the value that is compared and the result are r0, or w0")
        line.want(",")
    column = line.column()
    src, src_bits = line.reg()
    if src_bits != bits or (row is not op.CMPXCHG and src != dst):
        raise line.fail(column, "the register that is stored takes the result")
    line.want(")")
    return encode_atomic(row, size, base, off, src)


def store_release(line: Line) -> Insn:
    """After `store_release`: `((u64 *)(r1 + 0), r2)`."""
    line.want("(")
    size, base, off = pointer(line)
    line.want(",")
    src, _ = line.reg()
    line.want(")")
    return Insn(op.STX.code | size.code | op.MODE_ATOMIC, base, src, off, op.STORE_RELEASE)
