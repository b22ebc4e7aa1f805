"""Calls of C functions: from where BPF code leaves its argument slots to where the C ABI has the arguments.

Both are the same but for values of more than 8 bytes, which the ABI does not split between registers and stack, and aligns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from backends.abi import EIGHTBYTE, InReg, Location, OnStack
from backends.image import CompileError
from harness.isa.ctypes import CInt, CPtr, DataModel
from harness.isa.insn import CallKfunc, Op, Prog
from harness.isa.proto import Proto
from harness.isa.slots import SLOT_BYTES, is_pair, slots_of

if TYPE_CHECKING:
    from backends.trampoline import Plan
    from backends.trampoline_plan import Placement

SPARE: Final = InReg("spare")  # a register that no argument is in: it breaks circles


@dataclass(frozen=True, slots=True)
class Move:
    """8 bytes from one place to another."""

    source: Location
    target: Location


def is_plain(proto: Proto) -> bool:
    """Whether all arguments are integers and pointers of up to 8 bytes: those are where the C ABI has them."""
    return all(isinstance(param.type, CInt | CPtr) and param.type.size <= SLOT_BYTES for param in proto.params)


@dataclass(frozen=True)
class Marshal:
    """One architecture's calls of C functions."""

    model: DataModel
    rules: "Placement"
    _known: dict[Proto, tuple[Move, ...]] = field(default_factory=dict, init=False)

    def moves(self, proto: Proto) -> tuple[Move, ...]:
        """What has to be done before a call, in an order that keeps every source until it was read. Raises CompileError."""
        if proto not in self._known:
            plan = self._plan(proto)
            assert len(plan.slots) == len(slots_of(proto)), "a slot for each eightbyte"
            places = [(slot.where, self._left(number)) for number, slot in enumerate(plan.slots)]
            self._known[proto] = tuple(_in_order({to: at for to, at in places if to is not None and to != at}))
        return self._known[proto]

    def stack_bytes(self, proto: Proto) -> int:
        """What a call needs on the stack whose arguments are moved; what others need, their slots say."""
        return self._plan(proto).area_bytes if self.moves(proto) else 0

    def check_result(self, proto: Proto) -> None:
        """Raises CompileError for a pair in memory."""
        if is_pair(proto.result) and self.rules.in_memory(proto.result):
            raise CompileError(f"{proto.name}: its result is in memory")

    def _plan(self, proto: Proto) -> "Plan":
        from backends.trampoline import RefusedError  # most programs do without
        from backends.trampoline_plan import full_plan

        try:
            return full_plan(proto, self.model, self.rules)
        except RefusedError as error:
            raise CompileError(f"{proto.name}: {error}") from error

    def _left(self, slot: int) -> Location:
        """Where BPF code leaves a slot: as the ABI has as many integers."""
        regs, sp = self.rules.assumed.regs, self.rules.assumed.sp
        return InReg(regs[slot]) if slot < len(regs) else OnStack(EIGHTBYTE * (slot - len(regs)), sp)


def moved_kfuncs(prog: Prog, ops: Sequence[Op]) -> list[Proto]:
    """The C functions that a function calls with arguments which may have to be moved."""
    protos = [prog.kfunc(insn.btf_id) for insn in ops if isinstance(insn, CallKfunc)]
    return [proto for proto in protos if proto is not None and not is_plain(proto)]


def _in_order(sources: dict[Location, Location]) -> list[Move]:
    """Moves that are meant to happen at once, one after the other."""
    done: list[Move] = []
    left = dict(sources)
    while left:
        free = next((to for to in left if to not in left.values()), None)
        if free is None:
            kept = next(iter(left))
            done.append(Move(kept, SPARE))
            left = {to: SPARE if at == kept else at for to, at in left.items()}
        else:
            done.append(Move(left.pop(free), free))
    return done


class CallsC:
    """What a JIT asks before it calls C functions. `marshal` gives its architecture's; most programs do without."""

    marshal: Callable[[], Marshal]

    def c_pair(self, proto: Proto) -> bool:
        """Whether a C function's result has a high half. Raises CompileError where it is in memory."""
        if is_pair(proto.result):
            self.marshal().check_result(proto)
        return is_pair(proto.result)

    def c_moves(self, proto: Proto) -> Sequence[Move]:
        """What has to be moved before a call of a C function."""
        return () if is_plain(proto) else self.marshal().moves(proto)

    def c_stack_bytes(self, prog: Prog, ops: Sequence[Op]) -> int:
        """What calls of C functions need on the stack where something has to be moved."""
        return max((self.marshal().stack_bytes(proto) for proto in moved_kfuncs(prog, ops)), default=0)
