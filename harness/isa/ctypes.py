"""C types, and their sizes, alignments and offsets in the LP64 data models of Linux on arm64 and x86-64.

AAPCS64 2025Q4, "Data types and alignment"; System V x86-64 psABI 1.0, 3.1.2 "Data Representation". Sizes are bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, assert_never

POINTER_BYTES: Final = 8
IMAGINARY: Final = " imaginary"


@dataclass(frozen=True, slots=True)
class CInt:
    """An integer type or enum; aligned to its size. `bool` is an unsigned byte that holds 0 or 1."""

    name: str
    size: int
    signed: bool


@dataclass(frozen=True, slots=True)
class CFloat:
    """A floating type; aligned to its size. `long double` has 16 bytes: a quad on arm64, on x86-64 ten of them used."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class CComplex:
    """A complex type: the real part, then the imaginary one."""

    of: CFloat


@dataclass(frozen=True, slots=True)
class CVector:
    """`__attribute__((vector_size(size)))` of integers or floats; aligned to its size."""

    of: CInt | CFloat
    size: int


@dataclass(frozen=True, slots=True)
class CVoid:
    """`void`: no result."""

    name: str = "void"


@dataclass(frozen=True, slots=True)
class CPtr:
    """A pointer, 8 bytes. `ctx` is the tag `__arg_ctx`: it points to the program's context."""

    to: "CType"
    ctx: bool = False
    size: int = POINTER_BYTES


@dataclass(frozen=True, slots=True)
class CArray:
    """An array; `count` is None for a flexible array member, which has no size."""

    of: "CType"
    count: int | None


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct: `aligned` is its own attribute in bytes, 0 without; `bits` the width of a bit-field."""

    name: str
    type: "CType"
    aligned: int = 0
    packed: bool = False
    bits: int | None = None


@dataclass(frozen=True, slots=True)
class CStruct:
    """A struct or union. `members` is None where they are not known; `aligned` is the attribute on the whole type.

    `layouts`, by architecture, are for `struct_layout` alone: structs within structs are laid out once.
    """

    name: str
    members: tuple[Member, ...] | None = None
    union: bool = False
    packed: bool = False
    aligned: int = 0
    layouts: "dict[str, StructLayout]" = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def keyword(self) -> str:
        """`struct` or `union`."""
        return "union" if self.union else "struct"


@dataclass(frozen=True, slots=True)
class CAligned:
    """A typedef with `aligned(n)`, which may also be less than the alignment of the type behind it."""

    name: str
    of: "CType"
    aligned: int


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter; `name` is never empty (`a1`, `a2`, ... where the text names none)."""

    name: str
    type: "CType"


@dataclass(frozen=True, slots=True)
class CFunc:
    """A function type; `anonymous` are the arguments that one call passes for the `...`."""

    result: "CType"
    params: tuple[Param, ...]
    variadic: bool = False
    anonymous: tuple[Param, ...] = ()


CType = CInt | CFloat | CComplex | CVector | CVoid | CStruct | CPtr | CArray | CFunc | CAligned


BpfType = CInt | CVoid | CStruct | CPtr  # what BPF functions take and give, pointers to such types among them


class IncompleteError(ValueError):
    """A type without a size: void, a function, a struct whose members are not known."""


@dataclass(frozen=True, slots=True)
class DataModel:
    """Where the data models of two architectures differ."""

    arch: str
    unnamed_bits_align: bool  # an unnamed bit-field, also one of width 0, counts for the alignment of its struct


# AAPCS64, "Bit-fields": the container counts like a plain member of its type, also of an unnamed or zero-sized one.
# psABI 3.1.2, "Bit-Fields": the types of unnamed ones do not affect the alignment of a struct.
ARM64: Final = DataModel("arm64", unnamed_bits_align=True)
X86_64: Final = DataModel("x86_64", unnamed_bits_align=False)


@dataclass(frozen=True, slots=True)
class Field:
    """A member in its place, both in bits."""

    member: Member
    at_bit: int
    size_bits: int


@dataclass(frozen=True, slots=True)
class StructLayout:
    """`natural` is the alignment that the members give; `align` counts the attribute on the whole struct too."""

    size: int
    align: int
    natural: int
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar inside a type, both in bits; `path` is what C writes after the object's name, and IMAGINARY for such a part."""

    type: CInt | CFloat | CVector | CPtr
    at_bit: int
    size_bits: int
    path: str
    is_bits: bool = False


def bare(ctype: CType) -> CType:
    """The type that is passed: the `aligned` of a typedef does not belong to it."""
    while isinstance(ctype, CAligned):
        ctype = ctype.of
    return ctype


def bpf_type(ctype: CType) -> BpfType:
    """A type of a prototype that `parse_bpf_proto` or BTF gave."""
    assert isinstance(ctype, BpfType), type_text(ctype)
    return ctype


def rounded_up(value: int, to: int) -> int:
    """The next multiple."""
    return -(-value // to) * to


def size_of(ctype: CType, model: DataModel) -> int:
    """`sizeof`. Raises IncompleteError."""
    match ctype:
        case CInt() | CFloat() | CVector() | CPtr():
            return ctype.size
        case CComplex(of):
            return 2 * of.size
        case CArray(of, count):
            return (count or 0) * size_of(of, model)
        case CAligned(_, of, _):
            return size_of(of, model)
        case CStruct():
            return struct_layout(ctype, model).size
        case CVoid() | CFunc():
            raise IncompleteError(f"{type_text(ctype)} has no size")
        case _:
            assert_never(ctype)


def align_of(ctype: CType, model: DataModel) -> int:
    """`_Alignof`, with every attribute. Raises IncompleteError."""
    match ctype:
        case CArray(of, _) | CComplex(of):
            return align_of(of, model)
        case CAligned(_, _, aligned):
            return aligned
        case CStruct():
            return struct_layout(ctype, model).align
        case _:
            return size_of(ctype, model)


def natural_of(ctype: CType, model: DataModel) -> int:
    """AAPCS64's natural alignment: before any attribute on the type as a whole. Raises IncompleteError."""
    ctype = bare(ctype)
    match ctype:
        case CArray(of, _):
            return natural_of(of, model)
        case CStruct():
            return struct_layout(ctype, model).natural
        case _:
            return align_of(ctype, model)


def member_align(member: Member, struct: CStruct, model: DataModel) -> int:
    """What a member is aligned to. A bit-field of width 0 keeps to its type in a packed struct too."""
    packed = (struct.packed or member.packed) and member.bits != 0
    return max(1 if packed else align_of(member.type, model), member.aligned)


def struct_layout(struct: CStruct, model: DataModel) -> StructLayout:
    """Where the members are. Raises IncompleteError where they are not known."""
    if struct.members is None:
        raise IncompleteError(f"the members of {struct.keyword} {struct.name} are not given, so it has no size here")
    if model.arch not in struct.layouts:
        struct.layouts[model.arch] = _laid_out(struct, struct.members, model)
    return struct.layouts[model.arch]


def _laid_out(struct: CStruct, members: tuple[Member, ...], model: DataModel) -> StructLayout:
    fields: list[Field] = []
    natural, at, end = 1, 0, 0
    for member in members:
        align = member_align(member, struct, model)
        bits = size_of(member.type, model) * 8 if member.bits is None else member.bits
        at = 0 if struct.union else at
        if member.bits is None or member.bits == 0:
            at = rounded_up(at, align * 8)
        else:
            at = _bit_position(member, struct, at, model)
        fields.append(Field(member, at, bits))
        at += bits
        end = max(end, at)
        if member.bits is None or member.name or model.unnamed_bits_align:
            natural = max(natural, align)
    align = max(natural, struct.aligned)
    return StructLayout(rounded_up(rounded_up(end, 8) // 8, align), align, natural, tuple(fields))


def _bit_position(member: Member, struct: CStruct, at: int, model: DataModel) -> int:
    """A bit-field does not cross a boundary of its type, unless packed."""
    assert member.bits is not None
    at = rounded_up(at, member.aligned * 8 or 1)
    if struct.packed or member.packed:
        return at
    align_bits = align_of(member.type, model) * 8
    crosses = at % align_bits + member.bits > size_of(member.type, model) * 8
    return rounded_up(at, align_bits) if crosses else at


def leaves(
    ctype: CType, model: DataModel, at_bit: int = 0, path: str = "", *, unnamed_bits: bool = False
) -> Iterator[Leaf]:
    """The scalars of a type in order, arrays expanded; unnamed bit-fields are padding, and only among them where asked for."""
    ctype = bare(ctype)
    match ctype:
        case CInt() | CFloat() | CVector() | CPtr():
            yield Leaf(ctype, at_bit, ctype.size * 8, path)
        case CComplex(of):
            yield Leaf(of, at_bit, of.size * 8, path)
            yield Leaf(of, at_bit + of.size * 8, of.size * 8, f"{path}{IMAGINARY}")
        case CArray(of, count):
            step = size_of(of, model) * 8
            for index in range(count or 0 if step else 0):
                inner = at_bit + index * step
                yield from leaves(of, model, inner, f"{path}[{index}]", unnamed_bits=unnamed_bits)
        case CStruct():
            for field in struct_layout(ctype, model).fields:
                yield from _field_leaves(field, model, at_bit, path, unnamed_bits=unnamed_bits)
        case CVoid() | CFunc() | CAligned():
            raise IncompleteError(f"{type_text(ctype)} has no size")
        case _:
            assert_never(ctype)


def _field_leaves(field: Field, model: DataModel, at_bit: int, path: str, *, unnamed_bits: bool) -> Iterator[Leaf]:
    member = field.member
    inner = f"{path}.{member.name}" if member.name else path
    if member.bits is None:
        yield from leaves(member.type, model, at_bit + field.at_bit, inner, unnamed_bits=unnamed_bits)
    elif member.bits and (member.name or unnamed_bits):
        ctype = bare(member.type)
        assert isinstance(ctype, CInt)
        yield Leaf(ctype, at_bit + field.at_bit, field.size_bits, inner, is_bits=True)


def is_padding(ctype: CType, model: DataModel) -> bool:
    """A struct that holds no value: nothing, or unnamed bit-fields."""
    return isinstance(ctype, CStruct) and not any(True for _ in leaves(ctype, model))


# --- types as text ---


def type_text(ctype: CType) -> str:
    """The type as C writes it, attributes and members included."""
    return declaration(ctype, "").strip()


def declaration(ctype: CType, name: str) -> str:
    """A declaration of `name`, e.g. `int (*f)(void)`."""
    match ctype:
        case CInt() | CFloat() | CVoid() | CAligned():
            return f"{ctype.name} {name}"
        case CComplex(of):
            return f"{of.name} _Complex {name}"
        case CVector(of, size):
            return f"{of.name} __attribute__((vector_size({size}))) {name}"
        case CStruct():
            return f"{_struct_text(ctype)} {name}"
        case CPtr(CStruct(tag, union=union)) if tag:
            return f"{'union' if union else 'struct'} {tag} *{name}"
        case CPtr(to):
            inner = f"(*{name})" if isinstance(to, CArray | CFunc) else f"*{name}"
            return declaration(to, inner)
        case CArray(of, count):
            return declaration(of, f"{name}[{'' if count is None else count}]")
        case CFunc():
            return declaration(ctype.result, f"{name}({_params_text(ctype)})")
        case _:
            assert_never(ctype)


def _struct_text(struct: CStruct) -> str:
    head = f"{struct.keyword} {struct.name}".strip()
    if struct.members is None:
        return head
    body = " ".join(f"{_member_text(member)};" for member in struct.members)
    names = ["packed"] * struct.packed + [f"aligned({struct.aligned})"] * bool(struct.aligned)
    return f"{head} {{{body}}}" + (f" __attribute__(({', '.join(names)}))" if names else "")


def _member_text(member: Member) -> str:
    text = declaration(member.type, member.name).strip() + ("" if member.bits is None else f":{member.bits}")
    text += " __attribute__((packed))" if member.packed else ""
    return text + (f" __attribute__((aligned({member.aligned})))" if member.aligned else "")


def _params_text(func: CFunc) -> str:
    params = [declaration(param.type, param.name).strip() for param in func.params]
    rest = [declaration(param.type, param.name).strip() for param in func.anonymous]
    return ", ".join([*params, *(["..."] if func.variadic else []), *rest]) or "void"
