"""C declarations as people write them, to types. C11 6.7; GCC's attributes `packed`, `aligned` and `vector_size`."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from harness.isa import cnames
from harness.isa.cattributes import AttributeReader, Attributes
from harness.isa.cconst import Constants
from harness.isa.ctokens import MAX_DEPTH, ProtoError, Tokens
from harness.isa.ctypes import (
    ARM64,
    X86_64,
    CAligned,
    CArray,
    CFloat,
    CFunc,
    CInt,
    CPtr,
    CStruct,
    CType,
    CVector,
    CVoid,
    DataModel,
    IncompleteError,
    Member,
    Param,
    align_of,
    bare,
    size_of,
)

MAX_BYTES: Final = 1 << 40  # of one object
MAX_MEMBERS: Final = 4096  # of a struct, those of its members among them
MAX_PARAMS: Final = 64  # of a text; how many a program may have is the verifier's question
_MEASURES: Final = {"sizeof": size_of, "_Alignof": align_of, "alignof": align_of}
_TYPE_WORDS: Final = cnames.KEYWORD_WORDS | cnames.QUALIFIERS | {"struct", "union", "enum"}
_A_TYPE: Final = "a type (void, u8 to u64, int, long, bool, struct NAME, ...)"


@dataclass(frozen=True, slots=True)
class Specifiers:
    """What stands before a declarator. `attributes` belong to each thing that is declared."""

    type: CType
    attributes: Attributes
    storage: frozenset[str]


class Declarations:
    """Reads one text; tags, typedefs and enumerators are known from where they are declared."""

    def __init__(self, text: str) -> None:
        self.tokens = Tokens(text)
        self.columns: dict[str, int] = {}  # of each parameter's type, by its name
        self._tags: dict[str, CStruct | CInt] = {}
        self._typedefs = dict(cnames.TYPEDEFS)
        self._counts: dict[int, tuple[CStruct, int]] = {}  # members of each struct, by its identity
        self._constants = Constants(self.tokens, lambda word: self._measured(_MEASURES[word]))
        self.attributes = AttributeReader(self.tokens, self._constants, self._alignment)

    # --- specifiers

    def specifiers(self, *, of_function: bool = False) -> Specifiers:
        """A type, with what may stand around it; storage classes only where a function may follow. Raises ProtoError."""
        tokens, attributes, storage = self.tokens, Attributes(), set[str]()
        column, words, base = tokens.column(), list[str](), None
        while True:
            token = tokens.peek()
            if token in cnames.QUALIFIERS or self.attributes.read(attributes):
                tokens.accept(*cnames.QUALIFIERS)
            elif of_function and base is None and not words and token in cnames.STORAGE:
                storage.add(tokens.take())
            elif base is None and token in cnames.KEYWORD_WORDS:
                words.append(tokens.take())
            elif base is None and not words and (found := self._named_type()) is not None:
                base = found
            else:
                break
        if words:
            base = cnames.KEYWORDS.get(tuple(sorted(words)))
            if base is None:
                raise ProtoError(column, f"expected a type, found {' '.join(words)!r}")
        if base is None:
            raise tokens.unexpected(_A_TYPE)
        base, attributes.vector = self._vector(base, attributes.vector, column), 0
        return Specifiers(base, attributes, frozenset(storage))

    def _named_type(self) -> CType | None:
        token = self.tokens.peek()
        if token in ("struct", "union"):
            return self._struct()
        if token == "enum":
            return self._enum()
        if token in self._typedefs:
            return self._typedefs[self.tokens.take()]
        return None

    def _is_type(self, token: str) -> bool:
        return token in self._typedefs or token in _TYPE_WORDS

    def _vector(self, ctype: CType, size: int, column: int) -> CType:
        if not size:
            return ctype
        if isinstance(ctype, CArray):
            return replace(ctype, of=self._vector(ctype.of, size, column))
        if not isinstance(ctype, CInt | CFloat) or ctype.name == "bool":
            raise ProtoError(column, "vector_size needs an integer or a floating type")
        if size % ctype.size or size & (size - 1):
            raise ProtoError(
                column, f"expected a vector_size that is a power of 2 and holds {ctype.name}s, found {size}"
            )
        return CVector(ctype, size)

    # --- structs, unions, enums

    def _struct(self) -> CStruct:
        tokens, attributes = self.tokens, Attributes()
        keyword = tokens.take()
        is_union = keyword == "union"
        self.attributes.read_all(attributes)
        column = tokens.column()
        tag = tokens.take() if tokens.is_name() else ""
        known = self._struct_tagged(tag, keyword, column)
        if not tokens.accept("{"):
            if not tag:
                raise tokens.unexpected(f"the name of a {keyword}, or '{{'")
            return known or CStruct(tag, union=is_union)
        if known is not None:
            raise ProtoError(column, f"{keyword} {tag} is defined twice")
        tokens.enter()
        members = tuple(self._members(is_union=is_union))
        tokens.leave()
        self.attributes.read_all(attributes)
        struct = CStruct(tag, members, is_union, attributes.packed, attributes.aligned)
        self._count(struct, column)
        self._size(struct, column)
        if tag:
            self._tags[tag] = struct
        return struct

    def _count(self, struct: CStruct, column: int) -> None:
        """A struct in two members of another counts twice, so that short texts cannot make what takes hours to look at."""
        count = sum(self._counted(member.type) for member in struct.members or ())
        if count > MAX_MEMBERS:
            text = f"{struct.keyword} {struct.name}".strip()
            raise ProtoError(column, f"{text} has more than {MAX_MEMBERS} members, those of its members among them")
        self._counts[id(struct)] = struct, count

    def _counted(self, ctype: CType) -> int:
        while isinstance(ctype, CAligned | CArray):
            ctype = ctype.of
        return self._counts[id(ctype)][1] if id(ctype) in self._counts else 1

    def _struct_tagged(self, tag: str, keyword: str, column: int) -> CStruct | None:
        known = self._tags.get(tag)
        if known is None or (isinstance(known, CStruct) and known.keyword == keyword):
            return known
        raise ProtoError(column, f"{tag} is {'an enum' if isinstance(known, CInt) else f'a {known.keyword}'}")

    def _members(self, *, is_union: bool) -> list[Member]:
        tokens, members = self.tokens, list[Member]()
        while not tokens.accept("}"):
            column, specifiers = tokens.column(), self.specifiers()
            if members and isinstance(members[-1].type, CArray) and members[-1].type.count is None:
                raise ProtoError(column, f"{members[-1].name}, an array without a length, must be the last member")
            if tokens.peek() == ";" and isinstance(specifiers.type, CStruct) and not specifiers.type.name:
                members.append(self._member_of("", specifiers.type, specifiers.attributes, column))
            else:
                members += self._declared_members(specifiers)
            tokens.want(";")
            if is_union and isinstance(members[-1].type, CArray) and members[-1].type.count is None:
                raise ProtoError(column, "an array without a length cannot be in a union")
        names = Counter(member.name for member in members if member.name)
        if twice := next((name for name, count in names.items() if count > 1), None):
            raise ProtoError(tokens.column() - 1, f"there are two members {twice!r}")
        return members

    def _declared_members(self, specifiers: Specifiers) -> list[Member]:
        tokens, found = self.tokens, list[Member]()
        while True:
            column, attributes = tokens.column(), replace(specifiers.attributes)
            name, ctype = "", specifiers.type
            if tokens.peek() != ":":
                name, ctype = self.declarator(ctype, "the name of a member")
            bits = self._width(name, ctype) if tokens.accept(":") else None
            self.attributes.read_all(attributes)
            ctype = self._vector(ctype, attributes.vector, column)
            found.append(self._member_of(name, ctype, attributes, column, bits))
            if not tokens.accept(","):
                return found

    def _member_of(
        self, name: str, ctype: CType, attributes: Attributes, column: int, bits: int | None = None
    ) -> Member:
        self._size(ctype, column)
        return Member(name, ctype, attributes.aligned, attributes.packed, bits)

    def _width(self, name: str, ctype: CType) -> int:
        column, integer = self.tokens.column(), bare(ctype)
        width = self._constants.value()
        most = 1 if integer == CInt("bool", 1, False) else integer.size * 8 if isinstance(integer, CInt) else 0
        if not isinstance(integer, CInt) or not (0 if not name else 1) <= width <= most:
            raise ProtoError(column, f"expected a bit-field of an integer type, within its {most} bits, found {width}")
        return width

    def _enum(self) -> CInt:
        """AAPCS64, "Enumerated types"; psABI figure 3.1: 4 bytes, unless a value does not fit."""
        tokens, attributes = self.tokens, Attributes()
        tokens.take()
        self.attributes.read_all(attributes)
        column = tokens.column()
        tag = tokens.take() if tokens.is_name() else ""
        known = self._tags.get(tag)
        if isinstance(known, CStruct):
            raise ProtoError(column, f"{tag} is a {known.keyword}")
        if not tokens.accept("{"):
            if not tag:
                raise tokens.unexpected("the name of an enum, or '{'")
            return known or CInt(f"enum {tag}", 4, False)
        if known is not None:
            raise ProtoError(column, f"enum {tag} is defined twice")
        values = self._enumerators()
        self.attributes.read_all(attributes)
        low, high = min(values, default=0), max(values, default=0)
        signed = low < 0
        bits = max(high.bit_length(), (~low).bit_length() if signed else 0) + signed
        size = next((size for size in (1, 2, 4, 8) if (size >= 4 or attributes.packed) and bits <= size * 8), 0)
        if not size:
            raise ProtoError(column, "expected enumerators that fit 64 bits")
        found = CInt(f"enum {tag}".strip(), size, signed)
        if tag:
            self._tags[tag] = found
        return found

    def _enumerators(self) -> list[int]:
        tokens, values = self.tokens, list[int]()
        while not tokens.accept("}"):
            name = tokens.name("an enumerator")
            values.append(self._constants.value() if tokens.accept("=") else values[-1] + 1 if values else 0)
            self._constants.names[name] = values[-1]
            if not tokens.accept(",") and tokens.peek() != "}":
                raise tokens.unexpected("',' or '}'")
        return values

    def _size(self, ctype: CType, column: int) -> None:
        """What is an object needs a size. Raises ProtoError."""
        try:
            if size_of(ctype, ARM64) > MAX_BYTES:
                raise ProtoError(column, f"an object of more than {MAX_BYTES} bytes")
        except IncompleteError as error:
            raise ProtoError(column, str(error)) from error

    def _element(self, ctype: CType, column: int) -> None:
        """An element of an array, whose size is a multiple of its alignment. Raises ProtoError."""
        self._size(ctype, column)
        size, align = size_of(ctype, ARM64), align_of(ctype, ARM64)
        if size % align:
            raise ProtoError(
                column, f"expected elements with a size that is a multiple of their alignment, found {size} and {align}"
            )

    # --- declarators

    def declarator(self, base: CType, what: str | None) -> tuple[str, CType]:
        """A name, which may be missing where `what` is None, and its type. Raises ProtoError."""
        tokens = self.tokens
        tokens.enter()
        column = tokens.column()
        while tokens.accept("*"):
            base = CPtr(base)
            while tokens.accept(*cnames.QUALIFIERS):
                pass
        if _pointers(base) > MAX_DEPTH:
            raise ProtoError(column, f"pointers to pointers more than {MAX_DEPTH} deep")
        if tokens.peek() == "(" and not (tokens.peek(1) in (")", "...") or self._is_type(tokens.peek(1))):
            start = tokens.at + 1
            tokens.skip_parentheses()
            base = self._suffixes(base)
            end, tokens.at = tokens.at, start
            name, base = self.declarator(base, what)
            tokens.want(")")
            tokens.at = end
        else:
            name = tokens.name(what) if what else tokens.take() if tokens.is_name() else ""
            base = self._suffixes(base)
        tokens.leave()
        return name, base

    def _suffixes(self, base: CType) -> CType:
        tokens, column = self.tokens, self.tokens.column()
        tokens.enter()
        if tokens.accept("["):
            count = None if tokens.peek() == "]" else self._constants.value()
            tokens.want("]")
            base = self._suffixes(base)
            if isinstance(base, CFunc | CVoid) or (isinstance(base, CArray) and base.count is None):
                raise ProtoError(column, "expected elements with a size")
            if count is not None and not 0 <= count <= MAX_BYTES:
                raise ProtoError(column, f"expected 0 to {MAX_BYTES} elements, found {count}")
            self._element(base, column)
            base = CArray(base, count)
        elif tokens.accept("("):
            if isinstance(base, CArray | CFunc):
                raise ProtoError(column, "a function cannot return an array or a function")
            base = self._function(base)
            if tokens.peek() in ("(", "["):
                raise ProtoError(tokens.column(), "a function cannot return an array or a function")
        tokens.leave()
        return base

    def _function(self, result: CType) -> CFunc:
        """Parameters up to the `)`; after `...` those of one call. C11 6.5.2.2: promoted by default."""
        tokens = self.tokens
        params, anonymous, variadic = list[Param](), list[Param](), False
        if tokens.peek() == "void" and tokens.peek(1) == ")":
            tokens.take()
        while tokens.peek() != ")":
            column, count = tokens.column(), len(params) + len(anonymous)
            if not variadic and tokens.accept("..."):
                variadic = True
            else:
                param = self._parameter(count + 1)
                if any(param.name == other.name for other in (*params, *anonymous)):
                    raise ProtoError(column, f"there are two parameters {param.name!r}")
                if count >= MAX_PARAMS:
                    raise ProtoError(column, f"more than {MAX_PARAMS} parameters")
                (anonymous if variadic else params).append(param)
            if not tokens.accept(","):
                break
            if tokens.peek() == ")":
                raise tokens.unexpected("a parameter")
        if not tokens.accept(")"):
            raise tokens.unexpected("',' or ')'")
        promoted = [Param(param.name, promote(param.type)) for param in anonymous]
        return CFunc(result, tuple(params), variadic, tuple(promoted))

    def _parameter(self, number: int) -> Param:
        column = self.tokens.column()
        specifiers = self.specifiers()
        name, ctype = self.declarator(specifiers.type, None)
        attributes = specifiers.attributes
        self.attributes.read_all(attributes)
        ctype = self._vector(ctype, attributes.vector, column)
        if attributes.aligned or attributes.packed:
            raise ProtoError(column, "aligned and packed belong to a type or a member, not to a parameter")
        if isinstance(ctype, CArray):
            ctype = CPtr(ctype.of)
        elif isinstance(ctype, CFunc):
            ctype = CPtr(ctype)
        if isinstance(bare(ctype), CVoid):
            raise ProtoError(column, "a parameter cannot be void")
        if attributes.ctx:
            if not isinstance(ctype, CPtr):
                raise ProtoError(column, "__arg_ctx needs a pointer")
            ctype = CPtr(ctype.to, ctx=True)
        name = name or f"a{number}"
        self.columns[name] = column
        return Param(name, ctype)

    def typedef(self, specifiers: Specifiers) -> None:
        """The declarators of a `typedef`, up to the `;`. Raises ProtoError."""
        tokens = self.tokens
        while True:
            column, attributes = tokens.column(), replace(specifiers.attributes)
            name, ctype = self.declarator(specifiers.type, "the name of a typedef")
            self.attributes.read_all(attributes)
            ctype = self._vector(ctype, attributes.vector, column)
            if attributes.packed:
                raise ProtoError(column, "packed belongs to a struct or a member, not to a typedef")
            self._typedefs[name] = CAligned(name, ctype, attributes.aligned) if attributes.aligned else ctype
            if not tokens.accept(","):
                break
        tokens.want(";")

    # --- what types measure

    def _alignment(self) -> int | None:
        return self._measured(align_of) if self._is_type(self.tokens.peek()) else None

    def _measured(self, measure: Callable[[CType, DataModel], int]) -> int:
        """The size or alignment of a type that stands here."""
        column = self.tokens.column()
        _, ctype = self.declarator(self.specifiers().type, None)
        try:
            value, other = measure(ctype, ARM64), measure(ctype, X86_64)
        except IncompleteError as error:
            raise ProtoError(column, str(error)) from error
        if value != other:
            raise ProtoError(column, f"this is {value} on arm64 and {other} on x86-64")
        return value


def promote(ctype: CType) -> CType:
    """The default argument promotions."""
    passed = bare(ctype)
    if isinstance(passed, CInt) and passed.size < cnames.INT.size:
        return cnames.INT
    return cnames.DOUBLE if passed == CFloat("float", 4) else ctype


def _pointers(ctype: CType) -> int:
    """How many there are before something else."""
    count = 0
    while isinstance(ctype, CPtr):
        ctype, count = ctype.to, count + 1
    return count
