"""Broken JITs: each is X8664Jit with one method wrong, named after the defect it re-makes."""

from collections.abc import Sequence
from dataclasses import replace

from backends.marshal import SPARE, Marshal, Move
from backends.x86_64 import encode as x86
from backends.x86_64 import lower
from backends.x86_64.encode import Cond, Gpr, Mem
from backends.x86_64.jit import Func, X8664Jit
from backends.x86_64.relax import Call, Jump, Piece
from backends.x86_64.trampoline import MODEL, RULES
from harness.isa.insn import (
    Alu,
    Atomic,
    Branch,
    CallKfunc,
    Goto,
    Imm,
    Insn,
    LoadArg,
    Op,
    Prog,
    Reg,
    Store,
    StoreArg,
    Swap,
)
from harness.isa.opcodes import ATOMIC_ADD, CMPXCHG, DIV, FETCH_ADD, MASK32, MOD, MOV, MOVSX8, MOVSX16, SDIV, SMOD
from harness.isa.proto import Proto
from harness.isa.verified import FuncFacts


class Arg6NotSet(X8664Jit):
    """X64-16, X64-B20: argument 6 is stored nowhere."""

    def store_arg(self, func: Func, insn: StoreArg) -> bytes:
        return b"" if insn.slot == 0 else super().store_arg(func, insn)


class Arg6InMemory(X8664Jit):
    """X64-B20: argument 6 goes to memory, below the outgoing area, and not into r9."""

    def store_arg(self, func: Func, insn: StoreArg) -> bytes:
        if insn.slot or not isinstance(insn.src, Reg):
            return super().store_arg(func, insn)
        return x86.mov_m64r(Mem(Gpr.RBP, self.outgoing_disp(func, 0)), lower.native(insn.src.n))


class Arg6InScratch(X8664Jit):
    """X64-B24: BPF's r11 taken for native r11, so that argument 6 lands in a scratch register."""

    def store_arg(self, func: Func, insn: StoreArg) -> bytes:
        if insn.slot or not isinstance(insn.src, Reg):
            return super().store_arg(func, insn)
        return lower.mov(lower.SCRATCH, lower.native(insn.src.n))


class Arg6Reversed(X8664Jit):
    """X64-B26: `mov src, r9` for `mov r9, src`."""

    def store_arg(self, func: Func, insn: StoreArg) -> bytes:
        if insn.slot or not isinstance(insn.src, Reg):
            return super().store_arg(func, insn)
        return lower.mov(lower.native(insn.src.n), lower.ARG6)


class Arg6ZeroExtended(X8664Jit):
    """X64-B25: a negative immediate goes into r9d, which clears the upper half of r9."""

    def store_arg(self, func: Func, insn: StoreArg) -> bytes:
        if insn.slot or not isinstance(insn.src, Imm):
            return super().store_arg(func, insn)
        return lower.mov_const(lower.ARG6, insn.src.value & MASK32)


class Arg6ClearsEcx(X8664Jit):
    """X64-B27: `xor r9d, r9d` without its REX bits is `xor ecx, ecx`."""

    def store_arg(self, func: Func, insn: StoreArg) -> bytes:
        if insn.slot or insn.src != Imm(0):
            return super().store_arg(func, insn)
        return x86.xor_rr(Gpr.RCX, Gpr.RCX, bits=32)


class Arg6ImmStoredToo(X8664Jit):
    """X64-B01: after the load of r9 the code of a memory store follows as well."""

    def store_arg(self, func: Func, insn: StoreArg) -> bytes:
        code = super().store_arg(func, insn)
        if insn.slot or not isinstance(insn.src, Imm):
            return code
        return code + x86.mov_m64i(Mem(Gpr.RBP, self.outgoing_disp(func, 1)), insn.src.value)


class ShiftTakesR9(X8664Jit):
    """X64-B04: a shift by register borrows r9."""

    def alu_shift_reg(self, insn: Alu, count_in: Reg) -> bytes:
        dst, src, r9, rcx = lower.native(insn.dst), lower.native(count_in.n), lower.ARG6, Gpr.RCX
        if src is rcx:
            return super().alu_shift_reg(insn, count_in)
        shift = lower.SHIFTS[insn.op].rc(r9, bits=insn.bits)
        keep, give_back = (x86.push_r(rcx), x86.pop_r(rcx)) if dst is not rcx else (b"", b"")
        return keep + lower.mov(r9, dst) + lower.mov(rcx, src) + shift + give_back + lower.mov(dst, r9)


class DivTakesR9(X8664Jit):
    """X64-B04: a division keeps its divisor in r9."""

    def div_mod(self, insn: Alu) -> bytes:
        divisor = lower.ARG6
        match insn.src:
            case Imm(value):
                set_up = x86.mov_ri_sign(divisor, value)
            case Reg(n):
                set_up = lower.mov(divisor, lower.native(n))
        return set_up + _divide(insn, divisor)


class DivisorLost(X8664Jit):
    """X64-B32: a divisor in rax or rdx is used after they are overwritten."""

    def div_mod(self, insn: Alu) -> bytes:
        return _divide(insn, lower.native(insn.src.n)) if isinstance(insn.src, Reg) else super().div_mod(insn)


def _divide(insn: Alu, divisor: Gpr) -> bytes:
    dst, bits = lower.native(insn.dst), insn.bits
    kept = [reg for reg in (Gpr.RAX, Gpr.RDX) if reg is not dst]
    code = b"".join(x86.push_r(reg) for reg in kept) + lower.mov(Gpr.RAX, dst)
    code += x86.xor_rr(Gpr.RDX, Gpr.RDX, bits=32) + x86.div_r(divisor, bits=bits)
    code += lower.mov(dst, Gpr.RDX if insn.op is MOD else Gpr.RAX)
    return code + b"".join(x86.pop_r(reg) for reg in reversed(kept))


class ShiftOfRcxLost(X8664Jit):
    """X64-B35: without BMI2, a shift of rcx by another register shifts the count and then drops it."""

    def alu_shift_reg(self, insn: Alu, count_in: Reg) -> bytes:
        dst, src, rcx = lower.native(insn.dst), lower.native(count_in.n), Gpr.RCX
        shift = lower.SHIFTS[insn.op].rc(dst, bits=insn.bits)
        return shift if src is rcx else x86.push_r(rcx) + lower.mov(rcx, src) + shift + x86.pop_r(rcx)


class SeventhOneSlotOff(X8664Jit):
    """X64-B08, X64-B15: the memory arguments start at [rsp + 8], as if argument 6 had a slot too."""

    def outgoing_disp(self, func: Func, slot: int) -> int:
        return super().outgoing_disp(func, slot) + 8


class OutgoingReversed(X8664Jit):
    """X64-B09: the last argument is at the bottom instead of the seventh."""

    def outgoing_disp(self, func: Func, slot: int) -> int:
        return super().outgoing_disp(func, self.outgoing_bytes(func.facts) // 8 + 1 - slot)


class OutgoingForgetsSaved(X8664Jit):
    """X64-B10: the displacement leaves out the saved registers."""

    def outgoing_disp(self, func: Func, slot: int) -> int:
        return super().outgoing_disp(func, slot) + 8 * (len(func.below) - 1)


class OutgoingFromUnroundedDepth(X8664Jit):
    """X64-B11: the displacement takes stack_depth as it is, the prologue rounds it."""

    def outgoing_disp(self, func: Func, slot: int) -> int:
        return super().outgoing_disp(func, slot) + func.stack_bytes - func.facts.stack_depth


class OutgoingAboveSaved(X8664Jit):
    """X64-B12: the outgoing area lies above the saved registers, which are then at rsp."""

    def below_stack(self, saved: tuple[Gpr, ...], outgoing_bytes: int) -> tuple[Gpr | int, ...]:
        return (outgoing_bytes, *saved)


class OutgoingTooSmall(X8664Jit):
    """X64-B16: the area is made for the first call alone: here for one argument in memory."""

    def outgoing_bytes(self, facts: FuncFacts) -> int:
        return min(super().outgoing_bytes(facts), 8)


class OutgoingNotReserved(X8664Jit):
    """X64-B06: rsp is never lowered, so the return address of the call lands on argument 7."""

    def prologue(self, func: Func) -> bytes:
        return super().prologue(replace(func, below=func.below[:-1]))


class IncomingAtReturnAddress(X8664Jit):
    """X64-B07: argument 7 is read from [rbp + 8]."""

    def incoming_disp(self, slot: int) -> int:
        return super().incoming_disp(slot) - 8


class IncomingOneSlotUp(X8664Jit):
    """X64-B07: argument 7 is read from [rbp + 24], as if argument 6 had a slot too."""

    def incoming_disp(self, slot: int) -> int:
        return super().incoming_disp(slot) + 8


class IncomingFromRax(X8664Jit):
    """X64-B23: r11 looked up in the register table gives rax as the base."""

    def load_arg(self, insn: LoadArg) -> bytes:
        return x86.mov_rm64(lower.native(insn.dst), Mem(Gpr.RAX, insn.off))


class RbxNotSaved(X8664Jit):
    """X64-10: rbx is used for R6 and never saved."""

    def saved_regs(self, insns: Sequence[Insn]) -> tuple[Gpr, ...]:
        return tuple(reg for reg in super().saved_regs(insns) if reg is not Gpr.RBX)


class RbxNotRestored(X8664Jit):
    """X64-10, X64-I12: rbx is saved, and its value popped into another register."""

    def epilogue(self, func: Func) -> bytes:
        return super().epilogue(replace(func, below=tuple(Gpr.RCX if r is Gpr.RBX else r for r in func.below)))


class RspNotRestored(X8664Jit):
    """X64-B13: no `add rsp, A`: the pops take arguments for the saved registers."""

    def epilogue(self, func: Func) -> bytes:
        return super().epilogue(replace(func, below=func.below[:-1]))


class RspNotRestoredAtLaterExits(X8664Jit):
    """X64-B14: every exit has an epilogue of its own, but only the first one has `add rsp, A`."""

    def exit(self, func: Func, at: int) -> Piece:
        return self.epilogue(func if at == func.first_exit else replace(func, below=func.below[:-1]))


class R9PushedAroundCalls(X8664Jit):
    """X64-B03: r9 kept across the call as if it were a private stack pointer: every memory argument moves by 8."""

    def call(self, target: int | str) -> Piece:
        return Call(target, before=x86.push_r(Gpr.R9), after=x86.pop_r(Gpr.R9))


class Mov32OfItselfElided(X8664Jit):
    """X64-B29: `w1 = w1` emits nothing and leaves the upper half."""

    def alu(self, insn: Alu) -> bytes:
        return b"" if insn.op is MOV and insn.src == Reg(insn.dst) else super().alu(insn)


class ByteStoreWithoutRex(X8664Jit):
    """X64-B30: without a REX prefix, sil and dil are dh and bh."""

    def store(self, insn: Store) -> bytes:
        return super().store(insn).removeprefix(b"\x40")


class UnsignedTakenAsSigned(X8664Jit):
    """X64-B36: `>` jumps on the signed condition."""

    def jump(self, func: Func, at: int, insn: Goto | Branch) -> Piece:
        piece = super().jump(func, at, insn)
        if isinstance(piece, Jump) and piece.cond is Cond.A:
            return replace(piece, cond=Cond.G)
        return piece


class ExtendsFrom16(X8664Jit):
    """A move that extends the sign of 8 bits takes 16."""

    def alu(self, insn: Alu) -> bytes:
        return super().alu(replace(insn, op=MOVSX16) if insn.op is MOVSX8 else insn)


class DividesUnsigned(X8664Jit):
    """Signed division without the sign."""

    def div_mod(self, insn: Alu) -> bytes:
        return super().div_mod(replace(insn, op={SDIV: DIV, SMOD: MOD}.get(insn.op, insn.op)))


class SwapKeepsUpper(X8664Jit):
    """Two bytes are swapped, and what is above stays."""

    def swap(self, insn: Swap) -> bytes:
        return x86.ror_ri16(lower.native(insn.dst), 8) if insn.width == 16 else super().swap(insn)


class FetchForgotten(X8664Jit):
    """An atomic addition that fetches nothing."""

    def atomic(self, insn: Atomic) -> bytes:
        return super().atomic(replace(insn, op=ATOMIC_ADD) if insn.op is FETCH_ADD else insn)


class OldValueForgotten(X8664Jit):
    """A compare-and-exchange that leaves R0 as it was."""

    def atomic(self, insn: Atomic) -> bytes:
        code = super().atomic(insn)
        return (
            lower.mov(lower.SCRATCH, Gpr.RAX) + code + lower.mov(Gpr.RAX, lower.SCRATCH) if insn.op is CMPXCHG else code
        )


class LoopForgetsR0(X8664Jit):
    """The loop of a fetching operation leaves its own value in R0."""

    def atomic(self, insn: Atomic) -> bytes:
        code = super().atomic(insn)
        return code[:-3] if insn.op in lower.LOOPS else code


class KfuncArgsNotMoved(X8664Jit):
    """A kfunc is called as a BPF function would be: its structs are where BPF code left them. Linux before 7.4."""

    def c_moves(self, proto: Proto) -> Sequence[Move]:
        return ()


class KfuncArgsInACircle(X8664Jit):
    """Two places are exchanged by one move after the other, without a third."""

    def c_moves(self, proto: Proto) -> Sequence[Move]:
        return [move for move in super().c_moves(proto) if SPARE not in (move.source, move.target)]


class KfuncArgsNotAligned(X8664Jit):
    """PsABI 3.2.3: an __int128 on the stack is put at the next eightbyte, aligned or not."""

    def c_moves(self, proto: Proto) -> Sequence[Move]:
        return Marshal(MODEL, replace(RULES, is_wide=lambda ctype: False)).moves(proto)


class KfuncAreaNotReserved(X8664Jit):
    """The stack has room for BPF's slots, not for the holes that C leaves between arguments."""

    def c_stack_bytes(self, prog: Prog, ops: Sequence[Op]) -> int:
        return 0


class HighHalfLeftBehind(X8664Jit):
    """The high half of a kfunc's result stays in rdx."""

    def call_c(self, prog: Prog, func: Func, insn: CallKfunc, call: Piece) -> Piece:
        piece = super().call_c(prog, func, insn, call)
        return replace(piece, after=b"") if isinstance(piece, Call) else piece
