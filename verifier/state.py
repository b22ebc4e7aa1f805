"""What the verifier knows at one insn: registers, stack and stack arguments of every frame."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from harness.isa import opcodes as op
from harness.isa.maps import Map
from harness.isa.traced import TracedCtx
from verifier.scalar import Scalar

STACK_BYTES: Final = 512  # of one frame. Linux include/linux/filter.h, MAX_BPF_STACK
MAX_FRAMES: Final = 16  # Linux 7.2 include/linux/bpf_verifier.h, MAX_CALL_FRAMES; 8 in older kernels
MAX_CTX_OFF: Final = 65535  # a syscall prog's context. Linux kernel/bpf/syscall.c, syscall_prog_is_valid_access()


@dataclass(frozen=True, slots=True)
class NotInit:
    """Nothing was written here."""


@dataclass(frozen=True, slots=True)
class FramePtr:
    """R10 of the `frame`-th frame plus `off` bytes, plus an unknown number where `var` is given."""

    frame: int
    off: int
    var: Scalar | None = None


@dataclass(frozen=True, slots=True)
class CtxPtr:
    """The context plus `off` bytes, plus an unknown number where `var` is given; `traced` of a program that traces a function."""

    off: int
    var: Scalar | None = None
    traced: TracedCtx | None = None


@dataclass(frozen=True, slots=True)
class MapPtr:
    """A map itself."""

    map: Map


@dataclass(frozen=True, slots=True)
class ValuePtr:
    """A value of a map plus `off` bytes, plus an unknown number where `var` is given.

    `lookup` is not 0 until it is known whether the lookup of that number found a value: the pointer may be NULL.
    """

    map: Map
    off: int
    var: Scalar | None = None
    lookup: int = 0


@dataclass(frozen=True, slots=True)
class Bytes:
    """A slot of the stack that was written in parts: bit `i` of `zeros` is set where byte `i` is 0.

    `spilled`: a number stored in fewer than 8 bytes at the slot's lowest address, and how many.
    """

    zeros: int
    spilled: tuple[Scalar, int] | None = None


Region = FramePtr | CtxPtr | ValuePtr
Pointer = FramePtr | CtxPtr | ValuePtr | MapPtr
RegState = NotInit | Scalar | FramePtr | CtxPtr | ValuePtr | MapPtr
NOT_INIT: Final = NotInit()
UNKNOWN: Final = Scalar.unknown()
MISC: Final[RegState] = UNKNOWN  # stack bytes: anything, read by a privileged program as an unknown number


@dataclass(slots=True)
class Frame:
    """One activation.

    `slots`: outgoing stack arguments, as long as the highest written. `no_stack_arg_load`: set by the first store of one,
    and by the first call of a function that has incoming ones (SA-V-26). `stack`: 8-byte slots by the offset of their
    first byte; a slot that is not there holds anything.
    """

    subprog: int
    return_to: int
    regs: list[RegState] = field(default_factory=list)
    stack: dict[int, RegState | Bytes] = field(default_factory=dict)
    slots: list[RegState] = field(default_factory=list)
    no_stack_arg_load: bool = False

    def copy(self) -> "Frame":
        """A frame that changes apart from this one."""
        return Frame(
            self.subprog, self.return_to, self.regs[:], dict(self.stack), self.slots[:], self.no_stack_arg_load
        )


@dataclass(slots=True)
class State:
    """All frames, the running one last."""

    frames: list[Frame]

    @property
    def top(self) -> Frame:
        """The running frame."""
        return self.frames[-1]

    def copy(self) -> "State":
        """A state that changes apart from this one."""
        return State([frame.copy() for frame in self.frames])


def entry_frame(subprog: int, return_to: int, number: int, args: dict[int, RegState]) -> Frame:
    """A frame at its first insn: `args` by register number; the rest holds nothing, R10 apart."""
    regs: list[RegState] = [args.get(n, NOT_INIT) for n in range(op.FP)]
    return Frame(subprog, return_to, [*regs, FramePtr(number, 0)])


def reg_within(new: RegState, old: RegState) -> bool:
    """Whether a path that was safe with `old` is safe with `new`: everything that `new` may be, `old` might have been."""
    match old:
        case NotInit():
            return True
        case Scalar():
            return isinstance(new, Scalar) and new.within(old)
        case MapPtr():
            return new == old
        case FramePtr() | CtxPtr() | ValuePtr():
            if not isinstance(new, Region) or (new.var is None) != (old.var is None):
                return False
            inside = old.var is None or (new.var is not None and new.var.within(old.var))
            return _same_region(new, old) and new.off == old.off and inside
        case _:
            assert_never(old)


def is_memory(reg: RegState) -> bool:
    """Memory of the program: stack, context, or a map's value that is known to be there."""
    return isinstance(reg, FramePtr | CtxPtr) or (isinstance(reg, ValuePtr) and not reg.lookup)


def is_traced_ctx(reg: RegState) -> bool:
    """The context of a program that traces a function, which is memory for nobody but the program itself."""
    return isinstance(reg, CtxPtr) and reg.traced is not None


def _same_region(new: Region, old: Region) -> bool:
    match new, old:
        case FramePtr(), FramePtr():
            return new.frame == old.frame
        case CtxPtr(), CtxPtr():
            return True
        case ValuePtr(), ValuePtr():  # that equal lookups stay equal is for lookups_within() to say
            return new.map == old.map and bool(new.lookup) == bool(old.lookup)
        case _:
            return False


def slot_within(new: RegState | Bytes, old: RegState | Bytes) -> bool:
    """The same for a slot of the stack."""
    if isinstance(old, Bytes) or isinstance(new, Bytes):
        return new == old or (isinstance(new, Bytes) and old == UNKNOWN)
    return reg_within(new, old)


def lookups_within(pairs: Iterable[tuple[object, object]]) -> bool:
    """Whether (old, new) values name lookups alike: one check for NULL tells the same things on both paths."""
    forward: dict[int, int] = {}
    back: dict[int, int] = {}
    return all(
        forward.setdefault(old.lookup, new.lookup) == new.lookup
        and back.setdefault(new.lookup, old.lookup) == old.lookup
        for old, new in pairs
        if isinstance(old, ValuePtr) and isinstance(new, ValuePtr) and old.lookup
    )


def decided(state: "State", lookup: int, *, found: bool) -> None:
    """What a lookup gave is known: every pointer from it is one to a value, or 0."""

    def now(value: RegState) -> RegState:
        if not isinstance(value, ValuePtr) or value.lookup != lookup:
            return value
        return replace(value, lookup=0) if found else Scalar.const(0)

    for frame in state.frames:
        frame.regs = [now(reg) for reg in frame.regs]
        frame.slots = [now(slot) for slot in frame.slots]
        frame.stack = {at: value if isinstance(value, Bytes) else now(value) for at, value in frame.stack.items()}


def reg_text(reg: RegState) -> str:
    """As the verifier's log writes it."""
    match reg:
        case NotInit():
            return "?"
        case Scalar():
            return _scalar_text(reg)
        case FramePtr():
            return f"fp[{reg.frame}]{reg.off:+}" if reg.off else f"fp[{reg.frame}]0"
        case CtxPtr():
            return f"ctx(off={reg.off})" if reg.off else "ctx()"
        case MapPtr():
            return f"map_ptr({_map_text(reg.map)})"
        case ValuePtr():
            parts = [f"id={reg.lookup}"] if reg.lookup else []
            parts += [f"imm={reg.off}"] if reg.off and reg.var is None else []
            return f"{type_word(reg)}({','.join([*parts, _map_text(reg.map)])})"
        case _:
            assert_never(reg)


def _map_text(map_: Map) -> str:
    return f"map={map_.name},ks={map_.key_size},vs={map_.value_size}"


def _scalar_text(scalar: Scalar) -> str:
    if scalar.value is not None:
        return str(scalar.smin)
    parts: list[str] = []
    everything = Scalar.unknown()
    for name in ("smin", "smax", "umin", "umax"):
        if getattr(scalar, name) != getattr(everything, name):
            parts.append(f"{name}={getattr(scalar, name)}")
    if scalar.tnum != everything.tnum:
        parts.append(f"var_off=({scalar.tnum.value:#x}; {scalar.tnum.mask:#x})")
    return f"scalar({','.join(parts)})"


def type_word(reg: RegState) -> str:
    """The type as the verifier's messages name it. Linux kernel/bpf/log.c, reg_type_str()."""
    match reg:
        case NotInit():
            return "?"
        case Scalar():
            return "scalar"
        case FramePtr():
            return "fp"
        case CtxPtr():
            return "ctx"
        case MapPtr():
            return "map_ptr"
        case ValuePtr():
            return "map_value_or_null" if reg.lookup else "map_value"
        case _:
            assert_never(reg)
