"""Broken trampolines: each is one architecture's with one method wrong, named after the defect."""

from collections.abc import Sequence
from dataclasses import replace

from backends.abi import EIGHTBYTE, InReg, OnStack
from backends.arm64 import encode as a64
from backends.arm64 import trampoline as arm64
from backends.arm64.encode import SP
from backends.arm64.trampoline import FP, KEPT, TMP, Arm64Trampoline
from backends.trampoline import Attached, Frame, Kind, Mode, Places, Plan, RefusedError, Slot, Target
from backends.trampoline_plan import EOPNOTSUPP, Placement, full_plan
from backends.x86_64 import encode as x86
from backends.x86_64 import trampoline as x86_64
from backends.x86_64.encode import Gpr, Mem
from backends.x86_64.trampoline import X8664Trampoline
from harness.isa.ctypes import natural_of
from harness.isa.proto import Proto

Double = Arm64Trampoline | X8664Trampoline


class Arm64AreaNotRounded(Arm64Trampoline):
    """TB-18: the frame is not a multiple of 16."""

    def frame_size(self, used: int) -> int:
        return used if used % 16 else used + 8


class Arm64AreaNotCounted(Arm64Trampoline):
    """TB-18: the stack arguments for the original have no room."""

    def area_bytes(self) -> int:
        return 0


class Arm64IncomingAsStructOps(Arm64Trampoline):
    """TB-10, the other way: one frame record is forgotten."""

    def incoming(self) -> int:
        return 16


class Arm64StackNotCopied(Arm64Trampoline):
    """The original's stack arguments are not copied again."""

    def copy_stack(self) -> None:
        pass


class Arm64StackFromCtx(Arm64Trampoline):
    """TB-19: they come from ctx, and holes vanish."""

    def copy_stack(self) -> None:
        first = next(self.plan.on_stack, (0, 0))[0]
        for index, _ in self.plan.on_stack:
            self._emit(
                a64.ldr_rm(TMP, SP, self.frame.ctx + EIGHTBYTE * index),
                a64.str_rm(TMP, SP, EIGHTBYTE * (index - first)),
            )


class Arm64ClearedByTotalSize(Arm64Trampoline):
    """TB-14: every slot of an argument is cleared as if it were its last."""

    def make(self, plan: Plan, attached: Attached, places: Places) -> bytes:
        last = {slot.arg: slot.size for slot in plan.slots}
        slots = (replace(slot, size=last[slot.arg]) if isinstance(slot.where, OnStack) else slot for slot in plan.slots)
        return super().make(replace(plan, slots=tuple(slots)), attached, places)


class Arm64RestoresByArguments(Arm64Trampoline):
    """TB-20: as many registers come back as there are arguments, not slots."""

    def restore_registers(self) -> None:
        for index, reg in list(self.plan.in_registers)[: len(self.plan.proto.params)]:
            self._emit(a64.ldr_rm(int(reg[1:]), SP, self.frame.ctx + EIGHTBYTE * index))


class Arm64ResultNotCleared(Arm64Trampoline):
    """TB-16: the first fmod_ret program sees what was there."""

    def clear_result(self) -> None:
        self._emit(a64.str_rm(FP, SP, self.frame.result or 0))


class Arm64ResultByArguments(Arm64Trampoline):
    """TB-17: the result is at the number of arguments."""

    def make_frame(self) -> Frame:
        frame = super().make_frame()
        return replace(frame, result=frame.ctx + EIGHTBYTE * len(self.plan.proto.params))


class Arm64OldestFirst(Arm64Trampoline):
    """TB-22: programs run in the order of their attachment."""

    def make(self, plan: Plan, attached: Attached, places: Places) -> bytes:
        return super().make(plan, replace(attached, programs=attached.programs[::-1]), places)


class Arm64SavedLost(Arm64Trampoline):
    """TB-25: X19 and X20 come back from the wrong place."""

    def _leave(self) -> None:
        frame, self.frame = self.frame, replace(self.frame, saved=self.frame.ctx)
        super()._leave()
        self.frame = frame


class _Replanned(Arm64Trampoline):
    """Slots where they should not be looked for."""

    def moved(self, plan: Plan) -> tuple[Slot, ...]:
        raise NotImplementedError

    def make(self, plan: Plan, attached: Attached, places: Places) -> bytes:
        return super().make(replace(plan, slots=self.moved(plan)), attached, places)


class Arm64NoGap(_Replanned):
    """TB-01: C.14's hole is ignored."""

    def moved(self, plan: Plan) -> tuple[Slot, ...]:
        offsets = iter(range(0, 256, 8))
        return tuple(
            replace(slot, where=OnStack(next(offsets), "sp")) if isinstance(slot.where, OnStack) else slot
            for slot in plan.slots
        )


class Arm64NoEvenRegister(_Replanned):
    """TB-03: C.10 is ignored."""

    def moved(self, plan: Plan) -> tuple[Slot, ...]:
        regs = [slot.where for slot in plan.slots]
        numbers = iter(range(8))
        return tuple(
            replace(slot, where=replace(where, reg=f"x{next(numbers)}")) if isinstance(where, InReg) else slot
            for slot, where in zip(plan.slots, regs, strict=True)
        )


class Arm64BackFilled(_Replanned):
    """TB-05: the register that C.13 leaves goes to a later argument."""

    def moved(self, plan: Plan) -> tuple[Slot, ...]:
        first = next(slot.where for slot in plan.slots if isinstance(slot.where, InReg))
        return (*plan.slots[:-1], replace(plan.slots[-1], where=replace(first, reg="x7")))


class Arm64ResultClobbered(Arm64Trampoline):
    """The result is saved after it was clobbered."""

    def _original(self) -> None:
        super()._original()
        self.words.insert(-1, a64.add_rri[64](0, SP, 0))


class X86IncomingAsCalled(X8664Trampoline):
    """TB-11: where a call's two return addresses would be, one is."""

    def incoming(self) -> int:
        return 24


class X86IncomingAsJumped(X8664Trampoline):
    """TB-11: the reverse."""

    def incoming(self) -> int:
        return 16


class X86FrameNotRounded(X8664Trampoline):
    """RSP is misaligned where the original takes something of 16 bytes on the stack."""

    def frame_size(self, used: int) -> int:
        return super().frame_size(used) + 8


class X86StackNotCopied(X8664Trampoline):
    """The original's stack arguments are not copied again."""

    def copy_stack(self) -> None:
        pass


class X86StackPacked(X8664Trampoline):
    """TB-02: the copy has no holes."""

    def copy_stack(self) -> None:
        for number, (_, offset) in enumerate(self.plan.on_stack):
            self._copy(offset, self.frame.area + EIGHTBYTE * number)


class X86NoBackfill(X8664Trampoline):
    """TB-06: once one argument is on the stack, all later ones are."""

    def make(self, plan: Plan, attached: Attached, places: Places) -> bytes:
        last = max((slot.where.off for slot in plan.slots if isinstance(slot.where, OnStack)), default=0)
        slots = (*plan.slots[:-1], replace(plan.slots[-1], where=OnStack(last + 8, "rsp")))
        return super().make(replace(plan, slots=slots), attached, places)


class X86ResultNotCleared(X8664Trampoline):
    """TB-16: the first fmod_ret program sees what was there."""

    def clear_result(self) -> None:
        self._store(self.frame.result or 0, Gpr.RBP)


class X86RbxLost(X8664Trampoline):
    """TB-25: RBX comes back from the wrong place."""

    def _write(self) -> None:
        frame, self.frame = self.frame, replace(self.frame, saved=self.frame.ctx)
        super()._write()
        self.frame = frame


class X86ArrayTooSmall(X8664Trampoline):
    """TB-04: an argument of two slots is given one."""

    def make_frame(self) -> Frame:
        frame = super().make_frame()
        return replace(frame, ctx=frame.ctx + EIGHTBYTE)


class X86NarrowAlwaysCleared(X8664Trampoline):
    """TB-13: the upper half is cleared although another argument is on the stack."""

    def single_narrow(self) -> bool:
        return True


class X86NarrowByTheLast(X8664Trampoline):
    """TB-13: whether the slot on the stack is narrow is asked of the last argument, which is in a register."""

    def single_narrow(self) -> bool:
        return len(list(self.plan.on_stack)) == 1 and self.plan.slots[-1].size + self.plan.slots[-1].at <= 4


class X86WholeTypeNotSeen(X8664Trampoline):
    """TB-07: an attribute on a whole struct does not align it."""

    def make(self, plan: Plan, attached: Attached, places: Places) -> bytes:
        rules = replace(x86_64.RULES, is_wide=lambda ctype: natural_of(ctype, x86_64.MODEL) > EIGHTBYTE)
        return super().make(_replanned(plan, rules), attached, places)


class X86PackedFromRegisters(X8664Trampoline):
    """TB-08: a struct with a misaligned field is taken from registers."""

    def make(self, plan: Plan, attached: Attached, places: Places) -> bytes:
        return super().make(_replanned(plan, replace(x86_64.RULES, in_memory=lambda ctype: False)), attached, places)


def _replanned(plan: Plan, rules: Placement) -> Plan:
    """Only where C calls, and only what is meant to be right."""
    if not plan.exact or plan.target is Target.BPF:
        return plan
    return replace(plan, slots=full_plan(plan.proto, x86_64.MODEL, rules).slots)


class X86R9FromStack(X8664Trampoline):
    """TB-21: R9 comes back from the first eightbyte of an argument that is on the stack."""

    def restore_registers(self) -> None:
        super().restore_registers()
        index = next((index for index, _ in self.plan.on_stack), 0)
        self._emit(x86.mov_rm64(Gpr.R9, Mem(Gpr.RBP, self.frame.ctx + EIGHTBYTE * index)))


class Arm64GoesOnAfterAValue(Arm64Trampoline):
    """TB-23: what an fmod_ret program returns does not end the list."""

    def _modifying(self) -> list[int]:
        for at in super()._modifying():
            self.words[at] = a64.nop()
        return []


class X86GoesOnAfterAValue(X8664Trampoline):
    """TB-23: the same."""

    def _modifying(self) -> list[int]:
        for at in super()._modifying():
            self.code[at : at + 6] = b"\x90" * 6
        return []


class Arm64FuncIpShifted(Arm64Trampoline):
    """TB-26: the function's address is one word too low."""

    def make_frame(self) -> Frame:
        frame = super().make_frame()
        return frame if frame.func_ip is None else replace(frame, func_ip=frame.func_ip - EIGHTBYTE)


class X86FuncIpShifted(X8664Trampoline):
    """TB-26: the same."""

    def make_frame(self) -> Frame:
        frame = super().make_frame()
        return frame if frame.func_ip is None else replace(frame, func_ip=frame.func_ip - EIGHTBYTE)


class _AsC:
    """Planned as C would have it."""

    def planned(self, plan: Plan) -> Plan:
        model, rules = (arm64.MODEL, arm64.RULES) if isinstance(self, Arm64Trampoline) else (x86_64.MODEL, x86_64.RULES)
        return replace(full_plan(plan.proto, model, rules), target=plan.target)


class Arm64BpfAsC(_AsC, Arm64Trampoline):
    """TB-24: a function of a BPF program is taken for one that C calls, with C.10, C.13 and C.14."""

    def make(self, plan: Plan, attached: Attached, places: Places) -> bytes:
        return super().make(self.planned(plan), attached, places)


class X86BpfAsC(_AsC, X8664Trampoline):
    """TB-24: the same, with the hole of an aligned argument on the stack."""

    def make(self, plan: Plan, attached: Attached, places: Places) -> bytes:
        return super().make(self.planned(plan), attached, places)


class X86BpfNarrowCut(X8664Trampoline):
    """TB-13: what BPF code knows above a narrow argument is cleared."""

    def passes_whole(self) -> bool:
        return False


class X86TailCallPushed(X8664Trampoline):
    """TB-12: the tail-call counter's address lies where the first stack argument should be."""

    def pushes_tail_call(self) -> bool:
        return True


class X86TailCallLost(X8664Trampoline):
    """RAX is the last hook's."""

    def restore_tail_call(self) -> None:
        pass


class Arm64MemberAsTraced(Arm64Trampoline):
    """TB-10: a member's stack arguments are looked for behind two frame records."""

    def incoming(self) -> int:
        return 32


class X86MemberAsTraced(X8664Trampoline):
    """TB-10: behind two return addresses."""

    def incoming(self) -> int:
        return 24


class X86MemberUnmarked(X8664Trampoline):
    """What is called through a pointer has no landing pad."""

    def landing_pad(self) -> bytes:
        return b""


class Arm64MemberReturnsTwice(Arm64Trampoline):
    """A frame record that a member does not have is taken from the stack at the end."""

    def _leave(self) -> None:
        super()._leave()
        self.words[-1:] = [a64.ldp_pop(FP, KEPT, SP, 16), a64.ret_r(KEPT)]


class X86MemberResultLost(X8664Trampoline):
    """The program's result is the last hook's."""

    def make_frame(self) -> Frame:
        return replace(super().make_frame(), result=None)


# --- what is accepted and must not be: plans


def thirteen_words(
    proto: Proto, kinds: Sequence[Kind], mode: Mode, target: Target = Target.KERNEL, *, tail_call: bool = False
) -> Plan:
    """TB-09: one word more than ctx has room for is accepted."""
    try:
        return arm64.plan(proto, kinds, mode, target, tail_call=tail_call)
    except RefusedError as refusal:
        if refusal.at != "attach":
            raise
        return arm64.plan(proto, kinds, Mode.LINUX, target, tail_call=tail_call)


def second_register_lost(
    proto: Proto, kinds: Sequence[Kind], mode: Mode, target: Target = Target.KERNEL, *, tail_call: bool = False
) -> Plan:
    """TB-15: a result of 16 bytes is accepted behind fexit, where one register of it is kept."""
    try:
        return arm64.plan(proto, kinds, mode, target, tail_call=tail_call)
    except RefusedError as refusal:
        if refusal.errno != EOPNOTSUPP:
            raise
        return arm64.plan(proto, [Kind.FENTRY], mode, target, tail_call=tail_call)


class X86ResultNotGiven(X8664Trampoline):
    """The caller gets what the last hook left."""

    def _write(self) -> None:
        super()._write()
        before = len(self.code) - 10  # mov rax, [rbp - 8]; mov rbx, ...; leave; ret
        if self.attached.calls_original:
            self.code[before : before + 4] = b"\x90" * 4
