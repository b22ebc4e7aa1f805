"""Attributes that lay types out: `packed`, `aligned`, `vector_size`, `_Alignas`, the kernel's `__packed` and `__aligned`.

GCC manual, "Common Type Attributes" and "Common Variable Attributes"; C11 6.7.5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from harness.isa.cconst import Constants
from harness.isa.cnames import HARMLESS
from harness.isa.ctokens import ProtoError, Tokens

BIGGEST_ALIGNMENT: Final = 16  # of `aligned` without a number, on both architectures
MAX_ALIGNMENT: Final = 1 << 28
_WORDS: Final = frozenset(["__attribute__", "__attribute", "__packed", "__aligned", "__arg_ctx", "_Alignas", "alignas"])


@dataclass(slots=True)
class Attributes:
    """What attributes say of one thing; 0 is nothing."""

    packed: bool = False
    aligned: int = 0
    vector: int = 0
    ctx: bool = False


class AttributeReader:
    """Reads attributes where they stand; `alignment` gives that of a type which stands there, None where none does."""

    def __init__(self, tokens: Tokens, constants: Constants, alignment: Callable[[], int | None]) -> None:
        self._tokens, self._constants, self._alignment = tokens, constants, alignment

    def read(self, into: Attributes) -> bool:
        """One attribute, if one stands here. Raises ProtoError."""
        tokens = self._tokens
        if tokens.peek() not in _WORDS:
            return False
        if tokens.accept("__attribute__", "__attribute"):
            tokens.want("(")
            tokens.want("(")
            while tokens.peek() != ")":
                self._gnu(into)
                if not tokens.accept(","):
                    break
            tokens.want(")")
            tokens.want(")")
        elif tokens.accept("__packed"):
            into.packed = True
        elif tokens.accept("__arg_ctx"):
            into.ctx = True
        elif tokens.accept("_Alignas", "alignas"):
            self._aligned(into, is_alignas=True)
        else:
            tokens.want("__aligned")
            self._aligned(into)
        return True

    def read_all(self, into: Attributes) -> None:
        """All that stand here. Raises ProtoError."""
        while self.read(into):
            pass

    def _gnu(self, into: Attributes) -> None:
        tokens, column = self._tokens, self._tokens.column()
        name = tokens.name("the name of an attribute").strip("_")
        if name == "packed":
            into.packed = True
        elif name == "aligned" and tokens.peek() != "(":
            into.aligned = max(into.aligned, BIGGEST_ALIGNMENT)
        elif name == "aligned":
            self._aligned(into)
        elif name == "vector_size":
            tokens.want("(")
            into.vector = self._constants.value()
            tokens.want(")")
        elif name not in HARMLESS:
            raise ProtoError(
                column, f"expected packed, aligned, vector_size, or what changes no layout, found {name!r}"
            )
        elif tokens.peek() == "(":
            tokens.skip_parentheses()

    def _aligned(self, into: Attributes, *, is_alignas: bool = False) -> None:
        """`(n)`; `_Alignas` also takes a type, and 0 for nothing."""
        tokens = self._tokens
        tokens.want("(")
        column = tokens.column()
        value = self._alignment() if is_alignas else None
        if value is None:
            value = self._constants.value()
        tokens.want(")")
        if not (is_alignas and value == 0) and (value & (value - 1) or not 0 < value <= MAX_ALIGNMENT):
            raise ProtoError(column, f"expected a power of 2 as alignment, found {value}")
        into.aligned = max(into.aligned, value)
