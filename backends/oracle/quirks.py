"""Where compilers are known to differ from the ABI documents, or from each other where these are open.

Each row is a model: the document's rules with one of them changed. What a compiler does has to be what the document says, or what
rows of its own, and only they, explain.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from backends.arm64.abi import Marshalling
from backends.oracle import on_arm64, on_x86_64
from backends.oracle.compilers import Compiler
from backends.x86_64.abi import Passing
from harness.isa.ctypes import X86_64, CArray, CStruct, CType, bare, size_of

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
    rules: Rules | None = None
    types: Callable[[CType], bool] | None = None  # which it lays out otherwise, or fails on
    fails: bool = False

    def is_of(self, compiler: Compiler) -> bool:
        """Whether the compiler may have it; in which versions it is, nobody tried them all."""
        return (self.family, self.arch) == (compiler.family, compiler.arch)


def aligned_bits(ctype: CType) -> bool:
    """Whether a bit-field in it has an alignment of its own. D-18."""
    ctype = bare(ctype)
    if isinstance(ctype, CArray):
        return aligned_bits(ctype.of)
    if not isinstance(ctype, CStruct):
        return False
    return any((member.bits and member.aligned) or aligned_bits(member.type) for member in ctype.members or ())


def holds_nothings(ctype: CType) -> bool:
    """Whether an array in it has elements without a size. D-21."""
    ctype = bare(ctype)
    if isinstance(ctype, CArray):
        return bool(ctype.count and not size_of(ctype.of, X86_64)) or holds_nothings(ctype.of)
    return isinstance(ctype, CStruct) and any(holds_nothings(member.type) for member in ctype.members or ())


QUIRKS: Final = (
    Quirk(
        "D-1", "clang", "x86_64", "19.1; not 14.0, 22.1",
        "After a scalar __int128 for which only r9 was left, that register is lost: later integers are on the stack.",
        "psABI, Passing: registers of an argument that does not fit are free again; gcc",
        on_x86_64.RegisterLost,
    ),
    Quirk(
        "D-2", "clang", "x86_64", "14.0; not 19.1, 22.1",
        "A scalar __int128 is two u64: divided between r9 and the stack, aligned to 8 there.",
        "psABI, Classification: on the stack it is aligned to 16; Passing: never divided; gcc",
        on_x86_64.ScalarSplit,
    ),
    Quirk(
        "D-3", "gcc", "x86_64", "12.2",
        "Of an array of packed structs only the first element is looked at for unaligned fields.",
        "psABI, Classification 1: an unaligned field anywhere is MEMORY; clang",
        on_x86_64.FirstElement,
    ),
    Quirk(
        "D-4", "clang", "x86_64", "14.0, 19.1, 22.1",
        "A member is unaligned where it is at no multiple of the alignment of its type, attributes included, "
        "also if that is more than any scalar in it needs, and if it has no size.",
        "open: psABI, Classification 1 does not say what unaligned means for attributes; gcc looks at scalars",
        on_x86_64.ByTypeAlignment,
    ),
    Quirk(
        "D-4a", "clang", "x86_64", "14.0; not 19.1, 22.1",
        "As D-4, with the alignment that a typedef gives, which may be less than the scalar's.",
        "open, as D-4",
        on_x86_64.ByTypedefAlignment,
    ),
    Quirk(
        "D-5", "gcc", "arm64", "12.2",
        "In a packed struct a bit-field counts for the natural alignment with the alignment of its type; "
        "C.10 is then for objects of 16 bytes only.",
        "AAPCS64, Composite Types: member alignment is that after language attributes, so 1; clang",
        on_arm64.PackedBits,
    ),
    Quirk(
        "D-7", "gcc", "x86_64", "12.2",
        "Unnamed bit-fields are classified, as INTEGER. "
        "A struct of nothing else that does not get registers is passed and returned nowhere.",
        "psABI, Classification: NO_CLASS is for padding, which an unnamed bit-field is (C11 6.7.2.1); clang",
        on_x86_64.UnnamedBits,
    ),
    Quirk(
        "D-8", "gcc", "x86_64", "12.2",
        "An array of no elements that begins within an eightbyte is classified as one element would be.",
        "open: such arrays are GNU C; clang gives them no class",
        on_x86_64.NoElements,
    ),
    Quirk(
        "D-9", "clang", "x86_64", "14.0, 19.1, 22.1",
        "Two eightbytes of which the first holds only _Float16 in its low four bytes, and the second is not used beyond four: "
        "the first is passed in a general register.",
        "psABI, Classification: _Float16 is SSE; gcc",
        on_x86_64.HalvesAsInteger,
    ),
    Quirk(
        "D-10", "clang", "x86_64", "14.0, 19.1, 22.1",
        "Of an SSE eightbyte of a union only the floats of its most aligned, then largest member are passed: "
        "union {struct {float a; double b;} s; double d;} loses the upper half of d.",
        "psABI, Passing 3: the eightbyte is passed; gcc",
        on_x86_64.UnionAsOneMember,
    ),
    Quirk(
        "D-11", "clang", "x86_64", "22.1; not 14.0, 19.1",
        "An object that begins with an unnamed bit-field of an __int128 takes two general registers, though the second is padding.",
        "psABI, Classification: NO_CLASS is for padding; gcc takes two as well, by D-7",
        on_x86_64.UnnamedInt128,
    ),
    Quirk(
        "D-12", "clang", "arm64", "14.0, 19.1, 22.1",
        "A struct of nothing but unnamed bit-fields is not passed at all.",
        "AAPCS64, C.12: it is a composite with a size; gcc",
        on_arm64.OnlyUnnamedBits,
    ),
    Quirk(
        "D-13", "gcc", "arm64", "12.2",
        "A union with a bit-field of width 0 is no HFA; a struct with one is.",
        "open: AAPCS64, Homogeneous Aggregates does not speak of members without a size; clang 22 ignores them in both",
        on_arm64.ZeroBitsInUnion,
    ),
    Quirk(
        "D-13", "clang", "arm64", "14.0; not 19.1, 22.1",
        "A struct or union with a bit-field of width 0 is no HFA.",
        "open: AAPCS64, Homogeneous Aggregates does not speak of members without a size; clang 22 ignores them",
        on_arm64.ZeroBits,
    ),
    Quirk(
        "D-14", "gcc", "arm64", "12.2",
        "One complex number or short vector in a struct with arrays of no elements is an HFA or HVA; one float is not.",
        "open: such arrays are GNU C; to clang none is",
        on_arm64.BesideNoElements,
    ),
    Quirk(
        "D-15", "gcc", "x86_64", "12.2",
        "A callee counts a named argument of nothing but unnamed bit-fields as stacked, where no register was left, and takes "
        "anonymous ones from behind it; no caller puts it there.",
        "psABI, Variable Argument Lists; gcc's own callers, clang",
        on_x86_64.PaddingCounted,
    ),
    Quirk(
        "D-16", "gcc", "x86_64", "12.2",
        "A bit-field of 8, 16, 32 or 64 bits that begins at a multiple of them is a plain member, which may be unaligned.",
        "open: psABI, Classification 1 does not speak of bit-fields; clang takes none for unaligned",
        on_x86_64.WholeBitFields,
    ),
    Quirk(
        "D-17", "clang", "arm64", "14.0, 22.1",
        "A member that is a struct of nothing but arrays of no elements, or unnamed bit-fields, does not keep a struct from "
        "being an HFA.",
        "open: such arrays are GNU C; with gcc, and with such an array itself, it does",
        on_arm64.EmptyStructs,
    ),
    *(
        Quirk(
            "D-18", "clang", arch, "14.0, 19.1, 22.1",
            "A bit-field with an alignment of its own may cross a boundary of its type: only before it is aligned it may not.",
            "psABI 3.1.2, Bit-Fields: contained in a storage unit of its type; AAPCS64, Bit-fields; gcc",
            types=aligned_bits,
        )
        for arch in ("arm64", "x86_64")
    ),
    Quirk(
        "D-19", "clang", "x86_64", "14.0; not 19.1, 22.1",
        "va_arg takes a struct of nothing, or nothing but unnamed bit-fields, from the stack, aligned; no caller puts it there.",
        "psABI, Classification: padding is passed nowhere; clang's own callers",
        on_x86_64.PaddingRead,
    ),
    Quirk(
        "D-20", "clang", "arm64", "14.0; not 22.1",
        "An HFA or HVA on the stack is aligned as a plain member is, also in a packed struct.",
        "AAPCS64, C.4: by its natural alignment, which is 1 then; gcc",
        on_arm64.ByMembersOnTheStack,
    ),
    Quirk(
        "D-21", "clang", "x86_64", "14.0, 19.1, 22.1",
        "It crashes on a float before an array of structs without a size: struct {float a; struct {} b[1]; double c[0];}.",
        "gcc",
        types=holds_nothings,
        fails=True,
    ),
    Quirk(
        "D-22", "gcc", "x86_64", "12.2",
        "In a union a bit-field, also one of width 0, is classified as the smallest integer that holds it, and may be unaligned.",
        "open: psABI, Classification does not speak of bit-fields; clang takes the eightbytes that the bits are in",
        on_x86_64.UnionBits,
    ),
    Quirk(
        "D-23", "clang", "arm64", "22.1",
        "va_arg aligns the address of a stacked HFA or HVA to the alignment of its type, which may be more than 16.",
        "AAPCS64, B.6 and C.4: no argument is aligned to more than 16; clang's own callers, gcc",
        on_arm64.AlignedByVaArg,
    ),
    Quirk(
        "D-24", "gcc", "arm64", "12.2",
        "With D-5, va_arg applies C.10 to objects of 8 bytes too, which callers do not.",
        "AAPCS64, as for D-5: neither",
        on_arm64.PackedBitsByVaArg,
    ),
    Quirk(
        "D-25", "clang", "arm64", "14.0; not 19.1, 22.1",
        "va_arg takes a struct of nothing, or nothing but unnamed bit-fields, by its size and alignment as it takes others; "
        "no caller puts it there.",
        "open for structs of nothing, which are GNU C: clang's own callers, gcc; unnamed bit-fields as for D-12",
        on_arm64.PaddingByVaArg,
    ),
    Quirk(
        "D-26", "clang", "x86_64", "14.0; not 19.1, 22.1",
        "With D-2, va_arg takes a scalar __int128 from the stack as a whole, aligned to 16; no caller puts it there.",
        "psABI, as for D-2: va_arg",
        on_x86_64.ScalarSplitByVaArg,
    ),
    Quirk(
        "D-27", "clang", "x86_64", "19.1; not 14.0, 22.1",
        "With D-1, to va_arg r9 is used: a struct of an integer and a float is on the stack as a whole, and not divided as callers do.",
        "psABI, as for D-1: neither",
        on_x86_64.RegisterLostByVaArg,
    ),
    Quirk(
        "D-28", "clang", "x86_64", "14.0; not 19.1, 22.1",
        "An object whose first eightbyte is padding and whose second is SSE is passed as the second alone, also on the stack, and its "
        "register is not counted: a later object that does not fit is divided.",
        "psABI, Passing: an object that does not fit is on the stack as a whole; gcc",
        on_x86_64.AfterPadding,
    ),
    Quirk(
        "D-29", "clang", "x86_64", "14.0; not 19.1, 22.1",
        "With D-28, va_arg takes such an object from the stack, also where callers have a register for it.",
        "psABI, Passing 3; clang's own callers, gcc",
        on_x86_64.AfterPaddingByVaArg,
    ),
    Quirk(
        "D-30", "clang", "x86_64", "14.0 for INTEGER, 19.1; not 22.1",
        "va_arg takes an object whose first eightbyte is padding from its register as if that held the first eightbyte: "
        "the second is lost.",
        "psABI, Variable Argument Lists; clang's own callers, gcc",
        on_x86_64.PaddingFirstByVaArg,
    ),
)  # fmt: skip


def models(compiler: Compiler) -> Iterator[tuple[tuple[Quirk, ...], Rules]]:
    """The quirks of a compiler as rules: one by one, then two and three at a time."""
    own = [(quirk, quirk.rules) for quirk in QUIRKS if quirk.is_of(compiler) and quirk.rules]
    for count in (1, 2, 3):
        for chosen in combinations(own, count):
            rules = [rules for _, rules in chosen]
            if not any(one is not other and issubclass(one, other) for one in rules for other in rules):
                yield tuple(quirk for quirk, _ in chosen), type("Model", tuple(rules), {})


def of_types(compiler: Compiler, ctypes: Iterable[CType], *, fails: bool = False) -> tuple[str, ...]:
    """The quirks of a compiler by which it lays one of these types out otherwise, or fails on one."""
    known = list(ctypes)
    own = [
        (quirk.id, quirk.types) for quirk in QUIRKS if quirk.is_of(compiler) and quirk.types and quirk.fails == fails
    ]
    return tuple(name for name, types in own if any(map(types, known)))
