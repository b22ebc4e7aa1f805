"""Layouts with one deliberate mistake each: the rules of a document, with one of them changed."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from backends.abi import Arg, OnStack, Piece, Placed
from backends.arm64.abi import ABI, Marshalling, Pieces
from backends.x86_64.abi import Class, Classes, Passing
from harness.isa.ctypes import (
    ARM64,
    X86_64,
    CInt,
    CPtr,
    CStruct,
    CType,
    Param,
    align_of,
    natural_of,
    rounded_up,
    size_of,
)


class NoC10(Marshalling):
    def c10(self, arg: Arg) -> None:
        pass


class C10ForScalars(Marshalling):
    def c10(self, arg: Arg) -> None:
        if not arg.is_composite:
            super().c10(arg)


class C10BySize(Marshalling):
    def c10(self, arg: Arg) -> None:
        align, self.align = self.align, 16 if arg.size == 16 else 8
        super().c10(arg)
        self.align = align


class C10ByAlignof(Marshalling):
    def c10(self, arg: Arg) -> None:
        align, self.align = self.align, min(16, align_of(arg.type, ARM64))
        super().c10(arg)
        self.align = align


class NoC13(Marshalling):
    def c13(self, arg: Arg) -> None:
        pass


class Split(Marshalling):
    """Sixteen bytes are divided between x7 and the stack."""

    def c13(self, arg: Arg) -> None:
        if arg.size != 16 or self.ngrn != 7:
            super().c13(arg)

    def _memory(self, arg: Arg, rule: str) -> Pieces:
        if arg.size != 16 or self.ngrn != 7:
            return super()._memory(arg, rule)
        at, self.ngrn, self.nsaa = self.nsaa, 8, self.nsaa + 8
        return (*arg.in_registers(("x7",)), Piece(8, arg.bytes - 8, OnStack(at, ABI.sp)))


class C14With8(Marshalling):
    def c14(self, arg: Arg) -> None:
        self._round_nsaa(arg, "C.14", 8)


class C14ByAlignof(Marshalling):
    def c14(self, arg: Arg) -> None:
        self._round_nsaa(arg, "C.14", max(8, min(16, align_of(arg.type, ARM64))))


class C14BySize(Marshalling):
    def c14(self, arg: Arg) -> None:
        self._round_nsaa(arg, "C.14", 16 if arg.size == 16 else 8)


def largest_member(ctype: CType) -> int:
    members = ctype.members or () if isinstance(ctype, CStruct) else ()
    return max((size_of(member.type, ARM64) for member in members), default=size_of(ctype, ARM64))


class C14ByLargestMember(Marshalling):
    def c14(self, arg: Arg) -> None:
        self._round_nsaa(arg, "C.14", max(8, min(16, largest_member(arg.type))))


class C14AfterTheArgument(Marshalling):
    """The end is a multiple of the alignment, the start is not."""

    def c14(self, arg: Arg) -> None:
        pass

    def _memory(self, arg: Arg, rule: str) -> Pieces:
        pieces = super()._memory(arg, rule)
        self.nsaa = rounded_up(self.nsaa, max(8, self.align))
        return pieces


def alignment_of_fields(ctype: CType) -> int:
    if isinstance(ctype, CStruct):
        return max((alignment_of_fields(member.type) for member in ctype.members or ()), default=1)
    return natural_of(ctype, ARM64)


class NaturalFromFields(Marshalling):
    """Neither `packed` nor the alignment of a member counts."""

    def natural(self, arg: Arg) -> int:
        return alignment_of_fields(arg.type)


class NoB4(Marshalling):
    def b4(self, arg: Arg) -> None:
        pass


class NoB5(Marshalling):
    """A composite has as many registers as it has whole eightbytes."""

    def b5(self, arg: Arg) -> None:
        pass


class NoC16(Marshalling):
    """Narrow arguments are packed, as Apple does."""

    def c14(self, arg: Arg) -> None:
        self._round_nsaa(arg, "C.14", self.align)

    def c16(self, arg: Arg) -> None:
        pass


class EmptyTakesASlot(Marshalling):
    def is_nothing(self, arg: Arg) -> bool:
        arg.size = arg.size or 8
        return False


class NsrnKept(Marshalling):
    def c3(self, arg: Arg) -> None:
        pass


class NoBackfill(Passing):
    def in_memory(self, arg: Arg, rule: str) -> Placed:
        self.integers = 6
        return super().in_memory(arg, rule)


class SplitOverR9(Passing):
    def in_registers(self, arg: Arg, classes: Classes) -> Pieces | None:
        if classes == [Class.INTEGER, Class.INTEGER] and self.integers == 5:
            at, self.integers, self.stack = self.stack, 6, self.stack + 8
            return (*arg.in_registers(("r9",)), Piece(8, arg.bytes - 8, OnStack(at, "rsp")))
        return super().in_registers(arg, classes)


class StackBy8(Passing):
    def alignment(self, arg: Arg) -> int:
        return 8


class StackByFields(Passing):
    def alignment(self, arg: Arg) -> int:
        return max(8, natural_of(arg.type, X86_64))


class StackBy16ForScalars(Passing):
    def alignment(self, arg: Arg) -> int:
        return 16 if isinstance(arg.type, CInt) and arg.size == 16 else 8


class EvenPairs(Passing):
    def in_registers(self, arg: Arg, classes: Classes) -> Pieces | None:
        if align_of(arg.type, X86_64) == 16 and classes == [Class.INTEGER, Class.INTEGER]:
            self.integers = rounded_up(self.integers, 2)
        return super().in_registers(arg, classes)


class MisalignedInRegisters(Passing):
    def unaligned(self, ctype: CType, at: int) -> Iterator[tuple[int, int]]:
        return iter(())

    def merged_fields(self, arg: Arg) -> Classes:
        if any(super().unaligned(arg.type, 0)):
            return [Class.INTEGER] * (rounded_up(arg.size, 8) // 8)
        return super().merged_fields(arg)


class LargeByReference(Passing):
    """While a register is free."""

    def place(self, param: Param) -> Placed:
        if size_of(param.type, X86_64) > 16 and self.integers < 6:
            placed = super().place(Param(param.name, CPtr(param.type)))
            return replace(placed, by_reference=True)
        return super().place(param)


class EmptyTakesARegister(Passing):
    """While one is free."""

    def classes(self, arg: Arg) -> Classes:
        classes = super().classes(arg)
        return classes if classes or self.integers == 6 else [Class.INTEGER]


# Mistake, and the worked examples in which places or sizes then differ: typed from the document.
ON_ARM64: Final = {
    NoC10: {7, 14, 23, 24, 28},
    C10ForScalars: {23, 24, 28},
    C10BySize: {15, 19, 26, 31, 34, 35, 36, 41, 47, 51, 52},
    C10ByAlignof: {26},
    NoC13: {18, 37, 40, 49},
    Split: {17, 18, 37, 40, 49},
    C14With8: {11, 12, 21, 25, 29, 30, 51},
    C14ByAlignof: {27},
    C14BySize: {20, 27, 32, 33, 48},
    C14ByLargestMember: {29, 33},
    C14AfterTheArgument: {11, 12, 21, 25, 29, 30, 51},
    NaturalFromFields: {28, 29, 30, 33, 34, 57},
    NoB4: {44, 45, 46},
    NoB5: {36, 37, 38, 39, 40},
    NoC16: {2, 3, 4, 5, 10, 18},
    EmptyTakesASlot: {42, 43},
    NsrnKept: {55},
}
ON_X86_64: Final = {
    NoBackfill: {14, 19, 24, 35, 36, 41, 44, 51, 57},
    SplitOverR9: {14, 19, 24, 41, 51},
    StackBy8: {9, 10, 11, 12, 21, 22, 25, 27, 29, 30, 46, 50, 51, 57},
    StackByFields: {27},
    StackBy16ForScalars: {21, 22, 25, 27, 29, 30, 46, 50, 51, 57},
    EvenPairs: {7, 14, 23, 24, 26, 28},
    MisalignedInRegisters: {35, 36},
    LargeByReference: {44},
    EmptyTakesARegister: {42},
}
