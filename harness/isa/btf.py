"""BTF, the type information of BPF programs: written here. Linux Documentation/bpf/btf.rst."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from harness.isa.ctypes import (
    X86_64,
    CAligned,
    CArray,
    CComplex,
    CFloat,
    CFunc,
    CInt,
    CPtr,
    CStruct,
    CType,
    CVector,
    CVoid,
    DataModel,
    Param,
    struct_layout,
    type_text,
)  # fmt: skip
from harness.isa.proto import Proto

MAGIC: Final = 0xEB9F
INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = 12, 13, 14, 15, 16, 17, 18, 19
STATIC, GLOBAL, EXTERN = 0, 1, 2  # linkage of a FUNC
_SIGNED: Final = 1
_KIND_FLAG: Final = 1 << 31


@dataclass(slots=True)
class Btf:
    """Types as they are added; the same type is added once. `first_id` and `first_string` are those of split BTF."""

    first_id: int = 1
    first_string: int = 0
    model: DataModel = X86_64
    _types: bytearray = field(default_factory=bytearray)
    _strings: bytearray = field(default_factory=bytearray)
    _offsets: dict[str, int] = field(default_factory=dict)
    _known: dict[CType, int] = field(default_factory=dict)
    _next: int = 0

    def __post_init__(self) -> None:
        self._next = self.first_id
        if not self.first_string:
            self._strings += b"\0"

    def string(self, text: str) -> int:
        """The offset of a string; the empty one is at 0."""
        if not text:
            return 0
        if text not in self._offsets:
            self._offsets[text] = self.first_string + len(self._strings)
            self._strings += text.encode() + b"\0"
        return self._offsets[text]

    def add(self, kind: int, name: str, size_or_type: int, rest: bytes = b"", vlen: int = 0) -> int:
        """One type; gives its id."""
        self._types += struct.pack("<III", self.string(name), kind << 24 | vlen, size_or_type) + rest
        self._next += 1
        return self._next - 1

    def type_id(self, ctype: CType) -> int:
        """The id of a C type; 0 is void. A struct whose members are not known has two u64.

        Raises ValueError for vectors and complex types, which BTF does not know.
        """
        if ctype not in self._known:
            self._known[ctype] = self._add_type(ctype)
        return self._known[ctype]

    def _add_type(self, ctype: CType) -> int:
        match ctype:
            case CInt(name, size, signed):
                return self.add(INT, name, size, struct.pack("<I", (_SIGNED if signed else 0) << 24 | size * 8))
            case CVoid():
                return 0
            case CPtr(to):
                return self.add(PTR, "", self.type_id(to))
            case CFloat(name, size):
                return self.add(FLOAT, name, size)
            case CArray(of, count):
                index = self.type_id(CInt("unsigned int", 4, False))
                return self.add(ARRAY, "", 0, struct.pack("<III", self.type_id(of), index, count or 0))
            case CAligned(name, of):
                return self.add(TYPEDEF, name, self.type_id(of))
            case CFunc(result, params, variadic):
                return self._func_proto(result, params, variadic=variadic)
            case CStruct(members=tuple()):
                return self._add_struct(ctype)
            case CStruct(name):
                u64 = self.type_id(CInt("u64", 8, False))
                rows = [(self.string(member), u64, 64 * at) for at, member in enumerate("ab")]
                return self.add(STRUCT, name, 16, b"".join(struct.pack("<III", *row) for row in rows), vlen=2)
            case CVector() | CComplex():
                raise ValueError(f"BTF has no kind for {type_text(ctype)}")
            case _:
                assert_never(ctype)

    def _add_struct(self, ctype: CStruct) -> int:
        layout = struct_layout(ctype, self.model)
        has_bits = any(placed.member.bits is not None for placed in layout.fields)
        rows: list[bytes] = []
        for placed in layout.fields:
            at = placed.at_bit | (placed.member.bits or 0) << 24 if has_bits else placed.at_bit
            rows.append(struct.pack("<III", self.string(placed.member.name), self.type_id(placed.member.type), at))
        vlen = len(rows) | (_KIND_FLAG if has_bits else 0)
        return self.add(UNION if ctype.union else STRUCT, ctype.name, layout.size, b"".join(rows), vlen=vlen)

    def _func_proto(self, result: CType, params: Sequence[Param], *, variadic: bool) -> int:
        """A variadic one ends with a parameter that has neither name nor type."""
        rows = [(self.string(param.name), self.type_id(param.type)) for param in params] + [(0, 0)] * variadic
        rest = b"".join(struct.pack("<II", *row) for row in rows)
        return self.add(FUNC_PROTO, "", self.type_id(result), rest, vlen=len(rows))

    def func(self, proto: Proto, linkage: int, name: str | None = None) -> int:
        """A function with its prototype; `__arg_ctx` becomes the tag that Linux reads."""
        shape = self._func_proto(proto.result, proto.params, variadic=proto.variadic)
        func = self.add(FUNC, name or proto.name, shape, vlen=linkage)
        for index, param in enumerate(proto.params):
            if isinstance(param.type, CPtr) and param.type.ctx:
                self.decl_tag("arg:ctx", func, index)
        return func

    def decl_tag(self, text: str, target: int, component: int = -1) -> int:
        """A tag on a type, or on its `component`-th member or parameter."""
        return self.add(DECL_TAG, text, target, struct.pack("<i", component))

    def blob(self) -> bytes:
        """The whole section: header, types, strings."""
        sizes = (0, len(self._types), len(self._types), len(self._strings))
        return struct.pack("<HBBIIIII", MAGIC, 1, 0, 24, *sizes) + bytes(self._types + self._strings)


def func_info(rows: Sequence[tuple[int, int]]) -> bytes:
    """Struct bpf_func_info: (insn, type id) of each function."""
    return b"".join(struct.pack("<II", *row) for row in rows)


def line_info(rows: Sequence[tuple[int, int, int, int]]) -> bytes:
    """Struct bpf_line_info: (insn, string of the file, string of the line, line number) of each line."""
    return b"".join(struct.pack("<IIII", insn, file, text, line << 10) for insn, file, text, line in rows)
