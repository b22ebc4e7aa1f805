"""The shape of an ABI document as data; each architecture's own rows stand in its folder."""

from dataclasses import dataclass

from harness.isa.proto import CInt, CPtr, CStruct, CType, CVoid, Proto


@dataclass(frozen=True, slots=True)
class InReg:
    """An argument or result in one general-purpose register."""

    reg: str

    def __str__(self) -> str:
        return self.reg


@dataclass(frozen=True, slots=True)
class OnStack:
    """An argument in memory, `off` bytes above SP as it is at the call insn (before x86-64 pushes the return address)."""

    off: int
    sp: str

    def __str__(self) -> str:
        return f"[{self.sp}+{self.off}]" if self.off else f"[{self.sp}]"


Location = InReg | OnStack


@dataclass(frozen=True, slots=True)
class Placed:
    """One argument: its name, its width in bytes (the bits above are unspecified), and its place."""

    name: str
    size: int
    where: Location


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a prototype's arguments are at the call, and how many bytes of stack they take."""

    args: tuple[Placed, ...]
    stack_bytes: int


@dataclass(frozen=True, slots=True)
class Abi:
    """What the ABI document promises. Registers by their full-width names; sizes in bytes."""

    arch: str
    int_args: tuple[str, ...]
    result: str
    callee_saved: tuple[str, ...]  # without the stack pointer
    caller_saved: tuple[str, ...]  # all a callee may destroy, the result and arguments included
    sp: str
    fp: str
    stack_align: int  # of SP at a call
    return_address_bytes: int  # pushed between the arguments and SP at entry


class LayoutError(ValueError):
    """A type that this layout does not place."""


def scalar_size(ctype: CType) -> int:
    """Bytes of an integer or pointer. Raises LayoutError for anything else."""
    match ctype:
        case CInt() | CPtr():
            return ctype.size
        case CStruct() | CVoid():
            raise LayoutError(f"{ctype.name} by value has no place yet")


def result_size(proto: Proto) -> int:
    """Bytes of the result, 0 for void."""
    return 0 if isinstance(proto.result, CVoid) else scalar_size(proto.result)
