"""BPF trampolines: what is traced, by which programs in which order, and what makes the native code.

`linux` is what Linux 7.2 does, misplacements included; `full` puts every argument where the ABI document has it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from backends.abi import EIGHTBYTE, InReg, Location, OnStack
from harness.isa.ctypes import (
    CVoid,
    bare,
)  # fmt: skip
from harness.isa.proto import Proto

PAGE_BYTES: Final = 4096  # what a trampoline has at most. TR-54
MAX_ARGS: Final = 12  # Linux include/linux/bpf.h, MAX_BPF_FUNC_ARGS; of slots too


class Mode(Enum):
    """Whose trampoline."""

    LINUX = "linux"
    FULL = "full"


class Target(Enum):
    """What is traced: a function of the kernel, or one of a BPF program, which is called as BPF calls (TR-23).

    Of `struct_ops` nothing is: a program is a function itself, called through a pointer in a struct of the kernel's.
    """

    KERNEL = "kernel"
    BPF = "bpf"
    STRUCT_OPS = "struct_ops"


class Kind(Enum):
    """What a program is attached as."""

    FENTRY = "fentry"
    FMOD_RET = "fmod_ret"
    FEXIT = "fexit"
    FSESSION = "fsession"
    STRUCT_OPS = "struct_ops"

    @property
    def calls_original(self) -> bool:
        """Whether the trampoline then calls the traced function itself."""
        return self in (Kind.FMOD_RET, Kind.FEXIT, Kind.FSESSION)


TRACING: Final = (Kind.FENTRY, Kind.FMOD_RET, Kind.FEXIT, Kind.FSESSION)


@dataclass(frozen=True, slots=True)
class RefusedError(Exception):
    """A trampoline that is not made: at load (by the verifier), at attach (by the JIT), or the target itself; `errno` is positive."""

    at: str
    errno: int
    message: str

    def __str__(self) -> str:
        return f"{self.at}: errno {self.errno}{': ' if self.message else ''}{self.message}"


@dataclass(frozen=True, slots=True)
class Slot:
    """8 bytes of the ctx array: `size` bytes of argument `arg` from its byte `at` on, and where the caller has them.

    `where` is None for a word of nothing but padding, which x86-64 does not pass.
    """

    arg: int
    at: int
    size: int
    where: Location | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a trampoline has to know of a prototype. `area_bytes`: of the stack arguments, holes included.

    `exact`: what Linux 7.2 has wrong behind the places is right, too.
    """

    proto: Proto
    slots: tuple[Slot, ...]
    area_bytes: int
    target: Target = Target.KERNEL
    exact: bool = True

    @property
    def in_registers(self) -> Iterator[tuple[int, str]]:
        """(index in ctx, register) of the slots that are in registers."""
        return ((index, slot.where.reg) for index, slot in enumerate(self.slots) if isinstance(slot.where, InReg))

    @property
    def on_stack(self) -> Iterator[tuple[int, int]]:
        """(index in ctx, bytes above SP at the call) of those on the stack."""
        return ((index, slot.where.off) for index, slot in enumerate(self.slots) if isinstance(slot.where, OnStack))


@dataclass(frozen=True, slots=True)
class Program:
    """An attached program: where it is called, and what Linux calls its object. `cookie` 0 is none."""

    kind: Kind
    address: int
    object: int
    cookie: int = 0


@dataclass(frozen=True, slots=True)
class Places:
    """What a trampoline calls, and where it will lie. `body`: where the traced function goes on behind its patched call."""

    base: int
    function: int
    body: int
    image: int  # the object that the hooks around the original are given
    hooks: Mapping[str, int]


HOOKS: Final = ("__bpf_prog_enter", "__bpf_prog_exit", "__bpf_tramp_enter", "__bpf_tramp_exit")


@dataclass(frozen=True, slots=True)
class Attached:
    """The programs of one trampoline in the order of their attachment. TR-60: the latest of a kind runs first."""

    programs: tuple[Program, ...]
    func_ip: bool = False  # some program asks for the traced function's address
    tail_call: bool = False  # the target is a BPF program with a tail call in reach. TR-30, TAIL_CALL_CTX

    def of(self, *kinds: Kind) -> tuple[Program, ...]:
        """Those of some kinds, in the order in which they run."""
        return tuple(program for program in reversed(self.programs) if program.kind in kinds)

    @property
    def before(self) -> tuple[Program, ...]:
        """What runs before the traced function, fmod_ret apart."""
        return self.of(Kind.FENTRY, Kind.FSESSION, Kind.STRUCT_OPS)

    @property
    def modifying(self) -> tuple[Program, ...]:
        """fmod_ret."""
        return self.of(Kind.FMOD_RET)

    @property
    def after(self) -> tuple[Program, ...]:
        """What runs after it."""
        return self.of(Kind.FEXIT, Kind.FSESSION)

    @property
    def calls_original(self) -> bool:
        """TR-31."""
        return any(program.kind.calls_original for program in self.programs)


class Planner(Protocol):
    """What an architecture's trampoline on a function has to know. Raises RefusedError."""

    def __call__(
        self,
        proto: Proto,
        kinds: Sequence[Kind],
        mode: Mode,
        target: Target = Target.KERNEL,
        *,
        tail_call: bool = False,
    ) -> Plan:
        """For the programs in the order of their attachment."""
        ...


class Maker(Protocol):
    """An architecture's generator of trampolines."""

    arch: str

    def make(self, plan: Plan, attached: Attached, places: Places) -> bytes:
        """The native code for `places`."""
        ...

    def page_bytes(self, plan: Plan, attached: Attached) -> int:
        """What Linux 7.2 takes the code to need before it makes it: at most a page, or it is refused."""
        ...


def gives_result(plan: Plan, attached: Attached) -> bool:
    """Whether there is a place for a result: the original's, or a struct_ops program's. TR-35."""
    has_result = not isinstance(bare(plan.proto.result), CVoid)
    return attached.calls_original or (plan.target is Target.STRUCT_OPS and has_result)


@dataclass(slots=True)
class Frame:
    """Where the parts of a trampoline's frame are; of what base, each architecture says. TR-40, TR-50."""

    size: int
    ctx: int
    run: int
    saved: int
    area: int
    result: int | None = None
    func_ip: int | None = None
    cookies: dict[int, int] = field(default_factory=dict)  # of fsession programs, by their place among them
    tail_call: int | None = None  # x86-64

    @property
    def meta(self) -> int:
        """The word before ctx."""
        return self.ctx - EIGHTBYTE


def meta_of(slots: int, cookie_words: int = 0, *, returning: bool = False) -> int:
    """TR-10: slots, the distance to the session cookie in words, whether the traced function returned."""
    return slots | cookie_words << 8 | returning << 63
