"""What the verifier knows at one insn: registers, stack and stack arguments of every frame."""

from dataclasses import dataclass, field
from typing import Final, assert_never

from harness.isa import opcodes as op
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
    """The context plus `off` bytes, plus an unknown number where `var` is given."""

    off: int
    var: Scalar | None = None


Pointer = FramePtr | CtxPtr
RegState = NotInit | Scalar | FramePtr | CtxPtr
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
    stack: dict[int, RegState] = field(default_factory=dict)
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
        case FramePtr() | CtxPtr():
            if type(new) is not type(old) or (new.var is None) != (old.var is None):
                return False
            same = isinstance(new, CtxPtr) or (isinstance(old, FramePtr) and new.frame == old.frame)
            inside = old.var is None or (new.var is not None and new.var.within(old.var))
            return same and new.off == old.off and inside
        case _:
            assert_never(old)


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
        case _:
            assert_never(reg)


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
        case _:
            assert_never(reg)
