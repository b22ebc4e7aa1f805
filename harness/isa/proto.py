"""C prototypes as text: `u64 sum8(u64 a, u64 b)`; types with size, alignment and signedness."""

import re
from dataclasses import dataclass
from typing import Final, assert_never


@dataclass(frozen=True, slots=True)
class CInt:
    """An integer type; `size` and alignment in bytes. `bool` is an unsigned byte that holds 0 or 1."""

    name: str
    size: int
    signed: bool


@dataclass(frozen=True, slots=True)
class CVoid:
    """`void`: no result."""

    name: str = "void"


@dataclass(frozen=True, slots=True)
class CStruct:
    """`struct NAME` by value; its members are not known here."""

    name: str


@dataclass(frozen=True, slots=True)
class CPtr:
    """A pointer, 8 bytes. `ctx` is the tag `__arg_ctx`: it points to the program's context."""

    to: "CType"
    ctx: bool = False
    size: int = 8


CType = CInt | CVoid | CStruct | CPtr

_INTS: Final = {
    row.name: row
    for row in (
        CInt("u8", 1, False), CInt("s8", 1, True), CInt("bool", 1, False), CInt("char", 1, True),
        CInt("u16", 2, False), CInt("s16", 2, True), CInt("short", 2, True),
        CInt("u32", 4, False), CInt("s32", 4, True), CInt("int", 4, True),
        CInt("u64", 8, False), CInt("s64", 8, True), CInt("long", 8, True), CInt("size_t", 8, False),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter; `name` is never empty (`a1`, `a2`, ... where the text names none)."""

    name: str
    type: CType


@dataclass(frozen=True, slots=True)
class Proto:
    """A function prototype."""

    name: str
    result: CType
    params: tuple[Param, ...]
    is_global: bool = False  # written `global u64 f(...)`; without it a subprog is static

    def __str__(self) -> str:
        params = ", ".join(f"{type_text(p.type)}{'' if isinstance(p.type, CPtr) else ' '}{p.name}" for p in self.params)
        result = type_text(self.result)
        return f"{result}{'' if result.endswith('*') else ' '}{self.name}({params or 'void'})"


class ProtoError(ValueError):
    """A prototype that cannot be read; `column` is the 0-based place in its text."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(message)
        self.column = column
        self.message = message


def type_text(ctype: CType) -> str:
    """The type as C writes it."""
    match ctype:
        case CInt() | CVoid():
            return ctype.name
        case CStruct():
            return f"struct {ctype.name}"
        case CPtr():
            inner = type_text(ctype.to)
            return f"{inner}*" if inner.endswith("*") else f"{inner} *"
        case _:
            assert_never(ctype)


_TOKEN: Final = re.compile(r"\s*([A-Za-z_]\w*|[*(),]|\S)")
_NAME: Final = re.compile(r"[A-Za-z_]\w*\Z")
MAX_PARAMS: Final = 64  # of a text; how many a program may have is the verifier's question


class _Tokens:
    """The tokens of one prototype, with their columns."""

    def __init__(self, text: str) -> None:
        self.items = [(m.group(1), m.start(1)) for m in _TOKEN.finditer(text.rstrip())]
        self.end = len(text)
        self.at = 0

    def peek(self) -> str:
        return self.items[self.at][0] if self.at < len(self.items) else ""

    def column(self) -> int:
        return self.items[self.at][1] if self.at < len(self.items) else self.end

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def want(self, what: str) -> None:
        if self.peek() != what:
            raise ProtoError(self.column(), f"expected {what!r}, found {self.found()}")
        self.take()

    def found(self) -> str:
        return repr(self.peek()) if self.peek() else "the end"


def parse_proto(text: str) -> Proto:
    """A prototype from its text, e.g. `u64 f(u32 a, struct pair *p)`. Raises ProtoError."""
    tokens = _Tokens(text)
    is_global = tokens.peek() == "global"
    if tokens.peek() in ("global", "static"):
        tokens.take()
    result = _parse_type(tokens)
    name = _parse_name(tokens, "a function name")
    tokens.want("(")
    params = _parse_params(tokens)
    tokens.want(")")
    if tokens.peek():
        raise ProtoError(tokens.column(), f"expected the end, found {tokens.found()}")
    return Proto(name, result, params, is_global)


def _parse_name(tokens: _Tokens, what: str) -> str:
    if not _NAME.match(tokens.peek()):
        raise ProtoError(tokens.column(), f"expected {what}, found {tokens.found()}")
    return tokens.take()


def _parse_type(tokens: _Tokens) -> CType:
    while tokens.peek() == "const":
        tokens.take()
    base: CType
    if tokens.peek() == "void":
        tokens.take()
        base = CVoid()
    elif tokens.peek() == "struct":
        tokens.take()
        base = CStruct(_parse_name(tokens, "a struct name"))
    elif tokens.peek() in _INTS:
        base = _INTS[tokens.take()]
    else:
        known = ", ".join(_INTS)
        raise ProtoError(tokens.column(), f"expected a type (void, struct NAME, {known}), found {tokens.found()}")
    while tokens.peek() == "*":
        tokens.take()
        base = CPtr(base)
    return base


def _parse_params(tokens: _Tokens) -> tuple[Param, ...]:
    if tokens.peek() == ")":
        return ()
    params: list[Param] = []
    while True:
        column = tokens.column()
        ctype = _parse_type(tokens)
        if isinstance(ctype, CVoid):
            if params or tokens.peek() != ")":
                raise ProtoError(column, "a parameter cannot be void")
            return ()
        name = tokens.take() if _NAME.match(tokens.peek()) else f"a{len(params) + 1}"
        if tokens.peek() == "__arg_ctx":
            tokens.take()
            if not isinstance(ctype, CPtr):
                raise ProtoError(column, "__arg_ctx needs a pointer")
            ctype = CPtr(ctype.to, ctx=True)
        if any(p.name == name for p in params):
            raise ProtoError(column, f"there are two parameters {name!r}")
        params.append(Param(name, ctype))
        if len(params) > MAX_PARAMS:
            raise ProtoError(column, f"more than {MAX_PARAMS} parameters")
        if tokens.peek() != ",":
            return tuple(params)
        tokens.take()
