"""Broken verifiers: each is Verifier with one method wrong, named after the defect it re-makes."""

from collections.abc import Iterable, Sequence

from harness.isa.insn import Op, Prog, Subprog
from harness.isa.opcodes import MAX_REG_ARGS
from verifier import rules
from verifier.state import NOT_INIT, Frame, RegState, State
from verifier.tailcalls import MAX_CALLERS_BYTES, TailCalls
from verifier.verdict import Refusal
from verifier.verify import Verifier


class SlotsSurviveCalls(Verifier):
    """BS-07, BS-08: a call leaves the caller's stack arguments as they were."""

    def after_call(self, frame: Frame, result: RegState, high: RegState = NOT_INIT) -> None:
        slots = frame.slots[:]
        super().after_call(frame, result, high)
        frame.slots = slots


class LoadAfterStoreAllowed(Verifier):
    """BS-04: incoming stack arguments may be loaded after a store or a call."""

    def requirements(self, insn: Op, state: State) -> list[rules.Rule]:
        return [rule for rule in super().requirements(insn, state) if not isinstance(rule, rules.StackArgLoadFirst)]


class MissingSlotAccepted(Verifier):
    """BS-14, SA-V-30: nobody asks whether a callee's stack arguments were stored."""

    def check_slots(self, params: int, frame: Frame) -> None:
        pass


class WriteLimitOffByOne(Verifier):
    """SA-V-17: an eighth slot may be stored."""

    def requirements(self, insn: Op, state: State) -> list[rules.Rule]:
        found = super().requirements(insn, state)
        return [rules.StackArgWriteLimit(r.off, 8) if isinstance(r, rules.StackArgWriteLimit) else r for r in found]


class ReadLimitOffByOne(Verifier):
    """SA-V-22: one slot more may be loaded than the function has."""

    def requirements(self, insn: Op, state: State) -> list[rules.Rule]:
        found = super().requirements(insn, state)
        return [
            rules.StackArgReadLimit(r.off, r.incoming + 1) if isinstance(r, rules.StackArgReadLimit) else r
            for r in found
        ]


class SlotsNotCompared(Verifier):
    """BS-01: pruning ignores what is in the slots."""

    def slots_covered(self, old: Frame, new: Frame) -> bool:
        return True


class OrderNotCompared(Verifier):
    """BS-03: pruning ignores whether stack arguments may still be loaded."""

    def order_covered(self, old: Frame, new: Frame) -> bool:
        return True


class MainTakesStackArgs(Verifier):
    """BS-05, SA-V-70: a prototype of the main prog opens incoming slots."""

    def incoming_slots(self, index: int, subprog: Subprog) -> int:
        return super().incoming_slots(1, subprog)


class StoresNeedNoCall(Verifier):
    """BS-21, SA-V-45: slots may be stored that no call needs."""

    def check_stores_used(self) -> None:
        pass


class LookupsNotCompared(Verifier):
    """Pruning ignores which pointers come from one lookup."""

    def lookups_covered(self, held: Iterable[tuple[object, object]]) -> bool:
        return True


class SlotsNotDecided(Verifier):
    """A look for NULL tells nothing of the stack arguments."""

    def decide(self, state: State, lookup: int, *, found: bool) -> None:
        slots = [frame.slots[:] for frame in state.frames]
        super().decide(state, lookup, found=found)
        for frame, before in zip(state.frames, slots, strict=True):
            frame.slots = before


class EveryLookupDecided(Verifier):
    """A look for NULL at one result is one at all."""

    def decide(self, state: State, lookup: int, *, found: bool) -> None:
        for number in range(1, lookup + 8):
            super().decide(state, number, found=found)


class ReadOnlyMapWritten(Verifier):
    """Nobody asks whether a map may be written."""

    def requirements(self, insn: Op, state: State) -> list[rules.Rule]:
        return [rule for rule in super().requirements(insn, state) if not isinstance(rule, rules.MapWritable)]


class ValuesUnbounded(Verifier):
    """A map's value has no end."""

    def requirements(self, insn: Op, state: State) -> list[rules.Rule]:
        return [rule for rule in super().requirements(insn, state) if not isinstance(rule, rules.ValueBounds)]


class AtomicsAnywhere(Verifier):
    """An atomic access may be unaligned."""

    def requirements(self, insn: Op, state: State) -> list[rules.Rule]:
        return [rule for rule in super().requirements(insn, state) if not isinstance(rule, rules.ValueAligned)]


class OneSlotForEachParameter(Verifier):
    """HZ-8: a function's stack arguments are counted by its parameters, whatever their sizes. Linux before 7.4."""

    def incoming_slots(self, index: int, subprog: Subprog) -> int:
        return 0 if index == 0 or subprog.proto is None else max(len(subprog.proto.params) - MAX_REG_ARGS, 0)


class HighHalfNotGivenBack(Verifier):
    """R2 holds nothing after any call. Linux before 7.4."""

    def after_call(self, frame: Frame, result: RegState, high: RegState = NOT_INIT) -> None:
        super().after_call(frame, result)


class ResultIsR0(Verifier):
    """A result of two registers is looked at in one."""

    def gives_pair(self, subprog: int) -> bool:
        return False


class TracedCtxAsMemory(Verifier):
    """TR-14: what a traced function was called with is read like any memory, and written."""

    def requirements(self, insn: Op, state: State) -> list[rules.Rule]:
        return [rule for rule in super().requirements(insn, state) if not isinstance(rule, rules.TracedCtxAccess)]


class TracingReturnsAnything(Verifier):
    """TR-14: what runs beside a function may return anything."""

    def returns_zero(self) -> bool:
        return False


class TailCallComesBack(Verifier):
    """BS-33: a tail call in a subprog that succeeds is not a return to its caller."""

    def tail_call(self, at: int, state: State, pending: list[tuple[int, State]]) -> int:
        frames, state.frames = state.frames, [state.frames[-1]]
        following = super().tail_call(at, state, pending)
        state.frames = frames
        return following


class TailCallsBesideIncomingOnly(Verifier):
    """BS-36: a main prog has no stack arguments that it is given, so that it may tail call."""

    def slots_used(self, incoming: Sequence[int], outgoing: Sequence[int]) -> list[int]:
        return list(incoming)


class _OneByteMore(TailCalls):
    def too_deep(self, above: int, _own: int) -> bool:
        return above > MAX_CALLERS_BYTES


class _OwnFrameToo(TailCalls):
    def too_deep(self, above: int, own: int) -> bool:
        return above + own >= MAX_CALLERS_BYTES


class TailStackOneMore(Verifier):
    """BS-37: 256 bytes of callers' frames are allowed."""

    def tail_calls(self, prog: Prog) -> TailCalls:
        return _OneByteMore(prog, Refusal)


class TailStackOwnFrame(Verifier):
    """BS-37: the frame of the function that tail calls is counted."""

    def tail_calls(self, prog: Prog) -> TailCalls:
        return _OwnFrameToo(prog, Refusal)
