"""JITs with one defect each: a subclass that overrides one method. The id is the bug seed of the arm64 rules."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from backends.arm64 import encode as a64
from backends.arm64 import lower
from backends.arm64.code import Words
from backends.arm64.encode import SP, ZR
from backends.arm64.jit import (
    ARG_REGS,
    LINK,
    RECORD,
    Arm64Jit,
    BpfStack,
    Frame,
    Outgoing,
    Push,
    SetFp,
    Site,
    Step,
)
from backends.arm64.lower import Scratch
from backends.arm64.trampoline import MODEL, RULES
from backends.marshal import Marshal, Move
from harness.isa import opcodes as op
from harness.isa.ctypes import rounded_up
from harness.isa.insn import (
    Alu,
    Atomic,
    CallHelper,
    CallKfunc,
    CallSubprog,
    Insn,
    LoadAcquire,
    LoadArg,
    Reg,
    StoreRelease,
    Swap,
)
from harness.isa.proto import Proto
from harness.isa.verified import FuncFacts


class OutgoingNotRounded(Arm64Jit):
    """A64-B01: the outgoing area is no multiple of 16 for an odd number of slots."""

    def outgoing_bytes(self, facts: FuncFacts) -> int:
        return 8 * max(facts.outgoing_slots - len(ARG_REGS), 0)


class OutgoingCountedInSlots(Arm64Jit):
    """A64-B02: the outgoing area has as many bytes as it should have slots."""

    def outgoing_bytes(self, facts: FuncFacts) -> int:
        return rounded_up(max(facts.outgoing_slots - len(ARG_REGS), 0), 16)


class IncomingBelowRecord(Arm64Jit):
    """A64-B03: the sign of an incoming offset is wrong."""

    def load_arg(self, insn: LoadArg) -> list[int]:
        if insn.slot < len(ARG_REGS):
            return super().load_arg(insn)
        offset = lower.mov_imm32(64, 10, -self.incoming_offset(insn.slot))
        return [*offset, a64.ldr_rx(self.reg(insn.dst), RECORD, 10)]


class IncomingAtRecord(Arm64Jit):
    """A64-B04: argument 9 is read at +0 of the frame record, not past it."""

    def incoming_offset(self, slot: int) -> int:
        return 8 * (slot - len(ARG_REGS))


class OutgoingPastRecord(Arm64Jit):
    """A64-B05: the caller stores argument 9 at SP + 16, where the callee's record will not be."""

    def outgoing_offset(self, slot: int) -> int:
        return 16 + 8 * (slot - len(ARG_REGS))


class ResultInX7(Arm64Jit):
    """A64-B06, B07: R0 shares x7 with argument 8."""

    def reg(self, bpf: int) -> int:
        return 7 if bpf == 0 else super().reg(bpf)


class ArgRegsSwapped(Arm64Jit):
    """Arguments 6 and 7 in each other's registers, on both sides of a call."""

    def arg_reg(self, slot: int) -> int:
        return (6, 5, 7)[slot]


class ScratchIsArgument(Arm64Jit):
    """A64-B08, B09: scratch registers that hold arguments 6 and 7."""

    def scratch(self) -> Scratch:
        return Scratch(5, 6)


class ScratchIsCalleeSaved(Arm64Jit):
    """A64-B08 for another owner: a scratch register that belongs to the caller and is not saved."""

    def scratch(self) -> Scratch:
        return Scratch(23, 24)


class ScratchIsPlatform(Arm64Jit):
    """A64-03 broken: the platform register is written."""

    def scratch(self) -> Scratch:
        return Scratch(18, 11)


class FpForgetsOutgoing(Arm64Jit):
    """A64-B10: R10's stack is reached from SP without the outgoing area."""

    def fp_above_sp(self, frame: Frame) -> int:
        return sum(step.size for step in frame.steps if isinstance(step, BpfStack))


class OutgoingAboveSaved(Arm64Jit):
    """A64-B11: the outgoing area lies above the saved registers, not at SP."""

    def frame_order(
        self, pushes: list[Push], set_fp: list[SetFp], stack: BpfStack, outgoing: Outgoing
    ) -> tuple[Step, ...]:
        return (outgoing, *pushes, *set_fp, stack)


class OutgoingAboveBpfStack(Arm64Jit):
    """A64-B11: the outgoing area lies above the BPF stack, not at SP."""

    def frame_order(
        self, pushes: list[Push], set_fp: list[SetFp], stack: BpfStack, outgoing: Outgoing
    ) -> tuple[Step, ...]:
        return (*pushes, outgoing, *set_fp, stack)


class OutgoingNeverFreed(Arm64Jit):
    """A64-B12: the epilogue forgets the outgoing area."""

    def leave(self, step: Step) -> list[int]:
        return [] if isinstance(step, Outgoing) else super().leave(step)


class OutgoingFreedAtLastExitOnly(Arm64Jit):
    """A64-B13: an exit that is not the last insn forgets the outgoing area."""

    def exit(self, site: Site) -> Words:
        if not super().exit(site):
            return []
        kept = tuple(step for step in site.frame.steps if not isinstance(step, Outgoing))
        return self.epilogue(Frame(site.frame.is_main, kept))


class OutgoingFreedAfterPops(Arm64Jit):
    """A64-B14: the outgoing area is added back after the pops."""

    def epilogue(self, frame: Frame) -> list[int]:
        area = [step for step in frame.steps if isinstance(step, Outgoing)]
        others = [step for step in frame.steps if not isinstance(step, Outgoing)]
        return super().epilogue(Frame(frame.is_main, (*area, *others)))


class OutgoingSizedByIncoming(Arm64Jit):
    """A64-B15: the area has the size of the function's own arguments."""

    def outgoing_bytes(self, facts: FuncFacts) -> int:
        return rounded_up(8 * max(facts.incoming_slots - len(ARG_REGS), 0), 16)


class NoResultAfterCall(Arm64Jit):
    """A64-B21: R0 is not taken from x0 after any call."""

    def after_call(self, insn: CallHelper | CallSubprog | CallKfunc) -> list[int]:
        return []


class NoResultAfterHelper(Arm64Jit):
    """A64-B21: R0 is not taken from x0 after a helper."""

    def after_call(self, insn: CallHelper | CallSubprog | CallKfunc) -> list[int]:
        return [] if isinstance(insn, CallHelper) else super().after_call(insn)


class NoResultAfterKfunc(Arm64Jit):
    """A64-B21: R0 is not taken from x0 after a kfunc."""

    def after_call(self, insn: CallHelper | CallSubprog | CallKfunc) -> list[int]:
        return [] if isinstance(insn, CallKfunc) else super().after_call(insn)


class NoResultAfterSubprog(Arm64Jit):
    """A64-B21: R0 is not taken from x0 after a subprog."""

    def after_call(self, insn: CallHelper | CallSubprog | CallKfunc) -> list[int]:
        return [] if isinstance(insn, CallSubprog) else super().after_call(insn)


class NoResultFromSubprog(Arm64Jit):
    """A64-B22: a subprog returns without moving R0 to x0."""

    def before_return(self, frame: Frame) -> list[int]:
        return super().before_return(frame) if frame.is_main else []


class StackArgsAtX0(Arm64Jit):
    """A64-B25: R11 is looked up as a register, and an unlisted one reads as x0."""

    def load_arg(self, insn: LoadArg) -> list[int]:
        return [a64.ldr_rm(self.reg(insn.dst), 0, insn.off)]


class ArgImmZeroExtended(Arm64Jit):
    """A64-B27: a constant stack argument has its upper half cleared."""

    def arg_imm(self, rd: int, value: int) -> list[int]:
        return lower.mov_imm32(32, rd, value)


class FpBelowStack(Arm64Jit):
    """A64-B32: R10's register is set after the BPF stack was reserved."""

    def frame_order(
        self, pushes: list[Push], set_fp: list[SetFp], stack: BpfStack, outgoing: Outgoing
    ) -> tuple[Step, ...]:
        return (*pushes, stack, *set_fp, outgoing)


class RedZone(Arm64Jit):
    """A64-16 broken: the BPF stack lies below SP, where an interrupt or a callee writes."""

    def frame_order(
        self, pushes: list[Push], set_fp: list[SetFp], stack: BpfStack, outgoing: Outgoing
    ) -> tuple[Step, ...]:
        return (*pushes, *set_fp, BpfStack(0), outgoing)


class MovElided(Arm64Jit):
    """A64-B35: `w1 = w1` is taken for nothing."""

    def alu(self, insn: Alu) -> Words:
        return [] if insn.op is op.MOV and insn.src == Reg(insn.dst) else super().alu(insn)


class ModOverwritesDividend(Arm64Jit):
    """A64-B36: the quotient overwrites the dividend that the remainder still needs."""

    def alu(self, insn: Alu) -> Words:
        if insn.op is not op.MOD or not isinstance(insn.src, Reg):
            return super().alu(insn)
        d, s = self.reg(insn.dst), self.reg(insn.src.n)
        return [a64.udiv_rrr[insn.bits](d, d, s), a64.msub_rrrr[insn.bits](d, d, s, d)]


class CalleeSavedNotSaved(Arm64Jit):
    """A64-10 broken: x19 is neither saved nor restored."""

    def callee_saved(self, insns: Iterable[Insn]) -> list[int]:
        return [reg for reg in super().callee_saved(insns) if reg != 19]


class CalleeSavedNotRestored(Arm64Jit):
    """A64-10 broken: x19 is saved, and popped into the zero register."""

    def leave(self, step: Step) -> list[int]:
        if isinstance(step, Push) and step.first == 19:
            return super().leave(Push(ZR, step.second))
        return super().leave(step)


class RecordNotPopped(Arm64Jit):
    """A64-I15 broken: SP at the return is 16 below SP at the entry."""

    def leave(self, step: Step) -> list[int]:
        return [a64.ldp_pop(RECORD, LINK, SP, 0)] if step == Push(RECORD, LINK) else super().leave(step)


class NoLandingPad(Arm64Jit):
    """A64-17 broken: an image for BTI whose functions begin without a landing pad."""

    def prologue(self, frame: Frame) -> list[int]:
        return [word for word in super().prologue(frame) if word != a64.bti_jc()]


class ExtendsFrom16(Arm64Jit):
    """A move that extends the sign of 8 bits takes 16."""

    def alu(self, insn: Alu) -> Words:
        return super().alu(replace(insn, op=op.MOVSX16) if insn.op is op.MOVSX8 else insn)


class DividesUnsigned(Arm64Jit):
    """Signed division without the sign."""

    def alu(self, insn: Alu) -> Words:
        return super().alu(replace(insn, op={op.SDIV: op.DIV, op.SMOD: op.MOD}.get(insn.op, insn.op)))


class SwapKeepsUpper(Arm64Jit):
    """Two bytes are swapped, and what is above stays."""

    def swap(self, insn: Swap) -> list[int]:
        words = super().swap(insn)
        return words[:1] if insn.width == 16 else words


class FetchForgotten(Arm64Jit):
    """An atomic addition that fetches nothing."""

    def atomic(self, insn: Atomic | LoadAcquire | StoreRelease) -> Words:
        fetches = isinstance(insn, Atomic) and insn.op is op.FETCH_ADD
        return super().atomic(replace(insn, op=op.ATOMIC_ADD) if fetches and isinstance(insn, Atomic) else insn)


class OldValueForgotten(Arm64Jit):
    """A compare-and-exchange that leaves R0 as it was."""

    def atomic(self, insn: Atomic | LoadAcquire | StoreRelease) -> Words:
        words = super().atomic(insn)
        if isinstance(insn, Atomic) and insn.op is op.CMPXCHG:
            return [a64.mov_rr[64](12, self.reg(0)), *words, a64.mov_rr[64](self.reg(0), 12)]
        return words


class ClearsTheMask(Arm64Jit):
    """An atomic `and` by `stclr` and `ldclral` without the complement."""

    def atomic(self, insn: Atomic | LoadAcquire | StoreRelease) -> Words:
        words = super().atomic(insn)
        if isinstance(insn, Atomic) and insn.op in (op.ATOMIC_AND, op.FETCH_AND):
            return [
                a64.mov_rr[64](11, self.reg(insn.src)) if word == a64.mvn_rr[64](11, self.reg(insn.src)) else word
                for word in words
            ]
        return words


class KfuncArgsNotMoved(Arm64Jit):
    """A kfunc is called as a BPF function would be: its __int128 are where BPF code left them. Linux before 7.4."""

    def c_moves(self, proto: Proto) -> Sequence[Move]:
        return ()


class KfuncArgsAtOddRegisters(Arm64Jit):
    """AAPCS64, C.10: an __int128 starts at the next register, odd or even."""

    def c_moves(self, proto: Proto) -> Sequence[Move]:
        return Marshal(MODEL, replace(RULES, pairs=False)).moves(proto)


class KfuncArgsSplit(Arm64Jit):
    """AAPCS64, C.13: registers that a struct did not fit are given to what comes behind it."""

    def c_moves(self, proto: Proto) -> Sequence[Move]:
        return Marshal(MODEL, replace(RULES, assumed=replace(RULES.assumed, stops=False))).moves(proto)
