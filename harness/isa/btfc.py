"""BTF as C: types in an order that a compiler takes, then variables and prototypes. Linux Documentation/bpf/btf.rst."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from harness.isa import btf
from harness.isa.btfread import MAX_DEPTH, BtfError, Type, Types
from harness.isa.ctypes import rounded_up

_QUALIFIERS: Final = {btf.CONST: "const", btf.VOLATILE: "volatile", btf.RESTRICT: "restrict"}
_KEYWORDS: Final = {btf.STRUCT: "struct", btf.UNION: "union", btf.ENUM: "enum", btf.ENUM64: "enum"}
_MODES: Final = {bytes_: f" __attribute__((mode({mode})))" for bytes_, mode in ((1, "QI"), (2, "HI"), (8, "DI"))}
_PACKED: Final = " __attribute__((packed))"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct: `at` in bits; `bits` is the width of a bit-field, 0 for any other."""

    name: str
    type: int
    at: int
    bits: int


@dataclass(slots=True)
class _Writer:
    """Writes the types of one section. What a type needs whole comes before it; behind a pointer a name is enough."""

    types: Types
    lines: list[str] = field(default_factory=list)
    state: dict[int, bool] = field(default_factory=dict)  # written, or (False) being written
    names: dict[tuple[str, str], int] = field(default_factory=dict)  # the type that has a keyword and name
    aligns: dict[int, int] = field(default_factory=dict)  # of structs and unions

    def run(self) -> list[str]:
        for number, found in enumerate(self.types.types):
            if found.kind in (btf.STRUCT, btf.UNION, btf.FWD) and found.name:
                keyword = ("union" if found.flag else "struct") if found.kind == btf.FWD else _KEYWORDS[found.kind]
                self._name(keyword, found.name, number)
        self.lines += [f"{keyword} {name};" for keyword, name in self.names]
        for number in range(1, len(self.types.types)):
            self._define(number, 0)
        self.lines += self._others()
        return self.lines

    def _name(self, keyword: str, name: str, number: int) -> None:
        known = self.names.setdefault((keyword, name), number)
        if known != number and self.types.at(known).kind == btf.FWD:
            self.names[keyword, name] = number

    # --- definitions

    def _define(self, number: int, depth: int) -> None:
        """Writes a named type, and before it what it needs. Raises BtfError where types hold each other."""
        if number == 0 or self.state.get(number):
            return
        if depth > MAX_DEPTH:
            raise BtfError(f"type {number}: types hold each other more than {MAX_DEPTH} deep")
        if number in self.state:
            raise BtfError(f"type {number} holds itself")
        found = self.types.at(number)
        self.state[number] = False
        for needed in self._needs(number, found):
            self._define(needed, depth + 1)
        self.state[number] = True
        if found.kind == btf.TYPEDEF:
            self.lines.append(f"typedef {self.declaration(found.value, found.name)};")
        elif found.kind in _KEYWORDS and found.name:
            keyword = _KEYWORDS[found.kind]
            if found.kind in (btf.STRUCT, btf.UNION) and self.names[keyword, found.name] != number:
                self.lines.append(f"/* {keyword} {found.name} again, as type {number}: left out */")
                return
            self.lines.append(f"{self._body(number, found)};")

    def _needs(self, number: int, found: Type) -> Iterator[int]:
        """What has to be written before a type; a struct behind a pointer needs no more than its name."""
        match found.kind:
            case btf.STRUCT | btf.UNION:
                yield from (member.type for member in self.members(number))
            case btf.ARRAY:
                yield found.array[0]
            case btf.PTR:
                target = found.value
                while target and self.types.at(target).kind in (btf.PTR, *_QUALIFIERS, btf.TYPE_TAG):
                    if target in self.state and not self.state[target]:
                        raise BtfError(f"type {target} points to itself")
                    target = self._next(target, number)
                if (
                    not target
                    or self.types.at(target).kind not in (btf.STRUCT, btf.UNION, btf.FWD)
                    or not self.types.at(target).name
                ):
                    yield target
            case btf.FUNC_PROTO:
                yield found.value
                yield from (kind for _, kind in found.params)
            case btf.TYPEDEF | btf.TYPE_TAG | btf.CONST | btf.VOLATILE | btf.RESTRICT:
                yield found.value
            case _:
                pass

    def _next(self, target: int, start: int) -> int:
        following = self.types.at(target).value
        if following == start:
            raise BtfError(f"type {start} points to itself")
        return following

    def members(self, number: int) -> list[Member]:
        """Of a struct or union."""
        found = self.types.at(number)
        rows: list[Member] = []
        for name, kind, offset in found.members:
            bits = offset >> 24 if found.flag else 0
            rows.append(Member(self.types.text(name), kind, offset & 0xFFFFFF if found.flag else offset, bits))
        return rows

    def _body(self, number: int, found: Type) -> str:
        head = f"{_KEYWORDS[found.kind]} {found.name}".rstrip()
        if found.kind in (btf.ENUM, btf.ENUM64):
            return f"{head} {{ {self._values(found)} }}{_MODES.get(found.value, '')}"
        lines, packed = self._layout(number, found)
        inner = "".join(f"\n{line}" for text in lines for line in _indented(text))
        return f"{head} {{{inner}\n}}{_PACKED if packed else ''}"

    def _values(self, found: Type) -> str:
        layout = "<Ii" if found.kind == btf.ENUM and found.flag else "<II" if found.kind == btf.ENUM else "<III"
        rows: list[str] = []
        for row in struct.iter_unpack(layout, found.rest):
            value = row[1] if found.kind == btf.ENUM else row[1] | row[2] << 32
            if found.kind == btf.ENUM64 and found.flag and value >> 63:
                value -= 1 << 64
            suffix = "LL" if found.kind == btf.ENUM64 and value < 0 else "ULL" if found.kind == btf.ENUM64 else ""
            shown = "(-0x7fffffffffffffffLL - 1)" if value == -(1 << 63) else f"{value}{suffix}"
            rows.append(f"{self.types.text(row[0])} = {shown}")
        return ", ".join(rows)

    def _layout(self, number: int, found: Type) -> tuple[list[str], bool]:
        """Members with what is needed between them so that each is where BTF has it; whether the struct is packed."""
        rows = self.members(number)
        aligns = [self.align(member.type, 0) for member in rows]
        widest = max((align for align, member in zip(aligns, rows, strict=True) if not member.bits), default=1)
        odd = any(not m.bits and m.at % (8 * align) for m, align in zip(rows, aligns, strict=True))
        packed = odd or found.value % widest != 0
        if found.kind == btf.UNION:
            return [f"{self._member(member)};" for member in rows], packed
        lines: list[str] = []
        at = 0
        for member, align in zip(rows, aligns, strict=True):
            reached = at if packed or member.bits else rounded_up(at, 8 * align)
            if reached > member.at:
                raise BtfError(f"type {number}: member {member.name or 'without a name'} overlaps the one before")
            lines += _gap(at, member.at, exact=reached != member.at)
            lines.append(f"{self._member(member)};")
            at = member.at + (member.bits or 8 * self.types.size(member.type))
        end = rounded_up(at, 8 * (1 if packed else widest))
        lines += _gap(at, 8 * found.value, exact=end != 8 * found.value)
        return lines, packed

    def _member(self, member: Member) -> str:
        text = self.declaration(member.type, member.name)
        return f"{text} : {member.bits}" if member.bits else text

    def align(self, number: int, depth: int) -> int:
        """Bytes that a type is naturally aligned to."""
        if depth > MAX_DEPTH:
            raise BtfError(f"type {number}: types hold each other more than {MAX_DEPTH} deep")
        number = self.types.resolved(number)
        found = self.types.at(number) if number else None
        if found is None:
            return 1
        if found.kind in (btf.STRUCT, btf.UNION):
            if number not in self.aligns:
                self.aligns[number] = self._struct_align(number, found, depth)
            return self.aligns[number]
        if found.kind == btf.ARRAY:
            return self.align(found.array[0], depth + 1)
        return max(1, min(16, self.types.size(number)))

    def _struct_align(self, number: int, found: Type, depth: int) -> int:
        rows = [(member, self.align(member.type, depth + 1)) for member in self.members(number)]
        widest = max((align for _, align in rows), default=1)
        odd = any(member.at % (8 * align) for member, align in rows if not member.bits)
        return 1 if odd or found.value % widest else widest

    # --- declarations

    def declaration(self, number: int, name: str, depth: int = 0) -> str:
        """`int (*name)[4]`: a type around a name. Raises BtfError."""
        if depth > MAX_DEPTH:
            raise BtfError(f"type {number}: types refer to each other more than {MAX_DEPTH} deep")
        if number == 0:
            return f"void {name}".rstrip()
        found = self.types.at(number)
        match found.kind:
            case btf.PTR:
                around = f"(*{name})" if self._is_postfix(found.value) else f"*{name}"
                return self.declaration(found.value, around, depth + 1)
            case btf.ARRAY:
                of, count = found.array
                return self.declaration(of, f"{name}[{count or ''}]", depth + 1)
            case btf.FUNC_PROTO:
                return self.declaration(found.value, f"{name}({self._params(found, depth)})", depth + 1)
            case btf.CONST | btf.VOLATILE | btf.RESTRICT:
                inner = self.types.at(found.value) if found.value else None
                if inner is not None and inner.kind == btf.PTR:
                    return self.declaration(found.value, f"{_QUALIFIERS[found.kind]} {name}".rstrip(), depth + 1)
                return f"{_QUALIFIERS[found.kind]} {self.declaration(found.value, name, depth + 1)}"
            case btf.TYPE_TAG:
                return self.declaration(found.value, name, depth + 1)
            case btf.INT | btf.FLOAT | btf.TYPEDEF:
                return f"{found.name} {name}".rstrip()
            case btf.FWD:
                return f"{'union' if found.flag else 'struct'} {found.name} {name}".rstrip()
            case btf.STRUCT | btf.UNION | btf.ENUM | btf.ENUM64:
                return f"{f'{_KEYWORDS[found.kind]} {found.name}' if found.name else self._body(number, found)} {name}".rstrip()
            case _:
                raise BtfError(f"type {number} (kind {found.kind}) cannot be declared")

    def _is_postfix(self, number: int) -> bool:
        for _ in range(MAX_DEPTH):
            if not number or self.types.at(number).kind not in (*_QUALIFIERS, btf.TYPE_TAG):
                break
            number = self.types.at(number).value
        return bool(number) and self.types.at(number).kind in (btf.ARRAY, btf.FUNC_PROTO)

    def _params(self, found: Type, depth: int) -> str:
        rows = [
            "..." if not name and not kind else self.declaration(kind, self.types.text(name), depth + 1)
            for name, kind in found.params
        ]
        return ", ".join(rows) or "void"

    # --- what is no type

    def _others(self) -> Iterator[str]:
        for number, found in enumerate(self.types.types):
            if found.kind == btf.VAR:
                linkage = struct.unpack("<I", found.rest)[0]
                yield f"{'static' if linkage == 0 else 'extern'} {self.declaration(found.value, found.name)};"
            elif found.kind == btf.FUNC:
                keyword = "static" if found.vlen == 0 else "extern" if found.vlen == btf.EXTERN else ""
                yield f"{keyword} {self.declaration(found.value, found.name)};".lstrip()
            elif found.kind == btf.DATASEC:
                rows = (self.types.at(number).name for number in found.variables)
                yield f"/* section {found.name}: {', '.join(rows)} */"
            elif found.kind == btf.DECL_TAG:
                (component,) = struct.unpack("<i", found.rest)
                whole = component < 0
                yield f'/* tag "{found.name}" on {self.types.at(found.value).name}{"" if whole else f", part {component}"} */'
            if number and found.kind == btf.FUNC and self.types.at(found.value).kind != btf.FUNC_PROTO:
                raise BtfError(f"function {found.name}: type {found.value} is no prototype")


def _gap(at: int, to: int, *, exact: bool) -> Iterator[str]:
    """Bits that nothing is in, where alignment alone does not make them."""
    if not exact or at >= to:
        return
    bits = min(to - at, -at % 8)
    if bits:
        yield f"unsigned char : {bits};"
    if (to - at - bits) // 8:
        yield f"unsigned char _at_{(at + bits) // 8}[{(to - at - bits) // 8}];"
    if rest := (to - at - bits) % 8:
        yield f"unsigned char : {rest};"


def _indented(text: str) -> Iterator[str]:
    return (f"\t{line}" for line in text.split("\n"))


def c_lines(types: Types) -> list[str]:
    """A section as C. Raises BtfError."""
    return [line for text in _Writer(types).run() for line in text.split("\n")]
