"""Rewrites after the walk, as Linux makes them: guards around divisions, the upper half of R0, the counter of `may_goto`.

Linux kernel/bpf/fixups.c, bpf_do_misc_fixups(): x / 0 is 0, x % 0 is x, and the least number divided by -1 is itself, which
x86-64 does not give by itself. Of the two forms of `may_goto` this is the one that counts and does not look at the clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from harness.isa import opcodes as op
from harness.isa.insn import Alu, Atomic, Branch, CallSubprog, Goto, Imm, Insn, MayGoto, Prog, Reg, Subprog

AX: Final = 12  # the register that only rewrites name. Linux include/linux/filter.h, BPF_REG_AX
MAX_LOOPS: Final = 8 << 20  # Linux include/linux/bpf.h, BPF_MAX_LOOPS
COUNTER_BYTES: Final = 8
_GOTO: Final = op.JMP_CLASS.code | op.JA_CODE << 4


def _alu(row: op.AluOp, bits: int, dst: int, src: int | None = None, imm: int = 0) -> Insn:
    code = (op.ALU64_CLASS if bits == 64 else op.ALU32_CLASS).code | row.code << 4
    return Insn(code, dst, 0, row.off, imm) if src is None else Insn(code | op.SRC_REG, dst, src, row.off)


def _jump(row: op.JmpOp, bits: int, dst: int, imm: int, off: int) -> Insn:
    return Insn((op.JMP_CLASS if bits == 64 else op.JMP32_CLASS).code | row.code << 4, dst, 0, off, imm)


def _unsigned(insn: Insn, alu: Alu) -> list[Insn]:
    """A division or remainder by a register."""
    dst, src = insn.dst, insn.src
    if alu.op is op.DIV:
        return [_jump(op.JNE, alu.bits, src, 0, 2), _alu(op.XOR, 32, dst, dst), Insn(_GOTO, off=1), insn]
    if alu.bits == 64:
        return [_jump(op.JEQ, 64, src, 0, 1), insn]
    return [_jump(op.JEQ, 32, src, 0, 2), insn, Insn(_GOTO, off=1), _alu(op.MOV, 32, dst, dst)]


def _signed(insn: Insn, alu: Alu) -> list[Insn]:
    """A signed one: the divisor plus 1 is 0 for -1, and 1 for 0."""
    dst, bits = insn.dst, alu.bits
    head = [_alu(op.MOV, 64, AX, insn.src), _alu(op.ADD, bits, AX, imm=1)]
    if alu.op is op.SDIV:
        zero = [_alu(op.MOV, bits, dst), _alu(op.NEG, bits, dst), Insn(_GOTO, off=1), insn]
        return [*head, _jump(op.JGT, bits, AX, 1, 4), _jump(op.JEQ, bits, AX, 0, 1), *zero]
    if bits == 64:
        tail = [_jump(op.JEQ, 64, AX, 1, 3), _alu(op.MOV, 32, dst), Insn(_GOTO, off=1), insn]
        return [*head, _jump(op.JGT, 64, AX, 1, 3), *tail]
    tail = [_jump(op.JEQ, 32, AX, 1, 4), _alu(op.MOV, 32, dst), Insn(_GOTO, off=1), insn]
    return [*head, _jump(op.JGT, 32, AX, 1, 3), *tail, Insn(_GOTO, off=1), _alu(op.MOV, 32, dst, dst)]


def _by_minus_one(insn: Insn, alu: Alu) -> list[Insn]:
    return [_alu(op.NEG, alu.bits, insn.dst)] if alu.op is op.SDIV else [_alu(op.MOV, 32, insn.dst)]


def _division(insn: Insn, alu: Alu) -> list[Insn]:
    """The insns that take the place of one arithmetic insn; itself where it needs no guard."""
    by_register = isinstance(alu.src, Reg)
    if alu.op in (op.DIV, op.MOD) and by_register:
        return _unsigned(insn, alu)
    if alu.op in (op.SDIV, op.SMOD) and by_register:
        return _signed(insn, alu)
    if alu.op in (op.SDIV, op.SMOD) and alu.src == Imm(-1):
        return _by_minus_one(insn, alu)
    return [insn]


def _cleared(insn: Insn) -> list[Insn]:
    """A 32-bit compare-and-exchange: x86-64 leaves the upper half of R0 as it was where the values are equal."""
    return [insn, _alu(op.MOV, 32, 0, 0)]


def _may_goto(off: int, counter: int) -> list[Insn]:
    """The counter is looked at, and counted down; the jump's distance is set when all distances are known."""
    load = Insn(op.LDX.code | op.DW.code | op.MODE_MEM, AX, op.FP, counter)
    store = Insn(op.STX.code | op.DW.code | op.MODE_MEM, op.FP, AX, counter)
    return [load, _jump(op.JEQ, 64, AX, 0, off), _alu(op.SUB, 64, AX, imm=1), store]


@dataclass(slots=True)
class _Rewriter:
    """Gathers the new insns, then sets the distances of the old jumps and calls."""

    prog: Prog
    depths: Sequence[int]
    insns: list[Insn] = field(default_factory=list)
    origin: list[int] = field(default_factory=list)
    start_of: list[int] = field(default_factory=list)  # where each old insn begins now
    entry_of: list[int] = field(default_factory=list)  # where each function begins now
    counters: list[int] = field(default_factory=list)  # offset of each function's counter from R10; 0 is none

    def run(self) -> tuple[Prog, tuple[int, ...], tuple[int, ...]]:
        for index, subprog in enumerate(self.prog.subprogs):
            self._subprog(index, subprog)
        self.start_of.append(len(self.insns))
        self.entry_of.append(len(self.insns))
        for index, typed in enumerate(self.prog.ops):
            if isinstance(typed, Goto | Branch | MayGoto | CallSubprog):
                self._aim(index, typed)
        ends = self.entry_of[1:]
        subprogs = tuple(
            Subprog(s.name, start, end, s.proto, s.is_global)
            for s, start, end in zip(self.prog.subprogs, self.entry_of, ends, strict=False)
        )
        extra = tuple(COUNTER_BYTES if counter else 0 for counter in self.counters)
        return Prog(tuple(self.insns), subprogs, self.prog.kfuncs, self.prog.maps), tuple(self.origin), extra

    def _subprog(self, index: int, subprog: Subprog) -> None:
        ops = self.prog.ops[subprog.start : subprog.end]
        counts = any(isinstance(typed, MayGoto) for typed in ops)
        depth = (self.depths[index] + 7) // 8 * 8
        self.counters.append(-depth - COUNTER_BYTES if counts else 0)
        self.entry_of.append(len(self.insns))
        if counts:
            self._add(
                subprog.start, [Insn(op.ST.code | op.DW.code | op.MODE_MEM, op.FP, 0, self.counters[-1], MAX_LOOPS)]
            )
        for at, typed in enumerate(ops, subprog.start):
            self.start_of.append(len(self.insns))
            match typed:
                case Alu():
                    self._add(at, _division(self.prog.insns[at], typed))
                case Atomic(op=op.CMPXCHG, size=op.W):
                    self._add(at, _cleared(self.prog.insns[at]))
                case MayGoto():
                    self._add(at, _may_goto(typed.off, self.counters[-1]))
                case _:
                    self._add(at, [self.prog.insns[at]])

    def _add(self, origin: int, insns: Sequence[Insn]) -> None:
        self.insns += insns
        self.origin += [origin] * len(insns)

    def _aim(self, index: int, typed: Goto | Branch | MayGoto | CallSubprog) -> None:
        target = index + 1 + typed.off
        at = self.start_of[index] + (1 if isinstance(typed, MayGoto) else 0)
        old = self.insns[at]
        if isinstance(typed, CallSubprog):
            callee = self.prog.subprog_at(target)
            start = self.start_of[target] if callee is None else self.entry_of[callee]
            self.insns[at] = Insn(old.opcode, old.dst, old.src, old.off, start - at - 1)
        elif isinstance(typed, Goto) and typed.far:
            self.insns[at] = Insn(old.opcode, imm=self.start_of[target] - at - 1)
        else:
            self.insns[at] = Insn(old.opcode, old.dst, old.src, self.start_of[target] - at - 1, old.imm)


def rewrite(prog: Prog, depths: Sequence[int]) -> tuple[Prog, tuple[int, ...], tuple[int, ...]]:
    """The rewritten program; of each of its insns, the index of the one that it stems from; bytes of stack added per function.

    `depths`: bytes of stack that each function uses.
    """
    touched = any(
        isinstance(typed, MayGoto)
        or (isinstance(typed, Atomic) and typed.op is op.CMPXCHG and typed.size is op.W)
        or (isinstance(typed, Alu) and _division(insn, typed) != [insn])
        for insn, typed in zip(prog.insns, prog.ops, strict=True)
    )
    if not touched:
        return prog, tuple(range(len(prog.insns))), (0,) * len(prog.subprogs)
    return _Rewriter(prog, depths).run()
