"""Models of where compilers for arm64 differ: the rules of AAPCS64, each with one of them changed; quirks.py says what each is."""

from collections.abc import Iterator
from dataclasses import replace

from backends.abi import Arg, Placed
from backends.arm64.abi import REGISTERS, Homogeneous, Marshalling
from harness.isa.ctypes import (
    ARM64,
    CArray,
    CComplex,
    CStruct,
    CType,
    CVector,
    Param,
    align_of,
    bare,
    is_padding,
    natural_of,
    rounded_up,
    size_of,
)


class PackedBits(Marshalling):
    """D-5."""

    def natural(self, arg: Arg) -> int:
        members = arg.type.members or () if isinstance(arg.type, CStruct) else ()
        of_types = [align_of(member.type, ARM64) for member in members if member.bits is not None]
        return max([super().natural(arg), *of_types])

    def c10(self, arg: Arg) -> None:
        if arg.size == 16:
            super().c10(arg)


class ByVaArg(Marshalling):
    """Tells when anonymous arguments have begun."""

    is_anonymous = False

    def place_anonymous(self, param: Param) -> Placed:
        self.is_anonymous = True
        return super().place_anonymous(param)


class PackedBitsByVaArg(ByVaArg, PackedBits):
    """D-24."""

    def c10(self, arg: Arg) -> None:
        if self.is_anonymous:
            Marshalling.c10(self, arg)
        else:
            super().c10(arg)


class OnlyUnnamedBits(Marshalling):
    """D-12."""

    def is_nothing(self, arg: Arg) -> bool:
        return is_padding(arg.type, ARM64)


class PaddingByVaArg(OnlyUnnamedBits):
    """D-25."""

    def place_anonymous(self, param: Param) -> Placed:
        ctype = bare(param.type)
        if is_padding(ctype, ARM64):
            self._take(max(8, natural_of(ctype, ARM64)), rounded_up(size_of(ctype, ARM64), 8))
        return super().place_anonymous(param)

    def _take(self, align: int, size: int) -> None:
        if self.ngrn < REGISTERS:
            self.ngrn = rounded_up(self.ngrn, align // 8) + size // 8
            if self.ngrn <= REGISTERS:
                return
        self.ngrn, self.nsaa = REGISTERS, rounded_up(self.nsaa, align) + size
        self.stack_align = max(self.stack_align, align)


class ZeroBits(Marshalling):
    """D-13."""

    def homogeneous_of(self, ctype: CType) -> Homogeneous | None:
        return None if _has_zero_bits(ctype, unions=False) else super().homogeneous_of(ctype)


class ZeroBitsInUnion(Marshalling):
    """D-13, in unions only."""

    def homogeneous_of(self, ctype: CType) -> Homogeneous | None:
        return None if _has_zero_bits(ctype, unions=True) else super().homogeneous_of(ctype)


def _has_zero_bits(ctype: CType, *, unions: bool) -> bool:
    ctype = bare(ctype)
    if isinstance(ctype, CArray):
        return _has_zero_bits(ctype.of, unions=unions)
    if not isinstance(ctype, CStruct):
        return False
    own = (ctype.union or not unions) and any(member.bits == 0 for member in ctype.members or ())
    return own or any(_has_zero_bits(member.type, unions=unions) for member in ctype.members or ())


class EmptyStructs(Marshalling):
    """D-17."""

    def homogeneous_of(self, ctype: CType) -> Homogeneous | None:
        found = super().homogeneous_of(_without_empty(ctype))
        return found if found and found.size * found.count == size_of(ctype, ARM64) else None


def _without_empty(ctype: CType) -> CType:
    """A struct without its members that are structs which hold no value, and arrays of such."""
    ctype = bare(ctype)
    if isinstance(ctype, CArray):
        return replace(ctype, of=_without_empty(ctype.of))
    if not isinstance(ctype, CStruct):
        return ctype
    members = [replace(member, type=_without_empty(member.type)) for member in ctype.members or ()]
    kept = [member for member in members if not _holds_nothing(member.type)]
    return replace(ctype, members=tuple(kept))


def _holds_nothing(ctype: CType) -> bool:
    while isinstance(ctype, CArray) and ctype.count:
        ctype = bare(ctype.of)
    return is_padding(ctype, ARM64)


class ByMembersOnTheStack(Marshalling):
    """D-20."""

    def c4(self, arg: Arg) -> None:
        self.align = max(self.align, self.homogeneous.size if self.homogeneous else 0)
        super().c4(arg)


class AlignedByVaArg(ByVaArg):
    """D-23."""

    def c4(self, arg: Arg) -> None:
        if self.is_anonymous and self.homogeneous:
            align = max(16, align_of(arg.type, ARM64))
            self.nsaa, self.stack_align = rounded_up(self.nsaa, align), max(self.stack_align, align)
        super().c4(arg)


class BesideNoElements(Marshalling):
    """D-14."""

    def homogeneous_of(self, ctype: CType) -> Homogeneous | None:
        found = super().homogeneous_of(ctype)
        if found is not None or not isinstance(ctype, CStruct):
            return found
        parts = [bare(part) for part in _with_size(ctype)]
        if (
            len(parts) != 1
            or not isinstance(parts[0], CComplex | CVector)
            or size_of(parts[0], ARM64) != size_of(ctype, ARM64)
        ):
            return None
        if isinstance(parts[0], CVector):
            return Homogeneous(parts[0], parts[0].size, 1)
        return Homogeneous(parts[0].of, parts[0].of.size, 2)


def _with_size(ctype: CType) -> Iterator[CType]:
    """The members of a struct that have a size, those of a struct within it in its place."""
    ctype = bare(ctype)
    if isinstance(ctype, CStruct) and not ctype.union:
        for member in ctype.members or ():
            if size_of(member.type, ARM64) and member.bits != 0:
                yield from _with_size(member.type)
    elif isinstance(ctype, CArray) and ctype.count == 1:
        yield from _with_size(ctype.of)
    else:
        yield ctype
