"""Prototypes and arguments: what a callee may be given. SA-V sections 3 and 8."""

from collections.abc import Callable, Iterator
from typing import Protocol

from harness.isa import opcodes as op
from harness.isa.calls import HELPERS
from harness.isa.ctypes import CInt, CPtr, CStruct, CVoid
from harness.isa.insn import CallHelper, CallKfunc, Prog, Subprog
from harness.isa.proto import Proto
from harness.isa.slots import (
    MAX_VALUE_BYTES,
    Slot,
    callee_slots,
    fits,
    is_scalars,
    kind_word,
    slots_of,
    value_bytes,
)
from verifier import rules
from verifier.effects import region_rules
from verifier.scalar import Scalar
from verifier.state import (
    NOT_INIT,
    UNKNOWN,
    Bytes,
    CtxPtr,
    Frame,
    FramePtr,
    MapPtr,
    RegState,
    State,
    ValuePtr,
)  # fmt: skip


class Refuse(Protocol):
    """Makes the exception of a refusal."""

    def __call__(self, rule: str, message: str, errno: int, insn: int | None = None) -> Exception:
        """It is raised by the caller."""
        ...


def check_protos(prog: Prog, refuse: Refuse) -> None:
    """Prototypes that no call can have. SA-V-14, SA-V-39; they are refused when they are added, called or not."""
    for at, insn in enumerate(prog.ops):
        if isinstance(insn, CallKfunc):
            proto = prog.kfunc(insn.btf_id)
            if proto is None or insn.fd_index:
                raise refuse("call-known", f"kernel btf_id {insn.btf_id} is not a function", rules.EINVAL, at)
            _check_kfunc_proto(proto, at, refuse)
        elif isinstance(insn, CallHelper) and insn.id not in HELPERS:
            raise refuse("call-known", f"invalid func unknown#{insn.id}", rules.EINVAL, at)
    for subprog in prog.subprogs[1:]:
        if subprog.proto is not None and len(subprog.proto.params) > op.MAX_ARGS:
            count = len(subprog.proto.params)
            text = f"kernel supports at most {op.MAX_ARGS} parameters, function {subprog.name} has {count}"
            raise refuse("max-params", text, rules.EFAULT)


def _check_kfunc_proto(proto: Proto, at: int, refuse: Refuse) -> None:
    """SA-V-14, SA-V-39. Linux kernel/bpf/btf.c, btf_distill_func_proto(); values of up to 16 bytes since 7.4."""
    if len(proto.params) > op.MAX_ARGS:
        text = f"The function {proto.name} has {len(proto.params)} arguments. Too many."
        raise refuse("max-params", text, rules.EINVAL, at)
    if isinstance(proto.result, CStruct) and not fits(proto.result):
        text = f"The function {proto.name} return type {kind_word(proto.result)} is unsupported."
        raise refuse("kfunc-result-type", text, rules.EINVAL, at)
    for index, param in enumerate(proto.params):
        if isinstance(param.type, CStruct) and not fits(param.type):
            malformed = value_bytes(param.type) == 0
            kind = f"arg{index} type {kind_word(param.type)} is unsupported."
            text = f"The function {proto.name} {'has malformed void argument.' if malformed else kind}"
            raise refuse("kfunc-param-type", text, rules.EINVAL, at)
    slots = slots_of(proto)
    if len(slots) > op.MAX_ARGS:
        text = f"Arguments of {proto.name}() need more than {op.MAX_ARGS} argument slots"
        raise refuse("max-params", text, rules.EINVAL, at)
    for number, slot in enumerate(slots):
        if not isinstance(ctype := proto.params[slot.param].type, CPtr) and not is_scalars(ctype):
            text = f"{rules.operand(number)} type {kind_word(ctype)} is not composed of scalars"
            raise refuse("kfunc-param-type", text, rules.EINVAL, at)
    if isinstance(proto.result, CStruct) and not is_scalars(proto.result):
        text = f"The function {proto.name} return type {kind_word(proto.result)} is not composed of scalars"
        raise refuse("kfunc-result-type", text, rules.EINVAL, at)


def callee_params(subprog: Subprog) -> int:
    """Slots that a callee takes; none without a prototype. SA-V-11."""
    return 0 if subprog.proto is None else len(callee_slots(subprog.proto))


def check_global_proto(proto: Proto, refuse: Refuse, insn: int | None = None, caller: str = "") -> tuple[Slot, ...]:
    """What a global function's prototype may be, in Linux's order; gives its slots.

    Linux kernel/bpf/btf.c, btf_prepare_func_args(): the number of parameters, the result, every parameter, the slots.
    """

    def wrong(rule: str, text: str, errno: int = rules.EINVAL) -> Exception:
        return refuse(rule, f"{text}\n{caller}" if caller else text, errno, insn)

    count, name = len(proto.params), proto.name
    if count > op.MAX_REG_ARGS:
        text = f"global function {name} has {count} > {op.MAX_REG_ARGS} args, stack args not supported"
        raise wrong("global-stack-args", text)
    if not isinstance(proto.result, CInt | CVoid) and not (fits(proto.result) and is_scalars(proto.result)):
        text = (
            f"Global function {name}() has unsupported return type. Only void, scalar, arena pointer, or a struct/union"
        )
        raise wrong(
            "global-result", f"{text} of scalars and arena pointers up to 16 bytes is supported.", rules.EOPNOTSUPP
        )
    for index, param in enumerate(proto.params):
        if isinstance(param.type, CPtr):
            continue
        arg = f"Arg#{index} type {kind_word(param.type)} in {name}()"
        if not fits(param.type):
            text = f"has size {value_bytes(param.type)}, only 1 to {MAX_VALUE_BYTES} bytes can be passed by value"
            raise wrong("global-param-type", f"{arg} {text}")
        if not is_scalars(param.type):
            raise wrong("global-param-type", f"{arg} is not composed of scalars")
    slots = slots_of(proto)
    if len(slots) > op.MAX_REG_ARGS:
        text = (
            f"global function {name}() needs {len(slots)} > {op.MAX_REG_ARGS} argument slots, stack args not supported"
        )
        raise wrong("global-stack-args", text)
    return slots


def argument(frame: Frame, index: int) -> RegState:
    """What the caller has for argument `index`, from 0."""
    if index < op.MAX_REG_ARGS:
        return frame.regs[index + 1]
    slot = index - op.MAX_REG_ARGS
    return frame.slots[slot] if slot < len(frame.slots) else NOT_INIT


def unreliable_args(proto: Proto, frame: Frame) -> bool:
    """Whether some argument is not of its parameter's type. SA-V-31."""
    for index, slot in enumerate(slots_of(proto)):
        state = argument(frame, index)
        if not isinstance(state, Scalar if isinstance(slot.type, CInt) else CtxPtr):
            return True
    return False


def entry_args(subprog: Subprog, ctx: CtxPtr, refuse: Refuse) -> dict[int, RegState]:
    """What a global function may assume of its arguments when it is verified on its own."""
    args: dict[int, RegState] = {}
    for index, slot in enumerate(check_global_proto(subprog.proto, refuse, subprog.start) if subprog.proto else ()):
        if isinstance(slot.type, CPtr) and slot.type.ctx:
            args[index + 1] = ctx
        elif isinstance(slot.type, CInt):
            args[index + 1] = UNKNOWN
    return args


def check_helper(insn: CallHelper, state: State, lookup: int, refuse: Refuse) -> RegState:
    """The arguments of a helper, in order; gives its result. `lookup` is the number of this one, if it is one."""
    helper = HELPERS.get(insn.id)
    if helper is None:
        raise refuse("call-known", f"invalid func unknown#{insn.id}", rules.EINVAL)
    frame = state.top
    for rule in _helper_rules(helper.proto, frame):
        if not rule.holds(frame):
            raise refuse(rule.id, rule.message(), rule.errno)
    map_ = frame.regs[1]
    if helper.name != "bpf_map_lookup_elem" or not isinstance(map_, MapPtr):
        return UNKNOWN
    index = _known_key(frame.regs[2], state)
    found = map_.map.type == "array" and index is not None and index < map_.map.max_entries
    return ValuePtr(map_.map, 0, None, 0 if found else lookup)


def _helper_rules(proto: Proto, frame: Frame) -> Iterator[rules.Rule]:
    """In Linux's order: argument by argument, then the map."""
    for reg, param in enumerate(proto.params, 1):
        yield rules.Readable(reg)
        state, map_ = frame.regs[reg], frame.regs[1]
        match param.name:
            case "ctx":
                yield rules.HelperCtx(reg, state)
            case "map":
                yield rules.HelperMap(reg, state)
            case "key" | "value" if isinstance(map_, MapPtr):
                yield rules.HelperMemory(reg, state)
                size = map_.map.key_size if param.name == "key" else map_.map.value_size
                yield from (
                    rule
                    for rule in region_rules(reg, state, 0, size, is_write=False)
                    if not isinstance(rule, rules.StackAligned)
                )
    states = (frame.regs[reg] for reg, param in enumerate(proto.params, 1) if param.name == "map")
    yield from (rules.MapForHelper(proto.name, state.map) for state in states if isinstance(state, MapPtr))
    if proto.name in MAP_WRITERS and isinstance(map_ := frame.regs[1], MapPtr):
        yield rules.HelperWrites(map_.map)


MAP_WRITERS = ("bpf_map_update_elem", "bpf_map_delete_elem")


def helper_reach(proto: Proto, frame: Frame) -> Iterator[FramePtr]:
    """The pointers into a stack through which a helper reads keys and values."""
    for reg, param in enumerate(proto.params, 1):
        state = frame.regs[reg]
        if param.name in ("key", "value") and isinstance(state, FramePtr):
            yield state


def _known_key(key: RegState, state: State) -> int | None:
    """An array's key where it is known. Linux kernel/bpf/verifier.c, get_constant_map_key().

    Of a number that was stored in 8 bytes, its upper half is taken for a key with the whole number's value.
    """
    if not isinstance(key, FramePtr) or key.var is not None:
        return None
    at = key.off % 8
    slot = state.frames[key.frame].stack.get(key.off - at)
    if isinstance(slot, Scalar):
        return slot.value if at == 4 else None
    if not isinstance(slot, Bytes):
        return None
    if slot.zeros >> at & 15 == 15:
        return 0
    return slot.spilled[0].value if slot.spilled is not None and at == 0 and slot.spilled[1] == 4 else None


def check_kfunc(
    prog: Prog, insn: CallKfunc, frame: Frame, check_slots: Callable[[int, Frame], None], refuse: Refuse
) -> Proto:
    """The arguments of a kfunc: slots first, then types in order. SA-V-38, SA-V-39."""
    proto = prog.kfunc(insn.btf_id)
    if proto is None:
        raise refuse("call-known", f"kernel btf_id {insn.btf_id} is not a function", rules.EINVAL)
    slots = slots_of(proto)
    if len(slots) > op.MAX_REG_ARGS:
        check_slots(len(slots), frame)
    for index, slot in enumerate(slots):
        state, name = argument(frame, index), rules.operand(index)
        kind = rules.KfuncScalar if isinstance(slot.type, CInt) else rules.KfuncPointer
        rule = kind(name, state)
        if not rule.holds(frame):
            raise refuse(rule.id, rule.message(), rule.errno)
    return proto
