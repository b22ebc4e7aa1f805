"""How each BPF operation becomes x86-64 insns, as Linux 7.2 does it; where frames and targets play no part."""

from typing import Final, NamedTuple

from backends.image import CompileError
from backends.x86_64 import encode as x86
from backends.x86_64.encode import Cond, Gpr, Mem
from harness.isa import opcodes as op
from harness.isa.insn import Alu, Atomic, Branch, Imm, Load, Reg, Src, Store, Swap

# Linux arch/x86/net/bpf_jit_comp.c, reg2hex[]. R11 has none: it is a name for stack arguments. R12 is the verifier's own.
REGMAP: Final = {
    0: Gpr.RAX,
    1: Gpr.RDI,
    2: Gpr.RSI,
    3: Gpr.RDX,
    4: Gpr.RCX,
    5: Gpr.R8,
    6: Gpr.RBX,
    7: Gpr.R13,
    8: Gpr.R14,
    9: Gpr.R15,
    10: Gpr.RBP,
    12: Gpr.R10,
}
ARG6: Final = Gpr.R9
SCRATCH: Final = Gpr.R11
CALLEE_SAVED: Final = (6, 7, 8, 9)  # BPF registers, in the order in which they are pushed


class Arith(NamedTuple):
    """The encodings of one operation: by register, by imm8, by imm32, and by imm32 on rax."""

    rr: x86.Insn
    ri8: x86.Insn
    ri: x86.Insn
    ai: x86.Insn


ARITH: Final = {
    op.ADD: Arith(x86.add_rr, x86.add_ri8, x86.add_ri, x86.add_ai),
    op.SUB: Arith(x86.sub_rr, x86.sub_ri8, x86.sub_ri, x86.sub_ai),
    op.OR: Arith(x86.or_rr, x86.or_ri8, x86.or_ri, x86.or_ai),
    op.AND: Arith(x86.and_rr, x86.and_ri8, x86.and_ri, x86.and_ai),
    op.XOR: Arith(x86.xor_rr, x86.xor_ri8, x86.xor_ri, x86.xor_ai),
}


class Shift(NamedTuple):
    """The encodings of one shift: by 1, by a constant, by cl, and by any register (BMI2)."""

    one: x86.Insn
    ri: x86.Insn
    rc: x86.Insn
    rrr: x86.Insn


SHIFTS: Final = {
    op.LSH: Shift(x86.shl_r1, x86.shl_ri, x86.shl_rc, x86.shlx_rrr),
    op.RSH: Shift(x86.shr_r1, x86.shr_ri, x86.shr_rc, x86.shrx_rrr),
    op.ARSH: Shift(x86.sar_r1, x86.sar_ri, x86.sar_rc, x86.sarx_rrr),
}

CONDITIONS: Final = {
    op.JEQ: Cond.E,
    op.JNE: Cond.NE,
    op.JSET: Cond.NE,
    op.JGT: Cond.A,
    op.JGE: Cond.AE,
    op.JLT: Cond.B,
    op.JLE: Cond.BE,
    op.JSGT: Cond.G,
    op.JSGE: Cond.GE,
    op.JSLT: Cond.L,
    op.JSLE: Cond.LE,
}

LOADS: Final = {op.B: x86.movzx_rm8, op.H: x86.movzx_rm16, op.W: x86.mov_rm32, op.DW: x86.mov_rm64}
SIGNED_LOADS: Final = {op.B: x86.movsx_rm8, op.H: x86.movsx_rm16, op.W: x86.movsxd_rm32}
REG_STORES: Final = {op.B: x86.mov_m8r, op.H: x86.mov_m16r, op.W: x86.mov_m32r, op.DW: x86.mov_m64r}
IMM_STORES: Final = {op.B: x86.mov_m8i, op.H: x86.mov_m16i, op.W: x86.mov_m32i, op.DW: x86.mov_m64i}


def native(n: int) -> Gpr:
    """The register of BPF register `n`. Raises CompileError where it has none."""
    if n not in REGMAP:
        raise CompileError(f"R{n} has no native register")
    return REGMAP[n]


def fits_imm8(value: int) -> bool:
    """Whether a sign-extended byte holds it."""
    return -128 <= value <= 127


def mov(dst: Gpr, src: Gpr, bits: int = 64) -> bytes:
    """`dst = src`: nothing to do for a register itself, except that 32 bits clear the upper half."""
    return b"" if dst is src and bits == 64 else x86.mov_rr(dst, src, bits=bits)


def mov_const(dst: Gpr, value: int) -> bytes:
    """`dst = value`, unsigned 64 bits, in the shortest of four ways. May destroy the flags; BPF keeps none."""
    if value == 0:
        return x86.xor_rr(dst, dst, bits=32)
    if value <= op.MASK32:
        return x86.mov_ri_zero(dst, value)
    signed = op.signed(value, 64)
    return x86.mov_ri_sign(dst, signed) if -(1 << 31) <= signed < 0 else x86.movabs_ri(dst, value)


def alu(insn: Alu) -> bytes:
    """Every operation but division and shifts by register."""
    dst = native(insn.dst)
    if insn.op is op.NEG:
        return x86.neg_r(dst, bits=insn.bits)
    match insn.src:
        case Reg(n):
            return _alu_reg(insn.op, insn.bits, dst, native(n))
        case Imm(value):
            return _alu_imm(insn.op, insn.bits, dst, value)


def _alu_reg(row: op.AluOp, bits: int, dst: Gpr, src: Gpr) -> bytes:
    if row is op.MOV:
        return mov(dst, src, bits)
    if row is op.MOVSX32:
        return x86.movsxd_rr32(dst, src)
    if row in op.MOVSX:
        return (x86.movsx_rr8 if row is op.MOVSX8 else x86.movsx_rr16)(dst, src, bits=bits)
    if row is op.MUL:
        return x86.imul_rr(dst, src, bits=bits)
    return ARITH[row].rr(dst, src, bits=bits)


def _alu_imm(row: op.AluOp, bits: int, dst: Gpr, value: int) -> bytes:
    if row is op.MOV:
        return mov_const(dst, value & (op.MASK64 if bits == 64 else op.MASK32))
    if row is op.MUL:
        return (x86.imul_rri8 if fits_imm8(value) else x86.imul_rri)(dst, dst, value, bits=bits)
    if row in SHIFTS:
        shift = SHIFTS[row]
        return shift.one(dst, bits=bits) if value == 1 else shift.ri(dst, value, bits=bits)
    arith = ARITH[row]
    if fits_imm8(value):
        return arith.ri8(dst, value, bits=bits)
    return arith.ai(value, bits=bits) if dst is Gpr.RAX else arith.ri(dst, value, bits=bits)


def shift_reg(row: op.AluOp, bits: int, dst: Gpr, src: Gpr, bmi2: bool) -> bytes:
    """`dst SHIFT= src`: the count must be in cl, or in any register with BMI2. The CPU masks it to 5 or 6 bits."""
    shift = SHIFTS[row]
    if src is Gpr.RCX:
        return shift.rc(dst, bits=bits)
    if bmi2:
        return shift.rrr(dst, dst, src, bits=bits)
    if dst is Gpr.RCX:
        return mov(SCRATCH, dst) + mov(Gpr.RCX, src) + shift.rc(SCRATCH, bits=bits) + mov(dst, SCRATCH)
    return x86.push_r(Gpr.RCX) + mov(Gpr.RCX, src) + shift.rc(dst, bits=bits) + x86.pop_r(Gpr.RCX)


def div_mod(row: op.AluOp, bits: int, dst: Gpr, src: Src) -> bytes:
    """`dst /= src` or `dst %= src`: rdx:rax by the divisor. It is neither 0 nor, signed, -1: the verifier saw to it."""
    kept = tuple(reg for reg in (Gpr.RAX, Gpr.RDX) if reg is not dst)
    quotient_or_rest = Gpr.RDX if row in (op.MOD, op.SMOD) else Gpr.RAX
    set_up, divisor = _divisor(src)
    code = b"".join(x86.push_r(reg) for reg in kept) + set_up
    code += _mov_unless_same(Gpr.RAX, dst, bits)
    if row in (op.SDIV, op.SMOD):
        code += (x86.cqo() if bits == 64 else x86.cdq()) + x86.idiv_r(divisor, bits=bits)
    else:
        code += x86.xor_rr(Gpr.RDX, Gpr.RDX, bits=32) + x86.div_r(divisor, bits=bits)
    code += _mov_unless_same(dst, quotient_or_rest, bits)
    return code + b"".join(x86.pop_r(reg) for reg in reversed(kept))


def _divisor(src: Src) -> tuple[bytes, Gpr]:
    """Where the divisor is once rax and rdx are taken, and the code that puts it there."""
    match src:
        case Imm(value):
            return x86.mov_ri_sign(SCRATCH, value), SCRATCH
        case Reg(n):
            reg = native(n)
            return (mov(SCRATCH, reg), SCRATCH) if reg in (Gpr.RAX, Gpr.RDX) else (b"", reg)


def _mov_unless_same(dst: Gpr, src: Gpr, bits: int) -> bytes:
    """A move that can go at 32 bits as well: `div` has cleared the upper half already."""
    return b"" if dst is src else x86.mov_rr(dst, src, bits=bits)


def load(insn: Load) -> bytes:
    """`dst = *(size *)(base + off)`, its sign or zeros above."""
    return (SIGNED_LOADS if insn.signed else LOADS)[insn.size](native(insn.dst), Mem(native(insn.base), insn.off))


def store(insn: Store) -> bytes:
    """`*(size *)(base + off) = src`."""
    place = Mem(native(insn.base), insn.off)
    match insn.src:
        case Reg(n):
            return REG_STORES[insn.size](place, native(n))
        case Imm(value):
            narrow = insn.size in (op.B, op.H)
            return IMM_STORES[insn.size](place, value & (1 << 8 * insn.size.bytes) - 1 if narrow else value)


def swap(insn: Swap) -> bytes:
    """A byte swap, or the cut that is left of one on a little-endian machine."""
    dst, width = native(insn.dst), insn.width
    if insn.op is op.TO_LE:
        return {16: x86.movzx_rr16(dst, dst), 32: x86.mov_rr(dst, dst, bits=32), 64: b""}[width]
    if width == 16:
        return x86.ror_ri16(dst, 8) + x86.movzx_rr16(dst, dst)
    return x86.bswap_r(dst, bits=width)


ATOMICS: Final = {
    op.ATOMIC_ADD: x86.lock_add_mr,
    op.ATOMIC_OR: x86.lock_or_mr,
    op.ATOMIC_AND: x86.lock_and_mr,
    op.ATOMIC_XOR: x86.lock_xor_mr,
    op.FETCH_ADD: x86.lock_xadd_mr,
    op.XCHG: x86.xchg_mr,
    op.CMPXCHG: x86.lock_cmpxchg_mr,  # with rax, which is R0
}
LOOPS: Final = {op.FETCH_OR: x86.or_rr, op.FETCH_AND: x86.and_rr, op.FETCH_XOR: x86.xor_rr}
AX: Final = Gpr.R10


def atomic(insn: Atomic) -> bytes:
    """One insn where there is one; else it is tried until nobody came between."""
    bits = 8 * insn.size.bytes
    if insn.op not in LOOPS:
        return ATOMICS[insn.op](Mem(native(insn.base), insn.off), native(insn.src), bits=bits)
    src, base = (AX if reg is Gpr.RAX else reg for reg in (native(insn.src), native(insn.base)))
    place = Mem(base, insn.off)
    again = LOADS[insn.size](Gpr.RAX, place) + x86.mov_rr(SCRATCH, Gpr.RAX, bits=bits)
    again += LOOPS[insn.op](SCRATCH, src, bits=bits) + x86.lock_cmpxchg_mr(place, SCRATCH, bits=bits)
    code = x86.mov_rr(AX, Gpr.RAX, bits=64) + again + x86.jcc_short(Cond.NE, -len(again) - 2)
    return code + x86.mov_rr(src, Gpr.RAX, bits=bits) + x86.mov_rr(Gpr.RAX, AX, bits=64)


def compare(insn: Branch) -> bytes:
    """Sets the flags for a conditional jump."""
    dst, bits = native(insn.dst), insn.bits
    match insn.src:
        case Reg(n):
            row = x86.test_rr if insn.op is op.JSET else x86.cmp_rr
            return row(dst, native(n), bits=bits)
        case Imm(value) if insn.op is op.JSET:
            return x86.test_ri(dst, value, bits=bits)
        case Imm(0):
            return x86.test_rr(dst, dst, bits=bits)
        case Imm(value):
            return (x86.cmp_ri8 if fits_imm8(value) else x86.cmp_ri)(dst, value, bits=bits)
