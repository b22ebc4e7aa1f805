"""Models of where compilers for x86-64 differ: the psABI's rules, each with one of them changed; quirks.py says what each is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from backends.abi import Arg, InReg, OnStack, Piece, Placed
from backends.x86_64.abi import ABI, VECTOR_ARGS, Class, Classes, Passing
from harness.isa.ctypes import (
    X86_64,
    CArray,
    CFloat,
    CInt,
    CStruct,
    CType,
    Leaf,
    Param,
    align_of,
    bare,
    is_padding,
    leaves,
    rounded_up,
    size_of,
    struct_layout,
)


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


class ByVaArg(Passing):
    """Tells when anonymous arguments have begun."""

    is_anonymous = False

    def place_anonymous(self, param: Param) -> Placed:
        self.is_anonymous = True
        return super().place_anonymous(param)


class RegisterLostByVaArg(ByVaArg, RegisterLost):
    """D-27. To `va_start` r9 is used."""

    def place_anonymous(self, param: Param) -> Placed:
        if self.lost and not self.is_anonymous:
            self.integers = len(ABI.int_args)
        return super().place_anonymous(param)

    def in_registers(self, arg: Arg, classes: Classes) -> tuple[Piece, ...] | None:
        if self.is_anonymous:
            return super(RegisterLost, self).in_registers(arg, classes)
        return super().in_registers(arg, classes)


class ScalarSplitByVaArg(RegisterLostByVaArg, ScalarSplit):
    """D-26."""

    def alignment(self, arg: Arg) -> int:
        return super(ScalarSplit, self).alignment(arg) if self.is_anonymous else super().alignment(arg)


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

    def classes(self, arg: Arg) -> Classes:
        found = super().classes(arg)
        return [] if found == [Class.MEMORY] and is_padding(arg.type, X86_64) else found

    def in_memory(self, arg: Arg, rule: str) -> Placed:
        return arg.placed((), rule) if is_padding(arg.type, X86_64) else super().in_memory(arg, rule)


class PaddingCounted(UnnamedBits):
    """D-15."""

    counted = 0

    def classes(self, arg: Arg) -> Classes:
        found = super().classes(arg)
        self.counted += 0 if found else rounded_up(arg.size, 8)
        return found

    def in_memory(self, arg: Arg, rule: str) -> Placed:
        align = 8 if is_padding(arg.type, X86_64) else self.alignment(arg)
        self.counted = rounded_up(self.counted, align) + rounded_up(arg.size, 8)
        return super().in_memory(arg, rule)

    def place_anonymous(self, param: Param) -> Placed:
        self.stack = max(self.stack, self.counted)
        return super().place_anonymous(param)


class PaddingRead(Passing):
    """D-19."""

    def place_anonymous(self, param: Param) -> Placed:
        ctype = bare(param.type)
        if is_padding(ctype, X86_64):
            align = max(8, align_of(ctype, X86_64))
            self.stack = rounded_up(self.stack, align) + rounded_up(size_of(ctype, X86_64), 8)
            self.stack_align = max(self.stack_align, align)
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


class UnionBits(Passing):
    """D-22."""

    def fields(self, ctype: CType) -> Iterable[Leaf]:
        yield from super().fields(ctype)
        for at, integer in _union_bits(ctype, 0):
            yield from leaves(integer, X86_64, at * 8)

    def unaligned(self, ctype: CType, at: int) -> Iterator[tuple[int, int]]:
        yield from super().unaligned(ctype, at)
        for place, integer in _union_bits(ctype, at):
            yield from super().unaligned(integer, place)


def _union_bits(ctype: CType, at: int) -> Iterator[tuple[int, CType]]:
    """The bit-fields of the unions in a type: where, and the smallest integer that holds them."""
    ctype = bare(ctype)
    if isinstance(ctype, CArray):
        for index in range(ctype.count or 0):
            yield from _union_bits(ctype.of, at + index * size_of(ctype.of, X86_64))
    elif isinstance(ctype, CStruct):
        for field in struct_layout(ctype, X86_64).fields:
            if field.member.bits is None:
                yield from _union_bits(field.member.type, at + field.at_bit // 8)
            elif ctype.union:
                size = next(size for size in (1, 2, 4, 8, 16) if field.size_bits <= size * 8)
                yield at, CInt("bits", size, False)


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


class AfterPadding(Passing):
    """D-28. `counted` are the vector registers that clang knows to be used; what finds none is on the stack, piece by piece."""

    counted = 0

    def in_registers(self, arg: Arg, classes: Classes) -> tuple[Piece, ...] | None:
        used, uncounted = self.vectors, int(classes == [Class.NO_CLASS, Class.SSE])
        self.vectors = self.counted - uncounted
        pieces = super().in_registers(arg, classes)
        self.counted, self.vectors = self.vectors if pieces else self.counted, used
        return pieces and tuple(self._found(arg, piece) for piece in pieces)

    def _found(self, arg: Arg, piece: Piece) -> Piece:
        if not isinstance(piece.where, InReg) or piece.where.reg in ABI.int_args:
            return piece
        if self.vectors < VECTOR_ARGS:
            self.vectors += 1
            return replace(piece, where=InReg(f"{piece.where.reg[:3]}{self.vectors - 1}"))
        size = 16 if _is_two_floats(arg.type, piece.at) else rounded_up(piece.size, 8)
        at = rounded_up(self.stack, size)
        self.stack, self.stack_align = at + size, max(self.stack_align, size)
        return replace(piece, where=OnStack(at, ABI.sp))


def _is_two_floats(ctype: CType, at: int) -> bool:
    """Of which clang makes a vector; LLVM gives it 16 bytes of stack."""
    floats = [leaf.at_bit // 8 for leaf in _storage(ctype, 0) if leaf.type == CFloat("float", 4)]
    return at in floats and at + 4 in floats


class AfterPaddingByVaArg(ByVaArg, AfterPadding):
    """D-29."""

    def in_registers(self, arg: Arg, classes: Classes) -> tuple[Piece, ...] | None:
        if not self.is_anonymous:
            return super().in_registers(arg, classes)
        return None if classes == [Class.NO_CLASS, Class.SSE] else super(AfterPadding, self).in_registers(arg, classes)


class PaddingFirstByVaArg(Passing):
    """D-30. What va_arg takes for the second eightbyte is whatever was in the next register."""

    def place_anonymous(self, param: Param) -> Placed:
        placed = super().place_anonymous(param)
        is_lost = any(piece.at == 8 and isinstance(piece.where, InReg) for piece in placed.pieces[:1])
        return replace(placed, pieces=()) if is_lost else placed


class UnnamedInt128(Passing):
    """D-11."""

    def cleaned(self, arg: Arg, classes: Classes) -> Classes:
        wide = any(leaf.size_bits > 120 and leaf.is_bits for leaf in leaves(arg.type, X86_64, unnamed_bits=True))
        if wide and classes == [Class.INTEGER, Class.NO_CLASS]:
            return [Class.INTEGER, Class.INTEGER]
        return super().cleaned(arg, classes)
