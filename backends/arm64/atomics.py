"""Atomic operations as AArch64 words: one insn of LSE, or a loop of load-exclusive and store-exclusive.

Choices follow Linux arch/arm64/net/bpf_jit_comp.c. `place` is a register that holds the address.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from backends.arm64 import encode as a64
from harness.isa import opcodes as op

Words = list[int]


class Regs(NamedTuple):
    """Registers that a lowering may destroy: Linux's TMP_REG_2, TMP_REG_3, and the auxiliary one."""

    second: int
    third: int
    ax: int


_Form = Mapping[int, a64.Insn]
_LSE: Final[Mapping[str, tuple[_Form, bool]]] = {  # the insn, and whether it takes the complement
    op.ATOMIC_ADD.name: (a64.stadd_rm, False),
    op.ATOMIC_OR.name: (a64.stset_rm, False),
    op.ATOMIC_AND.name: (a64.stclr_rm, True),
    op.ATOMIC_XOR.name: (a64.steor_rm, False),
    op.FETCH_ADD.name: (a64.ldaddal_rrm, False),
    op.FETCH_OR.name: (a64.ldsetal_rrm, False),
    op.FETCH_AND.name: (a64.ldclral_rrm, True),
    op.FETCH_XOR.name: (a64.ldeoral_rrm, False),
}
_PLAIN: Final[Mapping[str, _Form]] = {
    op.ATOMIC_ADD.name: a64.add_rrr,
    op.ATOMIC_OR.name: a64.orr_rrr,
    op.ATOMIC_AND.name: a64.and_rrr,
    op.ATOMIC_XOR.name: a64.eor_rrr,
    op.FETCH_ADD.name: a64.add_rrr,
    op.FETCH_OR.name: a64.orr_rrr,
    op.FETCH_AND.name: a64.and_rrr,
    op.FETCH_XOR.name: a64.eor_rrr,
}


def lse(row: op.AtomicOp, bits: int, src: int, place: int, r0: int, regs: Regs) -> Words:
    """With the Large System Extensions."""
    if row is op.CMPXCHG:
        return [a64.casal_rrm[bits](r0, src, place)]
    if row is op.XCHG:
        return [a64.swpal_rrm[bits](src, src, place)]
    form, complement = _LSE[row.name]
    operand = regs.second if complement else src
    words = [a64.mvn_rr[bits](regs.second, src)] if complement else []
    return [*words, form[bits](operand, src, place) if row.fetch else form[bits](operand, place)]


def exclusive(row: op.AtomicOp, bits: int, src: int, place: int, r0: int, regs: Regs) -> Words:
    """Without: tried until the store succeeds, with a barrier where the old value is fetched."""
    new, status = regs.second, regs.third
    if row is op.CMPXCHG:
        return [
            a64.mov_rr[bits](new, r0),
            a64.ldxr_rm[bits](r0, place),
            a64.eor_rrr[bits](status, r0, new),
            a64.cbnz_ri[bits](status, 16),
            a64.stlxr_rrm[bits](status, src, place),
            a64.cbnz_ri[32](status, -16),
            a64.dmb_ish(),
        ]
    if row is op.XCHG:
        load, back = [a64.mov_rr[bits](new, src), a64.ldxr_rm[bits](src, place)], -8
    elif row.fetch:
        load = [a64.mov_rr[bits](regs.ax, src), a64.ldxr_rm[bits](src, place)]
        load, back = [*load, _PLAIN[row.name][bits](new, src, regs.ax)], -12
    else:
        load = [a64.ldxr_rm[bits](new, place), _PLAIN[row.name][bits](new, new, src)]
        return [*load, a64.stxr_rrm[bits](status, new, place), a64.cbnz_ri[32](status, -12)]
    return [*load, a64.stlxr_rrm[bits](status, new, place), a64.cbnz_ri[32](status, back), a64.dmb_ish()]


def load_acquire(size: op.Size, dst: int, place: int) -> Words:
    """A load that no later access passes."""
    forms = {1: a64.ldarb_rm, 2: a64.ldarh_rm, 4: a64.ldar_rm[32], 8: a64.ldar_rm[64]}
    return [forms[size.bytes](dst, place)]


def store_release(size: op.Size, src: int, place: int) -> Words:
    """A store that passes no earlier access."""
    forms = {1: a64.stlrb_rm, 2: a64.stlrh_rm, 4: a64.stlr_rm[32], 8: a64.stlr_rm[64]}
    return [forms[size.bytes](src, place)]
