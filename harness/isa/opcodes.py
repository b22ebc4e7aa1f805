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
MODE_IMM = 0x00
MODE_MEM = 0x60


class AluOp(NamedTuple):
    """One arithmetic operation."""

    name: str
    symbol: str  # as in `dst SYMBOL src`
    code: int  # opcode bits 4-7
    sem: Callable[[int, int, int], int]  # (dst, src, bits), unsigned; the caller truncates to `bits`


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
ALU = (ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR, MOV, ARSH)


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


W, H, B, DW = Size("u32", 0x00, 4), Size("u16", 0x08, 2), Size("u8", 0x10, 1), Size("u64", 0x18, 8)
SIZES = (W, H, B, DW)

FP = 10  # R10, the frame pointer
STACK_ARGS = 11  # R11, the name under which stack arguments are stored and loaded; not a register of the machine
MAX_ARGS = 12  # of a subprog or kfunc. Linux include/linux/bpf.h, MAX_BPF_FUNC_ARGS
MAX_REG_ARGS = 5  # in R1-R5
MAX_STACK_ARGS = MAX_ARGS - MAX_REG_ARGS
