"""BPF operations as AArch64 words: a row per operation of the opcode table. Registers here are native numbers.

Choices follow Linux arch/arm64/net/bpf_jit_comp.c, so that the bytes can be compared.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from backends.arm64 import encode as a64
from backends.arm64.encode import SP, ZR, EncodeError
from harness.isa import opcodes as op
from harness.isa.opcodes import MASK32, MASK64, signed

Words = list[int]


class Scratch(NamedTuple):
    """Registers a lowering may destroy; none of them holds anything of the program's."""

    first: int
    second: int


def mov_imm32(bits: int, rd: int, value: int) -> Words:
    """A signed 32-bit constant; 64-bit registers get its sign extension."""
    high, low = value >> 16 & 0xFFFF, value & 0xFFFF
    if value >= 0:
        words = [a64.movz_ri[bits](rd, low, 0)]
        return [*words, a64.movk_ri[bits](rd, high, 16)] if high else words
    if high == 0xFFFF:
        return [a64.movn_ri[bits](rd, low ^ 0xFFFF, 0)]
    words = [a64.movn_ri[bits](rd, high ^ 0xFFFF, 16)]
    return words if low == 0xFFFF else [*words, a64.movk_ri[bits](rd, low, 0)]


def mov_imm64(rd: int, value: int) -> Words:
    """An unsigned 64-bit constant: from the highest 16 bits that matter downwards, skipping what is already right."""
    if value <= MASK32:
        return mov_imm32(32, rd, signed(value, 32))
    chunks = [(shift, value >> shift & 0xFFFF) for shift in (48, 32, 16, 0)]
    ones = sum(chunk == 0xFFFF for _, chunk in chunks) > sum(chunk == 0 for _, chunk in chunks)
    filler = 0xFFFF if ones else 0
    todo = [pair for pair in chunks if pair[1] != filler] or [(0, filler)]
    shift, chunk = todo[0]
    first = a64.movn_ri[64](rd, chunk ^ 0xFFFF, shift) if ones else a64.movz_ri[64](rd, chunk, shift)
    return [first, *(a64.movk_ri[64](rd, chunk, shift) for shift, chunk in todo[1:])]


def mov_address(rd: int, address: int) -> Words:
    """The address of a call's target; a kernel's (bits 48-63 set) in three insns, whatever it is."""
    if address >> 48 != 0xFFFF:
        return mov_imm64(rd, address)
    return [
        a64.movn_ri[64](rd, ~address & 0xFFFF, 0),
        a64.movk_ri[64](rd, address >> 16 & 0xFFFF, 16),
        a64.movk_ri[64](rd, address >> 32 & 0xFFFF, 32),
    ]


def is_imm12(value: int) -> bool:
    """Whether an unsigned value is 12 bits, or 12 bits shifted left by 12: what add, sub, cmp and cmn hold."""
    return not value & ~0xFFF or not value & ~0xFFF000


def _imm12(plain: a64.Insn, shifted: a64.Insn, *values: int) -> int:
    *regs, value = values
    return plain(*regs, value) if value <= 0xFFF else shifted(*regs, value)


def add_imm(bits: int, rd: int, rn: int, value: int) -> int:
    """`rd = rn + value`; registers 31 are SP. Raises EncodeError for what is_imm12() refuses."""
    return _imm12(a64.add_rri[bits], a64.add_rri12[bits], rd, rn, value)


def sub_imm(bits: int, rd: int, rn: int, value: int) -> int:
    """`rd = rn - value`; registers 31 are SP. Raises EncodeError for what is_imm12() refuses."""
    return _imm12(a64.sub_rri[bits], a64.sub_rri12[bits], rd, rn, value)


_AluReg = Callable[[int, int, int, Scratch], Words]  # (bits, d, s, scratch)
_AluImm = Callable[[int, int, int, Scratch], Words]  # (bits, d, imm, scratch)
_Form = Mapping[int, a64.Insn]


def _three(form: _Form) -> _AluReg:
    return lambda bits, d, s, t: [form[bits](d, d, s)]


def _mul(bits: int, d: int, s: int, _t: Scratch) -> Words:
    return [a64.madd_rrrr[bits](d, d, s, ZR)]


def _mod(bits: int, d: int, s: int, t: Scratch) -> Words:
    return [a64.udiv_rrr[bits](t.first, d, s), a64.msub_rrrr[bits](d, t.first, s, d)]


def _smod(bits: int, d: int, s: int, t: Scratch) -> Words:
    return [a64.sdiv_rrr[bits](t.first, d, s), a64.msub_rrrr[bits](d, t.first, s, d)]


def _extend(from_bits: int) -> _AluReg:
    return lambda bits, d, s, t: [a64.sbfm_rrii[bits](d, s, 0, from_bits - 1)]


def _no_constant(*_: object) -> Words:
    raise EncodeError("a move that extends the sign takes a register")


def _neg(bits: int, d: int, _s: int, _t: Scratch) -> Words:
    return [a64.sub_rrr[bits](d, ZR, d)]


def _in_scratch(by_reg: _AluReg) -> _AluImm:
    return lambda bits, d, imm, t: [*mov_imm32(bits, t.first, imm), *by_reg(bits, d, t.first, t)]


def _add_or_sub(do: Callable[..., int], undo: Callable[..., int], by_reg: _AluReg) -> _AluImm:
    def lower(bits: int, d: int, imm: int, t: Scratch) -> Words:
        if is_imm12(imm):
            return [do(bits, d, d, imm)]
        if is_imm12(-imm):
            return [undo(bits, d, d, -imm)]
        return _in_scratch(by_reg)(bits, d, imm, t)

    return lower


def _logical(form: _Form, by_reg: _AluReg) -> _AluImm:
    def lower(bits: int, d: int, imm: int, t: Scratch) -> Words:
        try:
            return [form[bits](d, d, imm & (MASK32 if bits == 32 else MASK64))]
        except EncodeError:
            return _in_scratch(by_reg)(bits, d, imm, t)

    return lower


def _right(form: _Form) -> _AluImm:
    return lambda bits, d, imm, t: [form[bits](d, d, imm, bits - 1)]


class _AluRow(NamedTuple):
    by_reg: _AluReg
    by_imm: _AluImm


_ADD, _SUB, _AND = _three(a64.add_rrr), _three(a64.sub_rrr), _three(a64.and_rrr)
_SDIV = _three(a64.sdiv_rrr)
_OR, _XOR, _DIV = _three(a64.orr_rrr), _three(a64.eor_rrr), _three(a64.udiv_rrr)

# udiv by 0 gives 0, and msub then the dividend: what BPF asks for. Shifts by register use the low bits of the count.
_ALU: Final[Mapping[str, _AluRow]] = {
    op.ADD.name: _AluRow(_ADD, _add_or_sub(add_imm, sub_imm, _ADD)),
    op.SUB.name: _AluRow(_SUB, _add_or_sub(sub_imm, add_imm, _SUB)),
    op.MUL.name: _AluRow(_mul, _in_scratch(_mul)),
    op.DIV.name: _AluRow(_DIV, _in_scratch(_DIV)),
    op.OR.name: _AluRow(_OR, _logical(a64.orr_rri, _OR)),
    op.AND.name: _AluRow(_AND, _logical(a64.and_rri, _AND)),
    op.LSH.name: _AluRow(
        _three(a64.lslv_rrr), lambda bits, d, imm, t: [a64.ubfm_rrii[bits](d, d, -imm % bits, bits - 1 - imm)]
    ),
    op.RSH.name: _AluRow(_three(a64.lsrv_rrr), _right(a64.ubfm_rrii)),
    op.NEG.name: _AluRow(_neg, _neg),
    op.MOD.name: _AluRow(_mod, lambda bits, d, imm, t: [*mov_imm32(bits, t.second, imm), *_mod(bits, d, t.second, t)]),
    op.XOR.name: _AluRow(_XOR, _logical(a64.eor_rri, _XOR)),
    op.MOV.name: _AluRow(
        lambda bits, d, s, t: [a64.mov_rr[bits](d, s)], lambda bits, d, imm, t: mov_imm32(bits, d, imm)
    ),
    op.ARSH.name: _AluRow(_three(a64.asrv_rrr), _right(a64.sbfm_rrii)),
    op.SDIV.name: _AluRow(_SDIV, _in_scratch(_SDIV)),
    op.SMOD.name: _AluRow(
        _smod, lambda bits, d, imm, t: [*mov_imm32(bits, t.second, imm), *_smod(bits, d, t.second, t)]
    ),
    op.MOVSX8.name: _AluRow(_extend(8), _no_constant),
    op.MOVSX16.name: _AluRow(_extend(16), _no_constant),
    op.MOVSX32.name: _AluRow(_extend(32), _no_constant),
}


def alu_reg(row: op.AluOp, bits: int, d: int, s: int, scratch: Scratch) -> Words:
    """`d OP= s`."""
    return _ALU[row.name].by_reg(bits, d, s, scratch)


def alu_imm(row: op.AluOp, bits: int, d: int, imm: int, scratch: Scratch) -> Words:
    """`d OP= imm`, imm signed and extended to the width."""
    return _ALU[row.name].by_imm(bits, d, imm, scratch)


# The condition under which the jump is taken, after a comparison; after a test for JSET.
CONDITION: Final[Mapping[str, int]] = {
    op.JEQ.name: a64.EQ,
    op.JGT.name: a64.HI,
    op.JGE.name: a64.CS,
    op.JSET.name: a64.NE,
    op.JNE.name: a64.NE,
    op.JSGT.name: a64.GT,
    op.JSGE.name: a64.GE,
    op.JLT.name: a64.CC,
    op.JLE.name: a64.LS,
    op.JSLT.name: a64.LT,
    op.JSLE.name: a64.LE,
}


def compare_reg(row: op.JmpOp, bits: int, d: int, s: int) -> Words:
    """Sets the flags for a jump on two registers."""
    return [(a64.tst_rr if row is op.JSET else a64.cmp_rr)[bits](d, s)]


def compare_imm(row: op.JmpOp, bits: int, d: int, imm: int, scratch: Scratch) -> Words:
    """Sets the flags for a jump on a register and a signed constant."""
    if row is op.JSET:
        try:
            return [a64.tst_ri[bits](d, imm & (MASK32 if bits == 32 else MASK64))]
        except EncodeError:
            pass
    elif is_imm12(imm):
        return [_imm12(a64.cmp_ri[bits], a64.cmp_ri12[bits], d, imm)]
    elif is_imm12(-imm):
        return [_imm12(a64.cmn_ri[bits], a64.cmn_ri12[bits], d, -imm)]
    return [*mov_imm32(bits, scratch.first, imm), *compare_reg(row, bits, d, scratch.first)]


class _Access(NamedTuple):
    by_imm: a64.Insn
    by_reg: a64.Insn


_LOADS: Final[Mapping[int, _Access]] = {
    1: _Access(a64.ldrb_rm, a64.ldrb_rx),
    2: _Access(a64.ldrh_rm, a64.ldrh_rx),
    4: _Access(a64.ldrw_rm, a64.ldrw_rx),
    8: _Access(a64.ldr_rm, a64.ldr_rx),
}
_SIGNED_LOADS: Final[Mapping[int, _Access]] = {
    1: _Access(a64.ldrsb_rm, a64.ldrsb_rx),
    2: _Access(a64.ldrsh_rm, a64.ldrsh_rx),
    4: _Access(a64.ldrsw_rm, a64.ldrsw_rx),
}
_STORES: Final[Mapping[int, _Access]] = {
    1: _Access(a64.strb_rm, a64.strb_rx),
    2: _Access(a64.strh_rm, a64.strh_rx),
    4: _Access(a64.strw_rm, a64.strw_rx),
    8: _Access(a64.str_rm, a64.str_rx),
}


class Place(NamedTuple):
    """A place in memory: `base + off`, and the same place as SP + `sp_off` where that is known."""

    base: int
    off: int
    sp_off: int | None = None


def _access(access: _Access, rt: int, place: Place, offset_reg: int) -> Words:
    base, off = (place.base, place.off) if place.sp_off is None else (SP, place.sp_off)
    try:
        return [access.by_imm(rt, base, off)]
    except EncodeError:
        return [*mov_imm32(64, offset_reg, place.off), access.by_reg(rt, place.base, offset_reg)]


def load(size: op.Size, d: int, place: Place, offset_reg: int, *, signed: bool = False) -> Words:
    """Loads and extends with zeros or the sign; `offset_reg` may be destroyed."""
    return _access((_SIGNED_LOADS if signed else _LOADS)[size.bytes], d, place, offset_reg)


def swap(row: op.EndOp, width: int, d: int) -> Words:
    """A byte swap, or the cut that is left of one on a little-endian machine."""
    bits = 64 if row is op.BSWAP else 32
    cut = [a64.ubfm_rrii[bits](d, d, 0, width - 1)] if width < 64 else []
    if row is op.TO_LE:
        return cut
    return [a64.rev16_rr[bits](d, d), *cut] if width == 16 else [a64.rev_rr[width](d, d)]


def store(size: op.Size, s: int, place: Place, offset_reg: int) -> Words:
    """Stores the low bytes; `offset_reg` may be destroyed."""
    return _access(_STORES[size.bytes], s, place, offset_reg)
