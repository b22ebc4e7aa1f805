"""Rewrites after the walk: division and remainder by a register get the guards that Linux inserts.

Linux kernel/bpf/verifier.c, do_misc_fixups(): x / 0 is 0 and x % 0 is x, which x86-64 does not give by itself.
"""

from harness.isa import opcodes as op
from harness.isa.insn import Alu, Branch, CallSubprog, Goto, Insn, Prog, Reg, Subprog


def _guarded(insn: Insn, alu: Alu) -> list[Insn]:
    """The insns that take the place of one division or remainder by a register."""
    dst, src = insn.dst, insn.src
    jump = (op.JMP_CLASS if alu.bits == 64 else op.JMP32_CLASS).code
    xor32 = op.ALU32_CLASS.code | op.SRC_REG | op.XOR.code << 4
    mov32 = op.ALU32_CLASS.code | op.SRC_REG | op.MOV.code << 4
    goto = op.JMP_CLASS.code | op.JA_CODE << 4
    if alu.op is op.DIV:
        return [Insn(jump | op.JNE.code << 4, src, 0, 2, 0), Insn(xor32, dst, dst), Insn(goto, off=1), insn]
    if alu.bits == 64:
        return [Insn(jump | op.JEQ.code << 4, src, 0, 1, 0), insn]
    return [Insn(jump | op.JEQ.code << 4, src, 0, 2, 0), insn, Insn(goto, off=1), Insn(mov32, dst, dst)]


def rewrite(prog: Prog) -> tuple[Prog, tuple[int, ...]]:
    """The rewritten program, and for each of its insns the index of the one that it stems from."""
    insns: list[Insn] = []
    origin: list[int] = []
    start_of: list[int] = []
    for index, (insn, typed) in enumerate(zip(prog.insns, prog.ops, strict=True)):
        start_of.append(len(insns))
        guard = isinstance(typed, Alu) and typed.op in (op.DIV, op.MOD) and isinstance(typed.src, Reg)
        added = _guarded(insn, typed) if guard and isinstance(typed, Alu) else [insn]
        insns += added
        origin += [index] * len(added)
    if len(insns) == len(prog.insns):
        return prog, tuple(origin)
    start_of.append(len(insns))
    for index, typed in enumerate(prog.ops):
        at = start_of[index]
        if isinstance(typed, Goto | Branch | CallSubprog):
            distance = start_of[index + 1 + typed.off] - at - 1
            old = insns[at]
            if isinstance(typed, CallSubprog):
                insns[at] = Insn(old.opcode, old.dst, old.src, old.off, distance)
            else:
                insns[at] = Insn(old.opcode, old.dst, old.src, distance, old.imm)
    subprogs = tuple(Subprog(s.name, start_of[s.start], start_of[s.end], s.proto, s.is_global) for s in prog.subprogs)
    return Prog(tuple(insns), subprogs, prog.kfuncs), tuple(origin)
