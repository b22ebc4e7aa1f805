"""Where compilers are known to differ from the ABI documents, or from each other where these are open.

Each row is a model: the document's rules with one of them changed. What a compiler does has to be what the document says, or what
rows of its own, and only they, explain.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

from backends.abi import Arg, InReg, OnStack, Piece, Placed
from backends.arm64.abi import Homogeneous, Marshalling
from backends.oracle.compilers import Compiler
from backends.x86_64.abi import ABI, Class, Classes, Passing
from harness.isa.ctypes import (
    ARM64,
    X86_64,
    CArray,
    CComplex,
    CFloat,
    CInt,
    CStruct,
    CType,
    CVector,
    DataModel,
    Leaf,
    Member,
    Param,
    align_of,
    bare,
    leaves,
    rounded_up,
    size_of,
    struct_layout,
)

Rules = type[Marshalling] | type[Passing]


@dataclass(frozen=True, slots=True)
class Quirk:
    """`seen`: in which versions of the compiler, of those that were tried; `right`: who is right, and by which text."""

    id: str
    family: str
    arch: str
    seen: str
    what: str
    right: str
    rules: Rules


# --- x86-64


class RegisterLost(Passing):
    """D-1. What is behind clang counts r9 as used, what is before it does not: eightbytes that were to go there are stacked."""

    lost = False

    def in_registers(self, arg: Arg, classes: Classes) -> tuple[Piece, ...] | None:
        if self.lost and self.integers == 5 and classes.count(Class.INTEGER) == 1:
            slot = OnStack(self.stack, ABI.sp)
            pieces = super().in_registers(arg, classes)
            if pieces is not None:
                self.stack += 8
                return tuple(replace(piece, where=slot) if piece.where == InReg("r9") else piece for piece in pieces)
        pieces = super().in_registers(arg, classes)
        self.lost = self.lost or (
            pieces is None and isinstance(arg.type, CInt) and arg.size == 16 and self.integers == 5
        )
        return pieces


class ScalarSplit(RegisterLost):
    """D-2."""

    def in_registers(self, arg: Arg, classes: Classes) -> tuple[Piece, ...] | None:
        lost = self.lost
        pieces = super().in_registers(arg, classes)
        if pieces is not None or lost or not self.lost:
            return pieces
        at, self.stack = self.stack, self.stack + 8
        return (*arg.in_registers(("r9",)), Piece(8, 8, OnStack(at, ABI.sp)))

    def alignment(self, arg: Arg) -> int:
        return 8 if isinstance(arg.type, CInt) else super().alignment(arg)


class FirstElement(Passing):
    """D-3."""

    def unaligned(self, ctype: CType, at: int) -> Iterator[tuple[int, int]]:
        ctype = bare(ctype)
        if isinstance(ctype, CArray) and ctype.count:
            return self.unaligned(ctype.of, at)
        return super().unaligned(ctype, at)


class ByTypeAlignment(Passing):
    """D-4."""

    def unaligned(self, ctype: CType, at: int) -> Iterator[tuple[int, int]]:
        return _by_alignment(ctype, at, lambda inner: align_of(bare(inner), X86_64))


class ByTypedefAlignment(Passing):
    """D-4, in older versions."""

    def unaligned(self, ctype: CType, at: int) -> Iterator[tuple[int, int]]:
        return _by_alignment(ctype, at, lambda inner: align_of(inner, X86_64))


def _by_alignment(ctype: CType, at: int, align: Callable[[CType], int]) -> Iterator[tuple[int, int]]:
    """Fields that are not at a multiple of what `align` gives for their type."""
    ctype = bare(ctype)
    if isinstance(ctype, CArray) and ctype.count:
        for index in range(ctype.count):
            yield from _by_alignment(ctype.of, at + index * size_of(ctype.of, X86_64), align)
    if not isinstance(ctype, CStruct):
        return
    for field in struct_layout(ctype, X86_64).fields:
        if field.member.bits is None:
            inner, place = field.member.type, at + field.at_bit // 8
            while isinstance(element := bare(inner), CArray):
                inner = element.of
            if place % align(inner):
                yield place, align(inner)
            yield from _by_alignment(field.member.type, place, align)


class UnnamedBits(Passing):
    """D-7."""

    def fields(self, ctype: CType) -> Iterable[Leaf]:
        yield from super().fields(ctype)
        yield from (leaf for leaf in leaves(ctype, X86_64, unnamed_bits=True) if leaf.is_bits)
        for at, member in _zero_bits(ctype, 0):
            yield from leaves(member.type, X86_64, at * 8)

    def in_memory(self, arg: Arg, rule: str) -> Placed:
        return arg.placed((), rule) if _is_padding(arg.type, X86_64) else super().in_memory(arg, rule)


def _is_padding(ctype: CType, model: DataModel) -> bool:
    return isinstance(ctype, CStruct) and not any(True for _ in leaves(ctype, model))


class PaddingCounted(UnnamedBits):
    """D-15."""

    counted = 0

    def in_memory(self, arg: Arg, rule: str) -> Placed:
        align = 8 if _is_padding(arg.type, X86_64) else self.alignment(arg)
        self.counted = rounded_up(self.counted, align) + rounded_up(arg.size, 8)
        return super().in_memory(arg, rule)

    def place_anonymous(self, param: Param) -> Placed:
        self.stack = max(self.stack, self.counted)
        return super().place_anonymous(param)


class WholeBitFields(Passing):
    """D-16."""

    def unaligned(self, ctype: CType, at: int) -> Iterator[tuple[int, int]]:
        yield from super().unaligned(ctype, at)
        ctype = bare(ctype)
        if isinstance(ctype, CStruct):
            for field in struct_layout(ctype, X86_64).fields:
                size = field.size_bits // 8
                is_whole = field.member.bits in (8, 16, 32, 64, 128) and field.at_bit % field.size_bits == 0
                if is_whole and not ctype.packed and not field.member.packed and (at + field.at_bit // 8) % size:
                    yield at + field.at_bit // 8, size


def _zero_bits(ctype: CType, at: int) -> Iterator[tuple[int, Member]]:
    """The bit-fields without bits of the unions in a type."""
    ctype = bare(ctype)
    if isinstance(ctype, CArray):
        for index in range(ctype.count or 0):
            yield from _zero_bits(ctype.of, at + index * size_of(ctype.of, X86_64))
    elif isinstance(ctype, CStruct):
        for field in struct_layout(ctype, X86_64).fields:
            if field.member.bits is None:
                yield from _zero_bits(field.member.type, at + field.at_bit // 8)
            elif field.member.bits == 0 and ctype.union:
                yield at, field.member


class NoElements(Passing):
    """D-8."""

    def fields(self, ctype: CType) -> Iterable[Leaf]:
        yield from super().fields(ctype)
        yield from _without_elements(ctype, 0)

    def unaligned(self, ctype: CType, at: int) -> Iterator[tuple[int, int]]:
        ctype = bare(ctype)
        if not isinstance(ctype, CArray) or ctype.count:
            yield from super().unaligned(ctype, at)
        elif at % 8:
            yield from super().unaligned(ctype.of, at)
            if at % 8 + size_of(ctype.of, X86_64) > 16:
                yield at, 16  # an element would not fit the registers


def _without_elements(ctype: CType, at: int) -> Iterator[Leaf]:
    """The scalars that an array without elements would have, where it begins within an eightbyte."""
    ctype = bare(ctype)
    match ctype:
        case CArray(of, count) if count:
            for index in range(count):
                yield from _without_elements(of, at + index * size_of(of, X86_64))
        case CArray(of, _) if at % 8:
            yield from (leaf for leaf in leaves(of, X86_64, at * 8) if leaf.at_bit // 64 == at // 8)
        case CStruct():
            for field in struct_layout(ctype, X86_64).fields:
                if field.member.bits is None:
                    yield from _without_elements(field.member.type, at + field.at_bit // 8)


class HalvesAsInteger(Passing):
    """D-9."""

    def cleaned(self, arg: Arg, classes: Classes) -> Classes:
        found = [(leaf.at_bit // 8, leaf.type) for leaf in leaves(arg.type, X86_64)]
        low = [at for at, ctype in found if at < 8]
        high = [at + ctype.size for at, ctype in found if at >= 8]
        halves = all(isinstance(ctype, CFloat) and ctype.size == 2 for at, ctype in found if at < 8)
        if classes == [Class.SSE, Class.SSE] and halves and max(low, default=8) < 4 and max(high, default=16) <= 12:
            return [Class.INTEGER, Class.SSE]
        return super().cleaned(arg, classes)


class UnionAsOneMember(Passing):
    """D-10."""

    def assigned(
        self,
        arg: Arg,
        classes: Classes,
        general: Sequence[str],
        vector: Sequence[str],
        integer_rule: str,
        sse_rule: str,
    ) -> tuple[Piece, ...]:
        pieces = super().assigned(arg, classes, general, vector, integer_rule, sse_rule)
        if not arg.is_composite:
            return pieces
        floats = {leaf.at_bit // 8: leaf.type.size for leaf in _storage(arg.type, 0) if isinstance(leaf.type, CFloat)}
        return tuple(
            Piece(piece.at, _float_bytes(floats, piece), piece.where)
            if isinstance(piece.where, InReg) and piece.where.reg.startswith("xmm") and piece.size <= 8
            else piece
            for piece in pieces
        )


def _storage(ctype: CType, at: int) -> Iterator[Leaf]:
    """The scalars of a type, of a union only those of its most aligned, then largest member."""
    ctype = bare(ctype)
    match ctype:
        case CStruct(members=members) if members:
            fields = struct_layout(ctype, X86_64).fields
            if ctype.union:
                fields = (max(fields, key=lambda field: (align_of(field.member.type, X86_64), field.size_bits)),)
            for field in fields:
                yield from _storage(field.member.type, at + field.at_bit // 8)
        case CArray(of, count):
            for index in range(count or 0):
                yield from _storage(of, at + index * size_of(of, X86_64))
        case _:
            yield from leaves(ctype, X86_64, at * 8)


def _float_bytes(floats: dict[int, int], piece: Piece) -> int:
    """Bytes of an eightbyte that travel: from the floats that are next to each other in it."""
    first = floats.get(piece.at, 8)
    if first == 8:
        return piece.size
    second = floats.get(piece.at + first) or (floats.get(piece.at + 4) if first == 2 else None)
    if second is None:
        return min(first, piece.size)
    return piece.size if first == 4 or second == 4 or floats.get(piece.at + 4) else min(4, piece.size)


class UnnamedInt128(Passing):
    """D-11."""

    def cleaned(self, arg: Arg, classes: Classes) -> Classes:
        wide = any(leaf.size_bits > 120 and leaf.is_bits for leaf in leaves(arg.type, X86_64, unnamed_bits=True))
        if wide and classes == [Class.INTEGER, Class.NO_CLASS]:
            return [Class.INTEGER, Class.INTEGER]
        return super().cleaned(arg, classes)


# --- arm64


class PackedBits(Marshalling):
    """D-5."""

    def natural(self, arg: Arg) -> int:
        members = arg.type.members or () if isinstance(arg.type, CStruct) else ()
        of_types = [align_of(member.type, ARM64) for member in members if member.bits is not None]
        return max([super().natural(arg), *of_types])


class OnlyUnnamedBits(Marshalling):
    """D-12."""

    def is_nothing(self, arg: Arg) -> bool:
        return _is_padding(arg.type, ARM64)


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
        return super().homogeneous_of(_without_empty(ctype))


def _without_empty(ctype: CType) -> CType:
    """A struct without its members that are structs of no size, and arrays of such."""
    ctype = bare(ctype)
    if isinstance(ctype, CArray):
        return replace(ctype, of=_without_empty(ctype.of))
    if not isinstance(ctype, CStruct):
        return ctype
    members = [replace(member, type=_without_empty(member.type)) for member in ctype.members or ()]
    kept = [member for member in members if size_of(member.type, ARM64) or not _is_struct(member.type)]
    return replace(ctype, members=tuple(kept))


def _is_struct(ctype: CType) -> bool:
    while isinstance(ctype, CArray) and ctype.count:
        ctype = bare(ctype.of)
    return isinstance(ctype, CStruct)


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
    if isinstance(ctype, CStruct):
        for member in ctype.members or ():
            if size_of(member.type, ARM64):
                yield from _with_size(member.type)
    elif isinstance(ctype, CArray) and ctype.count == 1:
        yield from _with_size(ctype.of)
    else:
        yield ctype


QUIRKS: Final = (
    Quirk(
        "D-1", "clang", "x86_64", "19.1; not 14.0, 22.1",
        "After a scalar __int128 for which only r9 was left, that register is lost: later integers are on the stack.",
        "psABI, Passing: registers of an argument that does not fit are free again; gcc",
        RegisterLost,
    ),
    Quirk(
        "D-2", "clang", "x86_64", "14.0; not 19.1, 22.1",
        "A scalar __int128 is two u64: divided between r9 and the stack, aligned to 8 there. va_arg in a callee does not know.",
        "psABI, Classification: on the stack it is aligned to 16; Passing: never divided; gcc",
        ScalarSplit,
    ),
    Quirk(
        "D-3", "gcc", "x86_64", "12.2",
        "Of an array of packed structs only the first element is looked at for unaligned fields.",
        "psABI, Classification 1: an unaligned field anywhere is MEMORY; clang",
        FirstElement,
    ),
    Quirk(
        "D-4", "clang", "x86_64", "14.0, 19.1, 22.1",
        "A member is unaligned where it is at no multiple of the alignment of its type, attributes included, "
        "also if that is more than any scalar in it needs, and if it has no size.",
        "open: psABI, Classification 1 does not say what unaligned means for attributes; gcc looks at scalars",
        ByTypeAlignment,
    ),
    Quirk(
        "D-4a", "clang", "x86_64", "14.0; not 19.1, 22.1",
        "As D-4, with the alignment that a typedef gives, which may be less than the scalar's.",
        "open, as D-4",
        ByTypedefAlignment,
    ),
    Quirk(
        "D-5", "gcc", "arm64", "12.2",
        "In a packed struct a bit-field counts for the natural alignment with the alignment of its type.",
        "AAPCS64, Composite Types: member alignment is that after language attributes, so 1; clang",
        PackedBits,
    ),
    Quirk(
        "D-7", "gcc", "x86_64", "12.2",
        "Unnamed bit-fields are classified, as INTEGER; of a union also one of width 0. "
        "A struct of nothing else for which no register is left is passed nowhere.",
        "psABI, Classification: NO_CLASS is for padding, which an unnamed bit-field is (C11 6.7.2.1); clang",
        UnnamedBits,
    ),
    Quirk(
        "D-15", "gcc", "x86_64", "12.2",
        "A callee counts a named argument of nothing but unnamed bit-fields as stacked, where no register was left, and takes "
        "anonymous ones from behind it; no caller puts it there.",
        "psABI, Variable Argument Lists; gcc's own callers, clang",
        PaddingCounted,
    ),
    Quirk(
        "D-16", "gcc", "x86_64", "12.2",
        "A bit-field of 8, 16, 32 or 64 bits that begins at a multiple of them is a plain member, which may be unaligned.",
        "open: psABI, Classification 1 does not speak of bit-fields; clang takes none for unaligned",
        WholeBitFields,
    ),
    Quirk(
        "D-8", "gcc", "x86_64", "12.2",
        "An array of no elements that begins within an eightbyte is classified as one element would be.",
        "open: such arrays are GNU C; clang gives them no class",
        NoElements,
    ),
    Quirk(
        "D-9", "clang", "x86_64", "14.0, 19.1, 22.1",
        "Two eightbytes of which the first holds only _Float16 in its low four bytes, and the second is not used beyond four: "
        "the first is passed in a general register.",
        "psABI, Classification: _Float16 is SSE; gcc",
        HalvesAsInteger,
    ),
    Quirk(
        "D-10", "clang", "x86_64", "14.0, 19.1, 22.1",
        "Of an SSE eightbyte of a union only the floats of its most aligned, then largest member are passed: "
        "union {struct {float a; double b;} s; double d;} loses the upper half of d.",
        "psABI, Passing 3: the eightbyte is passed; gcc",
        UnionAsOneMember,
    ),
    Quirk(
        "D-11", "clang", "x86_64", "22.1; not 14.0, 19.1",
        "An object that begins with an unnamed bit-field of an __int128 takes two general registers, though the second is padding.",
        "psABI, Classification: NO_CLASS is for padding; gcc takes two as well, by D-7",
        UnnamedInt128,
    ),
    Quirk(
        "D-12", "clang", "arm64", "14.0, 19.1, 22.1",
        "A struct of nothing but unnamed bit-fields is not passed at all.",
        "AAPCS64, C.12: it is a composite with a size; gcc",
        OnlyUnnamedBits,
    ),
    Quirk(
        "D-17", "clang", "arm64", "22.1",
        "A member that is a struct of nothing but arrays of no elements does not keep a struct from being an HFA.",
        "open: such arrays are GNU C; with gcc, and with such an array itself, it does",
        EmptyStructs,
    ),
    Quirk(
        "D-13", "gcc", "arm64", "12.2",
        "A union with a bit-field of width 0 is no HFA; a struct with one is.",
        "open: AAPCS64, Homogeneous Aggregates does not speak of members without a size; clang 22 ignores them in both",
        ZeroBitsInUnion,
    ),
    Quirk(
        "D-13", "clang", "arm64", "14.0; not 19.1, 22.1",
        "A struct or union with a bit-field of width 0 is no HFA.",
        "open: AAPCS64, Homogeneous Aggregates does not speak of members without a size; clang 22 ignores them",
        ZeroBits,
    ),
    Quirk(
        "D-14", "gcc", "arm64", "12.2",
        "One complex number or short vector beside arrays of no elements is an HFA or HVA; one float is not.",
        "open: such arrays are GNU C; to clang none is",
        BesideNoElements,
    ),
)  # fmt: skip


def models(compiler: Compiler) -> Iterator[tuple[tuple[Quirk, ...], Rules]]:
    """The quirks of a compiler, one by one, then two at a time, as rules."""
    own = [quirk for quirk in QUIRKS if (quirk.family, quirk.arch) == (compiler.family, compiler.arch)]
    for count in (1, 2, 3):
        for chosen in combinations(own, count):
            rules = [quirk.rules for quirk in chosen]
            if not any(one is not other and issubclass(one, other) for one in rules for other in rules):
                yield chosen, type("Model", tuple(rules), {})
