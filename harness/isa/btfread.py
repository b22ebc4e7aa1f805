"""BTF as compilers write it: types by id, functions as prototypes, and .BTF.ext's functions and lines.

Linux Documentation/bpf/btf.rst. Everything is checked before it is used: the input may be anything.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from harness.isa import btf
from harness.isa.ctypes import (
    X86_64,
    CArray,
    CFloat,
    CInt,
    CPtr,
    CStruct,
    CType,
    CVoid,
    IncompleteError,
    Member,
    Param,
    struct_layout,
)
from harness.isa.proto import Proto
from harness.isa.slots import MAX_NESTING, MAX_VALUE_BYTES

# Bytes after the 12 of struct btf_type: fixed, and for each of its `vlen` rows.
_REST: Final[Mapping[int, tuple[int, int]]] = {
    btf.INT: (4, 0), btf.PTR: (0, 0), btf.ARRAY: (12, 0), btf.STRUCT: (0, 12), btf.UNION: (0, 12),
    btf.ENUM: (0, 8), btf.FWD: (0, 0), btf.TYPEDEF: (0, 0), btf.VOLATILE: (0, 0), btf.CONST: (0, 0),
    btf.RESTRICT: (0, 0), btf.FUNC: (0, 0), btf.FUNC_PROTO: (0, 8), btf.VAR: (4, 0), btf.DATASEC: (0, 12),
    btf.FLOAT: (0, 0), btf.DECL_TAG: (4, 0), btf.TYPE_TAG: (0, 0), btf.ENUM64: (0, 12),
}  # fmt: skip
_THROUGH: Final = (btf.TYPEDEF, btf.VOLATILE, btf.CONST, btf.RESTRICT, btf.TYPE_TAG)
MAX_TYPES: Final = 1 << 20
MAX_DEPTH: Final = 32  # of types that name types


class BtfError(ValueError):
    """BTF that cannot be used; the message says what was expected and found."""


@dataclass(frozen=True, slots=True)
class Type:
    """One type: `value` is its size or the type that it refers to; `rest` what follows."""

    kind: int
    name: str
    vlen: int
    value: int
    flag: bool
    rest: bytes

    @property
    def array(self) -> tuple[int, int]:
        """Of an ARRAY: the type of its elements, and how many there are."""
        of, _, count = struct.unpack("<III", self.rest)
        return of, count

    @property
    def params(self) -> Iterator[tuple[int, int]]:
        """Of a FUNC_PROTO: the offset of each parameter's name, and its type."""
        return struct.iter_unpack("<II", self.rest)

    @property
    def variables(self) -> Iterator[int]:
        """Of a DATASEC: the VAR or FUNC of each."""
        return (number for number, _, _ in struct.iter_unpack("<III", self.rest))

    @property
    def members(self) -> Iterator[tuple[int, int, int]]:
        """Of a STRUCT or UNION: the offset of each member's name, its type, and where it is."""
        return struct.iter_unpack("<III", self.rest)


@dataclass(slots=True)
class Types:
    """All types of a section; id 0 is void."""

    types: list[Type]
    strings: bytes
    _tags: dict[int, list[tuple[str, int]]] = field(default_factory=dict)

    def at(self, number: int) -> Type:
        """A type by its id. Raises BtfError."""
        if not 0 < number < len(self.types):
            raise BtfError(f"there is no type {number}; there are 1 to {len(self.types) - 1}")
        return self.types[number]

    def text(self, offset: int) -> str:
        """A string by its offset. Raises BtfError."""
        end = self.strings.find(b"\0", offset) if 0 <= offset < len(self.strings) else -1
        if end < 0:
            raise BtfError(f"there is no string at {offset}; there are {len(self.strings)} bytes of them")
        return self.strings[offset:end].decode(errors="replace")

    def resolved(self, number: int) -> int:
        """A type without typedefs and qualifiers; 0 is void."""
        for _ in range(MAX_DEPTH):
            if number == 0 or self.at(number).kind not in _THROUGH:
                return number
            number = self.at(number).value
        raise BtfError(f"types refer to each other more than {MAX_DEPTH} deep")

    def ctype(self, number: int, depth: int = 0) -> CType:
        """A type as prototypes know it. Raises BtfError for one that they do not."""
        number = self.resolved(number)
        if number == 0:
            return CVoid()
        found = self.at(number)
        match found.kind:
            case btf.INT if found.value <= 16:
                encoding = found.rest[3]
                name = "bool" if encoding & 4 else found.name
                return CInt(name, found.value, bool(encoding & 1))
            case btf.ENUM | btf.ENUM64:
                return CInt(f"enum {found.name}".strip(), found.value, found.flag)
            case btf.PTR:
                if depth >= MAX_DEPTH:
                    raise BtfError(f"pointers more than {MAX_DEPTH} deep")
                return CPtr(self._pointed(found.value, depth))
            case btf.STRUCT | btf.UNION if depth == 0:
                return self._struct(found, depth)
            case btf.STRUCT | btf.UNION | btf.FWD:
                return CStruct(found.name or "anonymous", union=found.kind == btf.UNION)
            case _:
                raise BtfError(
                    f"type {number} (kind {found.kind}, {found.value} bytes) is none of a parameter or result"
                )

    def _struct(self, found: Type, depth: int) -> CStruct:
        """A struct with its members, packed where their places say so.

        Without them where they fit neither way, and where nobody could pass it by value.
        """
        if max(found.value, found.vlen) > MAX_VALUE_BYTES or depth > MAX_NESTING:
            return CStruct(found.name or "anonymous", union=found.kind == btf.UNION)
        members: list[Member] = []
        places: list[int] = []
        for name, kind, at in found.members:
            bits = at >> 24 if found.flag else 0
            members.append(Member(self.text(name), self._member(kind, depth + 1), bits=bits or None))
            places.append(at & 0xFFFFFF if found.flag else at)
        for packed in (False, True):
            made = CStruct(found.name, tuple(members), found.kind == btf.UNION, packed)
            try:
                layout = struct_layout(made, X86_64)
            except IncompleteError:
                break
            if layout.size == found.value and [placed.at_bit for placed in layout.fields] == places:
                return made
        return CStruct(found.name or "anonymous", union=found.kind == btf.UNION)

    def _member(self, number: int, depth: int) -> CType:
        """A type inside of a struct; what a pointer points to is left out."""
        found = self.at(self.resolved(number))
        match found.kind:
            case btf.PTR:
                return CPtr(CVoid())
            case btf.FLOAT:
                return CFloat(found.name, found.value)
            case btf.ARRAY:
                of, count = found.array
                if depth >= MAX_DEPTH:
                    raise BtfError(f"arrays more than {MAX_DEPTH} deep")
                return CArray(self._member(of, depth + 1), count)
            case btf.STRUCT | btf.UNION:
                return self._struct(found, depth)
            case _:
                return self.ctype(number, depth)

    def _pointed(self, number: int, depth: int) -> CType:
        target = self.resolved(number)
        kind = self.at(target).kind if target else 0
        wide = kind == btf.INT and self.at(target).value > 8
        return CVoid() if wide or kind in (0, btf.FUNC_PROTO, btf.ARRAY, btf.FLOAT) else self.ctype(target, depth + 1)

    def proto(self, number: int) -> Proto:
        """A FUNC as a prototype, `__arg_ctx` from its tags. Raises BtfError."""
        func = self.at(number)
        if func.kind != btf.FUNC:
            raise BtfError(f"type {number} is no function")
        shape = self.at(func.value)
        if shape.kind != btf.FUNC_PROTO:
            raise BtfError(f"function {func.name}: type {func.value} is no prototype")
        params: list[Param] = []
        for index, (name, kind) in enumerate(shape.params):
            ctype = self.ctype(kind)
            if ("arg:ctx", index) in self._tags.get(number, ()) and isinstance(ctype, CPtr):
                ctype = CPtr(ctype.to, ctx=True)
            params.append(Param(self.text(name) or f"a{index + 1}", ctype))
        return Proto(func.name, self.ctype(shape.value), tuple(params), is_global=func.vlen == 1)

    def size(self, number: int, depth: int = 0) -> int:
        """Bytes of a type. Raises BtfError for one without a size."""
        if depth > MAX_DEPTH:
            raise BtfError(f"arrays more than {MAX_DEPTH} deep")
        number = self.resolved(number)
        found = self.at(number)
        match found.kind:
            case btf.INT | btf.STRUCT | btf.UNION | btf.ENUM | btf.ENUM64 | btf.FLOAT | btf.DATASEC:
                return found.value
            case btf.PTR:
                return 8
            case btf.ARRAY:
                of, count = found.array
                return count * self.size(of, depth + 1)
            case _:
                raise BtfError(f"type {number} (kind {found.kind}) has no size")

    def functions(self) -> Iterator[tuple[int, Type]]:
        """Every FUNC with its id; its `vlen` is the linkage."""
        return ((number, found) for number, found in enumerate(self.types) if found.kind == btf.FUNC)


def _header(data: bytes, what: str) -> int:
    """Its length."""
    if len(data) < 24:
        raise BtfError(f"{what}: expected a header of 24 bytes, found {len(data)} bytes")
    magic, version, _, length = struct.unpack_from("<HBBI", data)
    if magic != btf.MAGIC or version != 1 or not 24 <= length <= len(data):
        raise BtfError(f"{what}: expected magic {btf.MAGIC:#x}, version 1, found {magic:#x}, {version}")
    return int(length)


def _part(data: bytes, start: int, offset: int, size: int, what: str) -> bytes:
    if start + offset + size > len(data):
        raise BtfError(f"{what}: {size} bytes at {offset} lie outside")
    return data[start + offset : start + offset + size]


def read_btf(data: bytes) -> Types:
    """A .BTF section. Raises BtfError."""
    start = _header(data, ".BTF")
    type_at, type_size, string_at, string_size = struct.unpack_from("<IIII", data, 8)
    raw = _part(data, start, type_at, type_size, "types")
    strings = _part(data, start, string_at, string_size, "strings")
    types = Types([Type(0, "void", 0, 0, False, b"")], strings)
    at = 0
    while at < len(raw):
        if at + 12 > len(raw) or len(types.types) > MAX_TYPES:
            raise BtfError(f"type {len(types.types)}: cut off, or too many")
        name, info, value = struct.unpack_from("<III", raw, at)
        kind, vlen = info >> 24 & 31, info & 0xFFFF
        if kind not in _REST:
            raise BtfError(f"type {len(types.types)}: there is no kind {kind}")
        size = _REST[kind][0] + _REST[kind][1] * vlen
        rest = raw[at + 12 : at + 12 + size]
        if len(rest) < size:
            raise BtfError(f"type {len(types.types)}: cut off")
        types.types.append(Type(kind, types.text(name), vlen, value, bool(info >> 31), rest))
        if kind == btf.DECL_TAG:
            component = struct.unpack("<i", rest)[0]
            types._tags.setdefault(value, []).append((types.text(name), component))
        at += 12 + size
    return types


@dataclass(frozen=True, slots=True)
class Line:
    """Where an insn comes from in the program's source; the line counts from 1."""

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text.strip()}"


@dataclass(frozen=True, slots=True)
class Ext:
    """.BTF.ext: by section and byte offset, the type of the function that begins there, and the line of an insn."""

    functions: Mapping[tuple[str, int], int]
    lines: Mapping[tuple[str, int], Line]


def read_btf_ext(data: bytes, types: Types) -> Ext:
    """A .BTF.ext section. Raises BtfError."""
    start = _header(data, ".BTF.ext")
    func_at, func_size, line_at, line_size = struct.unpack_from("<IIII", data, 8)
    functions: dict[tuple[str, int], int] = {}
    lines: dict[tuple[str, int], Line] = {}
    for section, record in _records(_part(data, start, func_at, func_size, "functions"), types, 8):
        offset, number = struct.unpack_from("<II", record)
        functions[section, offset] = number
    for section, record in _records(_part(data, start, line_at, line_size, "lines"), types, 16):
        offset, file, text, where = struct.unpack_from("<IIII", record)
        lines[section, offset] = Line(types.text(file), where >> 10, where & 0x3FF, types.text(text))
    return Ext(functions, lines)


def _records(data: bytes, types: Types, least: int) -> Iterator[tuple[str, bytes]]:
    """(section, record) of every record."""
    if not data:
        return
    size = struct.unpack_from("<I", data.ljust(4, b"\0"))[0]
    if size < least or size > 4096:
        raise BtfError(f"expected records of {least} bytes or more, found {size}")
    at = 4
    while at < len(data):
        if at + 8 > len(data):
            raise BtfError("a section's records are cut off")
        name, count = struct.unpack_from("<II", data, at)
        at += 8
        if at + count * size > len(data):
            raise BtfError(f"expected {count} records, found {(len(data) - at) // size}")
        section = types.text(name)
        for _ in range(count):
            yield section, data[at : at + size]
            at += size
