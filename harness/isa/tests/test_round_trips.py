"""Insns there and back: any insn of the tables, as the verifier's log and as llvm-objdump print it."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.isa import opcodes as op
from harness.isa.asm import Source, assemble
from harness.isa.disasm import op_text
from harness.isa.insn import Branch, CallKfunc, Hole, Imm, Insn, Prog, Subprog, Undefined, decode
from harness.isa.objdump import objdump_text

REGS = st.integers(0, 10)
OFFS = st.sampled_from([-(1 << 15), -129, -8, -1, 0, 1, 8, 127, (1 << 15) - 1]) | st.integers(-(1 << 15), (1 << 15) - 1)
IMMS = st.sampled_from([-(1 << 31), -129, -1, 0, 1, 127, 255, (1 << 31) - 1]) | st.integers(-(1 << 31), (1 << 31) - 1)
NUMBERS = st.sampled_from([0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])


def _known() -> list[int]:
    """Opcodes that some insn has, whatever its other fields are."""
    tries = [(0, 0), (0, 16), (0, op.LOAD_ACQUIRE), (0, op.STORE_RELEASE), *((0, row.code) for row in op.ATOMIC)]
    found = ((code, decode((Insn(code, 0, 0, off, imm),))) for code in range(256) for off, imm in tries)
    return sorted({code for code, (typed, *_) in found if not isinstance(typed, Undefined)} | {0x18})


KNOWN = _known()


@st.composite
def insns(draw: st.DrawFn) -> tuple[Insn, ...]:
    """One insn with every field drawn, so that all kinds of them come, and those that are none."""
    opcode = draw(st.sampled_from(KNOWN) | st.integers(0, 255))
    if opcode == 0x18:
        value = draw(NUMBERS | st.integers(0, (1 << 64) - 1))
        return Insn(0x18, draw(REGS), 0, 0, op.signed(value, 32)), Insn(0, imm=op.signed(value >> 32, 32))
    off = draw(OFFS if opcode & 7 in (1, 2, 3, 5, 6) else st.sampled_from([0, 0, 1, 8, 16, 32]))
    imm = draw(
        IMMS | st.sampled_from([0, 0, 16, 32, 64, *(row.code for row in op.ATOMIC), op.LOAD_ACQUIRE, op.STORE_RELEASE])
    )
    src = draw(REGS | st.just(0) | st.just(11))
    return (Insn(opcode, draw(REGS | st.just(0) | st.just(11)), src, draw(st.just(0) | st.just(off)), imm),)


def typed(found: tuple[Insn, ...]) -> Prog:
    return Prog(found, (Subprog("main", 0, len(found)),))


@settings(deadline=None, derandomize=True, max_examples=1500)
@given(insns())
def test_as_the_log_has_it(found: tuple[Insn, ...]) -> None:
    (first, *_) = decode(found)
    if isinstance(first, Branch) and first.bits == 64 and isinstance(first.src, Imm) and first.src.value < 0:
        return  # the log has 0xffffffff for -1, which is another number to a comparison of 64 bits
    if isinstance(first, CallKfunc):
        return  # named by a number of the kernel's BTF, which text has not
    text = op_text(first)
    assert assemble([Source("main", text)]).prog.insns == (found if not isinstance(first, Undefined) else found[:1])


# What llvm-objdump leaves out: the constant of an indexed packet load, of which a call is, and which end of a place is meant.
SILENT = re.compile(r"skb\[r|call -?0x|callx|<unknown>")


@settings(deadline=None, derandomize=True, max_examples=1500)
@given(insns())
def test_as_llvm_has_it(found: tuple[Insn, ...]) -> None:
    prog = typed(found)
    text = re.sub(r" <main[^>]*>$", "", objdump_text(prog, 0))
    if not SILENT.search(text) and text:
        assert assemble([Source("main", text)]).prog.insns == found


@settings(deadline=None, derandomize=True, max_examples=500)
@given(st.lists(insns(), min_size=1, max_size=6))
def test_any_insns_have_both_forms(rows: list[tuple[Insn, ...]]) -> None:
    found = tuple(insn for row in rows for insn in row)
    prog = typed(found)
    for index, one in enumerate(prog.ops):
        assert (op_text(one) == "") == isinstance(one, Hole) == (objdump_text(prog, index) == "")
