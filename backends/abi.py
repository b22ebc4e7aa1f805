"""The shape of an ABI document as data, and of a layout made by its rules; each architecture's own stand in its folder."""

from dataclasses import dataclass, field
from typing import Final

from harness.isa.ctypes import (
    CFloat,
    CInt,
    CPtr,
    CType,
    CVector,
    DataModel,
    IncompleteError,
    align_of,
    bare,
    size_of,
    type_text,
)


@dataclass(frozen=True, slots=True)
class InReg:
    """A register, by its full-width name."""

    reg: str

    def __str__(self) -> str:
        return self.reg


@dataclass(frozen=True, slots=True)
class OnStack:
    """Memory, `off` bytes above SP as it is at the call insn (before x86-64 pushes the return address)."""

    off: int
    sp: str

    def __str__(self) -> str:
        return f"[{self.sp}+{self.off}]" if self.off else f"[{self.sp}]"


Location = InReg | OnStack


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` bytes of an object, from its byte `at` on: the low bytes of a register, or memory."""

    at: int
    size: int
    where: Location


@dataclass(frozen=True, slots=True)
class Step:
    """A rule of the document, and what it did to one argument."""

    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Placed:
    """An argument or result in its place. What is not in a piece is unspecified: padding, the bits above a narrow value.

    `by_reference`: the pieces hold the address of a copy in memory. `rule` is the one that gave the place.
    """

    name: str
    type: CType
    size: int
    align: int
    pieces: tuple[Piece, ...]
    rule: str
    steps: tuple[Step, ...]
    by_reference: bool = False

    def eightbyte(self, at: int) -> Location | None:
        """Where the eightbyte from byte `at` on is; None for padding that is not passed."""
        for piece in self.pieces:
            if isinstance(piece.where, OnStack) and 0 <= at - piece.at < max(piece.size, 1):
                return OnStack(piece.where.off + at - piece.at, piece.where.sp)
            if isinstance(piece.where, InReg) and at == piece.at:
                return piece.where
        return None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a call's arguments are, anonymous ones last, and its result.

    `begin` is what rules did before the first argument. `result` is None for void. `stack_bytes` reach from the first stacked argument to the end of the last; the address of the
    first is a multiple of `stack_align`. `vector_args` is what AL of a variadic call on x86-64 says at least, None for other calls.
    """

    args: tuple[Placed, ...]
    result: Placed | None
    stack_bytes: int
    stack_align: int
    vector_args: int | None = None
    begin: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Abi:
    """What the ABI document promises. Registers by their full-width names; sizes in bytes."""

    arch: str
    document: str
    int_args: tuple[str, ...]
    result: str
    callee_saved: tuple[str, ...]  # without the stack pointer
    caller_saved: tuple[str, ...]  # general-purpose: all a callee may destroy, the result and arguments included
    sp: str
    fp: str
    stack_align: int  # of SP at a call
    return_address_bytes: int  # pushed between the arguments and SP at entry
    model: DataModel

    def at_entry(self, where: Location) -> str:
        """A place as the callee finds it: on x86-64 the return address is at `[rsp+0]`."""
        return where.reg if isinstance(where, InReg) else f"[{where.sp}+{where.off + self.return_address_bytes}]"


class LayoutError(ValueError):
    """A type that this layout does not place."""


POINTER: Final = 8
EIGHTBYTE: Final = 8


@dataclass(slots=True)
class Arg:
    """An argument on its way through the rules, and what they did to it so far."""

    name: str
    declared: CType
    model: DataModel
    type: CType = field(init=False)
    size: int = field(init=False)  # rules change it
    bytes: int = field(init=False)  # of the object, or of its address
    by_reference: bool = False
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.type = bare(self.declared)
        try:
            self.size = self.bytes = size_of(self.type, self.model)
        except IncompleteError as error:
            raise LayoutError(f"{self.name}: {error}") from error

    @property
    def is_integral(self) -> bool:
        """An integer, an enum or a pointer."""
        return isinstance(self.type, CInt | CPtr)

    @property
    def is_float(self) -> bool:
        """A scalar floating type, or a vector."""
        return isinstance(self.type, CFloat | CVector)

    @property
    def is_composite(self) -> bool:
        """Neither."""
        return not self.is_integral and not self.is_float

    def step(self, rule: str, text: str) -> None:
        """A rule did something."""
        self.steps.append(Step(rule, text))

    def to_reference(self) -> None:
        """From here on the address of a copy is passed."""
        self.type, self.size, self.bytes, self.by_reference = CPtr(self.type), POINTER, POINTER, True

    def in_registers(self, regs: tuple[str, ...], each: int = EIGHTBYTE) -> tuple[Piece, ...]:
        """One register for each `each` bytes; the last may be partly filled."""
        return tuple(Piece(each * n, min(each, self.bytes - each * n), InReg(reg)) for n, reg in enumerate(regs))

    def placed(self, pieces: tuple[Piece, ...], rule: str) -> Placed:
        """The end of its way."""
        size, align = size_of(self.declared, self.model), align_of(self.declared, self.model)
        return Placed(self.name, self.declared, size, align, pieces, rule, tuple(self.steps), self.by_reference)


def vector_of(ctype: CType, sizes: tuple[int, ...], document: str) -> None:
    """Refuses a vector that the document does not have. Raises LayoutError."""
    if isinstance(ctype, CVector) and ctype.size not in sizes:
        known = ", ".join(map(str, sizes))
        raise LayoutError(f"{type_text(ctype)}: {document} passes vectors of {known} bytes, not of {ctype.size}")


def bytes_text(at: int, size: int) -> str:
    """A part of an object, in words."""
    return f"byte {at}" if size == 1 else f"bytes {at} to {at + size - 1}"
