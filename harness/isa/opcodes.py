"""The opcode table: one row per operation, never per encoding. Everything that reads or writes insns is read off it."""

from collections.abc import Callable
from typing import NamedTuple

MASK32 = 0xFFFF_FFFF
MASK64 = 0xFFFF_FFFF_FFFF_FFFF


def signed(value: int, bits: int) -> int:
    """The low `bits` of `value` as a two's-complement number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


class InsnClass(NamedTuple):
    """Opcode bits 0-2. RFC 9669, "Instruction Classes"."""

    name: str
    code: int


LD, LDX, ST, STX = InsnClass("ld", 0), InsnClass("ldx", 1), InsnClass("st", 2), InsnClass("stx", 3)
ALU32_CLASS, JMP_CLASS = InsnClass("alu", 4), InsnClass("jmp", 5)
JMP32_CLASS, ALU64_CLASS = InsnClass("jmp32", 6), InsnClass("alu64", 7)

SRC_REG = 0x08  # opcode bit 3 of the arithmetic and jump classes: the source is a register
# Opcode bits 5-7 of the load and store classes. RFC 9669, "Mode Modifier".
MODE_IMM, MODE_ABS, MODE_IND = 0x00, 0x20, 0x40
MODE_MEM, MODE_MEMSX, MODE_ATOMIC = 0x60, 0x80, 0xC0


class AluOp(NamedTuple):
    """One arithmetic operation."""

    name: str
    symbol: str  # as in `dst SYMBOL src`
    code: int  # opcode bits 4-7
    sem: Callable[[int, int, int], int]  # (dst, src, bits), unsigned; the caller truncates to `bits`
    off: int = 0  # what the off field holds: it tells operations with the same code apart


def _quotient(dst: int, src: int, bits: int) -> int:
    """Signed division that rounds towards zero; 0 where the divisor is 0."""
    a, b = signed(dst, bits), signed(src, bits)
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _remainder(dst: int, src: int, bits: int) -> int:
    """The remainder of that: it has the dividend's sign, and is the dividend where the divisor is 0."""
    a, b = signed(dst, bits), signed(src, bits)
    return a if b == 0 else a - b * _quotient(dst, src, bits)


# RFC 9669, "Arithmetic Instructions".
ADD = AluOp("add", "+=", 0x0, lambda dst, src, bits: dst + src)
SUB = AluOp("sub", "-=", 0x1, lambda dst, src, bits: dst - src)
MUL = AluOp("mul", "*=", 0x2, lambda dst, src, bits: dst * src)
DIV = AluOp("div", "/=", 0x3, lambda dst, src, bits: dst // src if src else 0)
OR = AluOp("or", "|=", 0x4, lambda dst, src, bits: dst | src)
AND = AluOp("and", "&=", 0x5, lambda dst, src, bits: dst & src)
LSH = AluOp("lsh", "<<=", 0x6, lambda dst, src, bits: dst << (src & (bits - 1)))
RSH = AluOp("rsh", ">>=", 0x7, lambda dst, src, bits: dst >> (src & (bits - 1)))
NEG = AluOp("neg", "= -", 0x8, lambda dst, src, bits: -dst)
MOD = AluOp("mod", "%=", 0x9, lambda dst, src, bits: dst % src if src else dst)
XOR = AluOp("xor", "^=", 0xA, lambda dst, src, bits: dst ^ src)
MOV = AluOp("mov", "=", 0xB, lambda dst, src, bits: src)
ARSH = AluOp("arsh", "s>>=", 0xC, lambda dst, src, bits: signed(dst, bits) >> (src & (bits - 1)))
SDIV = AluOp("sdiv", "s/=", 0x3, _quotient, 1)
SMOD = AluOp("smod", "s%=", 0x9, _remainder, 1)
MOVSX8 = AluOp("movsx8", "= (s8)", 0xB, lambda dst, src, bits: signed(src, 8), 8)
MOVSX16 = AluOp("movsx16", "= (s16)", 0xB, lambda dst, src, bits: signed(src, 16), 16)
MOVSX32 = AluOp("movsx32", "= (s32)", 0xB, lambda dst, src, bits: signed(src, 32), 32)
MOVSX = (MOVSX8, MOVSX16, MOVSX32)  # of a register; the last at 64 bits only
ALU = (ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR, MOV, ARSH, SDIV, SMOD, *MOVSX)


class EndOp(NamedTuple):
    """One byte swap; the immediate is its width in bits."""

    name: str
    cls: InsnClass
    src: int  # opcode bit 3
    sem: Callable[[int, int], int]  # (value, bytes); what is above is cleared


def _reversed(value: int, size: int) -> int:
    return int.from_bytes((value & (1 << 8 * size) - 1).to_bytes(size, "little"), "big")


# RFC 9669, "Byte Swap Instructions", on a little-endian machine.
END_CODE = 0xD
TO_LE = EndOp("le", ALU32_CLASS, 0, lambda value, size: value & (1 << 8 * size) - 1)
TO_BE = EndOp("be", ALU32_CLASS, SRC_REG, _reversed)
BSWAP = EndOp("bswap", ALU64_CLASS, 0, _reversed)
END = (TO_LE, TO_BE, BSWAP)
END_WIDTHS = (16, 32, 64)


class JmpOp(NamedTuple):
    """One conditional jump."""

    name: str
    symbol: str  # as in `if dst SYMBOL src goto label`
    code: int  # opcode bits 4-7
    holds: Callable[[int, int, int], bool]  # (dst, src, bits), unsigned and already truncated to `bits`


# RFC 9669, "Jump Instructions".
JEQ = JmpOp("jeq", "==", 0x1, lambda dst, src, bits: dst == src)
JGT = JmpOp("jgt", ">", 0x2, lambda dst, src, bits: dst > src)
JGE = JmpOp("jge", ">=", 0x3, lambda dst, src, bits: dst >= src)
JSET = JmpOp("jset", "&", 0x4, lambda dst, src, bits: dst & src != 0)
JNE = JmpOp("jne", "!=", 0x5, lambda dst, src, bits: dst != src)
JSGT = JmpOp("jsgt", "s>", 0x6, lambda dst, src, bits: signed(dst, bits) > signed(src, bits))
JSGE = JmpOp("jsge", "s>=", 0x7, lambda dst, src, bits: signed(dst, bits) >= signed(src, bits))
JLT = JmpOp("jlt", "<", 0xA, lambda dst, src, bits: dst < src)
JLE = JmpOp("jle", "<=", 0xB, lambda dst, src, bits: dst <= src)
JSLT = JmpOp("jslt", "s<", 0xC, lambda dst, src, bits: signed(dst, bits) < signed(src, bits))
JSLE = JmpOp("jsle", "s<=", 0xD, lambda dst, src, bits: signed(dst, bits) <= signed(src, bits))
JMP = (JEQ, JGT, JGE, JSET, JNE, JSGT, JSGE, JLT, JLE, JSLT, JSLE)

JA_CODE, CALL_CODE, EXIT_CODE = 0x0, 0x8, 0x9  # opcode bits 4-7 of class JMP
JCOND_CODE = 0xE  # Linux include/uapi/linux/bpf.h, BPF_JCOND; src 0 is may_goto


class AtomicOp(NamedTuple):
    """One read-modify-write of memory; `fetch` gives the old value back in a register."""

    name: str
    symbol: str  # as in `lock *(u64 *)(dst) SYMBOL src`; empty where there is only the form that fetches
    code: int  # of the immediate
    fetch: bool
    sem: Callable[[int, int, int], int]  # (old, src, r0), to the new value; the caller truncates


FETCH = 0x01
# RFC 9669, "Atomic operations".
ATOMIC_ADD = AtomicOp("add", "+=", 0x00, False, lambda old, src, r0: old + src)
ATOMIC_OR = AtomicOp("or", "|=", 0x40, False, lambda old, src, r0: old | src)
ATOMIC_AND = AtomicOp("and", "&=", 0x50, False, lambda old, src, r0: old & src)
ATOMIC_XOR = AtomicOp("xor", "^=", 0xA0, False, lambda old, src, r0: old ^ src)
FETCH_ADD, FETCH_OR, FETCH_AND, FETCH_XOR = (
    AtomicOp(f"fetch_{row.name}", "", row.code | FETCH, True, row.sem)
    for row in (ATOMIC_ADD, ATOMIC_OR, ATOMIC_AND, ATOMIC_XOR)
)
XCHG = AtomicOp("xchg", "", 0xE0 | FETCH, True, lambda old, src, r0: src)
CMPXCHG = AtomicOp("cmpxchg", "", 0xF0 | FETCH, True, lambda old, src, r0: src if old == r0 else old)
ATOMIC = (
    ATOMIC_ADD, ATOMIC_OR, ATOMIC_AND, ATOMIC_XOR, FETCH_ADD, FETCH_OR, FETCH_AND, FETCH_XOR, XCHG, CMPXCHG,
)  # fmt: skip
LOAD_ACQUIRE, STORE_RELEASE = 0x100, 0x110  # of the immediate. Linux include/uapi/linux/bpf.h


class CallKind(NamedTuple):
    """What a call insn's src field says about its target. RFC 9669, "Helper functions" and "Program-local functions"."""

    name: str
    src: int


CALL_HELPER, CALL_SUBPROG, CALL_KFUNC = CallKind("helper", 0), CallKind("subprog", 1), CallKind("kfunc", 2)


class Size(NamedTuple):
    """Width of a memory access. RFC 9669, "Load and Store Instructions"."""

    name: str  # the C type that assembly writes
    code: int  # opcode bits 3-4
    bytes: int


# RFC 9669, "64-bit immediate instructions": what the src field of LD_IMM64 says the constant is.
IMM64, MAP_FD, MAP_VALUE, BTF_VAR, CODE_ADDR, MAP_INDEX, MAP_INDEX_VALUE = range(7)


W, H, B, DW = Size("u32", 0x00, 4), Size("u16", 0x08, 2), Size("u8", 0x10, 1), Size("u64", 0x18, 8)
SIZES = (W, H, B, DW)

FP = 10  # R10, the frame pointer
STACK_ARGS = 11  # R11, the name under which stack arguments are stored and loaded; not a register of the machine
MAX_ARGS = 12  # of a subprog or kfunc. Linux include/linux/bpf.h, MAX_BPF_FUNC_ARGS
MAX_REG_ARGS = 5  # in R1-R5
MAX_STACK_ARGS = MAX_ARGS - MAX_REG_ARGS
