"""What a trampoline has to know of a prototype: what is refused, and where every word of ctx is.

`linux` is what Linux 7.2 does, misplacements included; `full` puts every argument where the ABI document has it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from backends.abi import EIGHTBYTE, InReg, Location, OnStack
from backends.trampoline import MAX_ARGS, Kind, Mode, Plan, RefusedError, Slot, Target
from harness.isa.ctypes import (
    CInt,
    CPtr,
    CStruct,
    CType,
    CVoid,
    DataModel,
    IncompleteError,
    Param,
    bare,
    rounded_up,
    size_of,
)  # fmt: skip
from harness.isa.proto import Proto
from harness.isa.slots import kind_word as of_bpf

MAX_ARG_BYTES: Final = 16
E2BIG, EINVAL, EOPNOTSUPP, ENOTSUPP = 7, 22, 95, 524


@dataclass(frozen=True, slots=True)
class Assumed:
    """What Linux 7.2 assumes of arguments, from their sizes alone. TR-21."""

    regs: tuple[str, ...]
    sp: str
    stops: bool  # once one argument is on the stack, all later ones are
    most_slots: int


def size(ctype: CType, model: DataModel) -> int:
    """Bytes of a type; 0 for void and what has no size."""
    try:
        return 0 if isinstance(bare(ctype), CVoid) else size_of(ctype, model)
    except IncompleteError:
        return 0


def check(
    proto: Proto, kinds: Sequence[Kind], mode: Mode, target: Target, model: DataModel, rules: "Placement"
) -> None:
    """What no trampoline is made for, on either architecture. Raises RefusedError. TR-90 to TR-95.

    `full` also refuses what is not in general registers or on the stack, where Linux 7.2 looks at kinds alone.
    """
    name, result = proto.name, bare(proto.result)
    if target is Target.STRUCT_OPS:
        _check_member(proto, mode, model, rules)
        return
    if proto.variadic:
        raise RefusedError("load", EINVAL, f"The function {name} with variable args is unsupported.")
    if len(proto.params) > MAX_ARGS:
        raise RefusedError("load", EINVAL, f"The function {name} has {len(proto.params)} arguments. Too many.")
    bytes_back = size(result, model)
    if not isinstance(result, CInt | CPtr | CVoid | CStruct):
        raise RefusedError("load", EINVAL, f"The function {name} return type {kind_word(result)} is unsupported.")
    if isinstance(result, CStruct) and (
        mode is Mode.LINUX or not 0 < bytes_back <= MAX_ARG_BYTES or rules.in_memory(result) or rules.in_vectors(result)
    ):
        raise RefusedError("load", EINVAL, f"The function {name} return type {kind_word(result)} is unsupported.")
    for number, param in enumerate(proto.params):
        ctype, length = bare(param.type), size(param.type, model)
        if isinstance(ctype, CStruct) and ctype.members is not None and length == 0:
            raise RefusedError("load", EINVAL, f"The function {name} has malformed void argument.")
        fits = isinstance(ctype, CInt | CPtr | CStruct) and 0 < length <= MAX_ARG_BYTES
        if not fits or (mode is Mode.FULL and rules.in_vectors(ctype)):
            raise RefusedError(
                "load", EINVAL, f"The function {name} arg{number} type {kind_word(ctype)} is unsupported."
            )
    if bytes_back > EIGHTBYTE and any(kind.calls_original or kind is Kind.STRUCT_OPS for kind in kinds):
        text = f"Attach to function {name} with a >8 byte return value is not supported for this attach type"
        raise RefusedError("load", EOPNOTSUPP, text)
    if target is Target.BPF and Kind.FMOD_RET in kinds:
        raise RefusedError("load", EINVAL, "can't modify return codes of BPF programs")


def _check_member(proto: Proto, mode: Mode, model: DataModel, rules: "Placement") -> None:
    """What is not registered as a member of a struct, with no message; Linux 7.2 takes no pointer to anything but a struct back."""
    returned = bare(proto.result)
    try:
        check(proto, (Kind.STRUCT_OPS,), mode, Target.KERNEL, model, rules)
    except RefusedError:
        raise RefusedError("target", EINVAL, "") from None
    if mode is Mode.LINUX and isinstance(returned, CPtr) and not isinstance(bare(returned.to), CStruct):
        raise RefusedError("target", EINVAL, "")


def kind_word(ctype: CType) -> str:
    """A type's kind as BTF names it."""
    match ctype:
        case CStruct() | CInt() | CPtr():
            return of_bpf(ctype)
        case _:
            return {"CFloat": "FLOAT", "CArray": "ARRAY", "CVoid": "VOID"}.get(type(ctype).__name__, "UNKNOWN")


def assumed_plan(proto: Proto, model: DataModel, assumed: Assumed) -> Plan:
    """Where Linux 7.2 takes the arguments to be: sizes in declaration order, no alignment. TR-21."""
    slots: list[Slot] = []
    taken, stack, closed = 0, 0, False
    for number, param in enumerate(proto.params):
        length = size(param.type, model)
        parts = [(at, min(EIGHTBYTE, length - at)) for at in range(0, length, EIGHTBYTE)]
        if not closed and taken + len(parts) <= len(assumed.regs):
            slots += [Slot(number, at, part, InReg(assumed.regs[taken + n])) for n, (at, part) in enumerate(parts)]
            taken += len(parts)
            continue
        closed = assumed.stops
        slots += [Slot(number, at, part, OnStack(stack + at, assumed.sp)) for at, part in parts]
        stack += EIGHTBYTE * len(parts)
    if len(slots) > assumed.most_slots:
        raise RefusedError("attach", ENOTSUPP, "")
    return Plan(proto, tuple(slots), stack)


@dataclass(frozen=True, slots=True)
class Placement:
    """What decides where an argument of at most 16 bytes is. TR-22, with what 7.2 does not know; not the layouts of abi.py,
    so that one may judge the other.

    `is_wide`: aligned to 16 where it matters. `in_memory`: on the stack even if registers are free, and returned through a
    pointer. `in_vectors`: some of it goes to a vector register while there is one. `empty`: of padding only, and not passed.
    """

    assumed: Assumed
    pairs: bool  # a wide argument starts at an even register
    is_wide: Callable[[CType], bool]
    in_memory: Callable[[CType], bool]
    in_vectors: Callable[[CType], bool]
    empty: Callable[[CType, int], bool]


def full_plan(proto: Proto, model: DataModel, rules: Placement) -> Plan:
    """Where the ABI has the arguments. Raises RefusedError for more words than ctx arrays have. TR-20, TR-96."""
    slots: list[Slot] = []
    regs, sp = rules.assumed.regs, rules.assumed.sp
    taken, stack = 0, 0
    for number, param in enumerate(proto.params):
        length, wide = size(param.type, model), rules.is_wide(param.type)
        words = range(0, length, EIGHTBYTE)
        passed = [at for at in words if not rules.empty(param.type, at)]
        first = taken + (taken % 2 if wide and rules.pairs else 0)
        where: dict[int, Location] = {}
        if not rules.in_memory(param.type) and first + len(passed) <= len(regs):
            where = {at: InReg(regs[first + index]) for index, at in enumerate(passed)}
            taken = first + len(passed)
        else:
            taken = len(regs) if rules.assumed.stops else taken
            start = rounded_up(stack, 16) if wide else stack
            where = {at: OnStack(start + at, sp) for at in words}
            stack = start + EIGHTBYTE * len(words)
        slots += [Slot(number, at, min(EIGHTBYTE, length - at), where.get(at)) for at in words]
    if len(slots) > MAX_ARGS:
        raise RefusedError("attach", ENOTSUPP, "")
    return Plan(proto, tuple(slots), stack)


def bpf_plan(proto: Proto, model: DataModel, assumed: Assumed) -> Plan:
    """Where BPF code has the arguments of a function that it calls: one eightbyte after the other. TR-23, TR-96."""
    slots: list[Slot] = []
    for number, param in enumerate(proto.params):
        length = size(param.type, model)
        for at in range(0, length, EIGHTBYTE):
            index = len(slots)
            stacked = EIGHTBYTE * (index - len(assumed.regs))
            where = OnStack(stacked, assumed.sp) if stacked >= 0 else InReg(assumed.regs[index])
            slots.append(Slot(number, at, min(EIGHTBYTE, length - at), where))
    if len(slots) > MAX_ARGS:
        raise RefusedError("attach", ENOTSUPP, "")
    return Plan(proto, tuple(slots), EIGHTBYTE * max(0, len(slots) - len(assumed.regs)))


_U64: Final = CInt("u64", 8, False)
BPF_REGISTERS: Final = 5  # of arguments
UNRELIABLE_ARGS: Final = tuple(Param(f"r{number}", _U64) for number in range(1, BPF_REGISTERS + 1))


def reliable(proto: Proto) -> bool:
    """Whether Linux 7.2 believes the BTF of a static BPF function that is called with numbers: integers only, and no struct."""
    types = [bare(param.type) for param in proto.params]
    whole = all(isinstance(ctype, CInt) for ctype in types) and isinstance(bare(proto.result), CInt | CVoid)
    return whole and not proto.variadic


def as_believed(proto: Proto, target: Target) -> Proto:
    """The prototype that Linux 7.2 makes a trampoline for: five u64 and one back where BTF is not reliable. TR-03."""
    if target is not Target.BPF or reliable(proto):
        return proto
    return replace(proto, params=UNRELIABLE_ARGS, result=_U64, variadic=False)


def check_target(proto: Proto, mode: Mode, *, tail_call: bool) -> None:
    """What Linux 7.2 does not take as a BPF program. Raises RefusedError."""
    if mode is Mode.LINUX and tail_call and len(proto.params) > BPF_REGISTERS:
        raise RefusedError("target", EINVAL, "tail_calls are not allowed in programs with stack args")


def plan_of(
    proto: Proto, kinds: Sequence[Kind], mode: Mode, target: Target, model: DataModel, rules: Placement
) -> Plan:
    """What a trampoline on a function has to know. Raises RefusedError, for the first program where it is not of a later one."""
    exact = mode is Mode.FULL
    proto = proto if exact else as_believed(proto, target)
    check(proto, kinds[:1], mode, target, model, rules)
    if not exact:
        found = assumed_plan(proto, model, rules.assumed)
    elif target is Target.BPF:
        found = bpf_plan(proto, model, rules.assumed)
    else:
        found = full_plan(proto, model, rules)
    check(proto, kinds, mode, target, model, rules)
    return replace(found, target=target, exact=exact)
