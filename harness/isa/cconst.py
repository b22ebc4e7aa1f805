"""Integer constant expressions of C: C11 6.6. Values are exact, and refused where they need more than 64 bits."""

import operator
from collections.abc import Callable
from typing import Final

from harness.isa.ctokens import ProtoError, Tokens

_PRECEDENCE: Final = {"|": 1, "^": 2, "&": 3, "<<": 4, ">>": 4, "+": 5, "-": 5, "*": 6, "/": 6, "%": 6}
_UNARY: Final = 7
_OPERATIONS: Final[dict[str, Callable[[int, int], int]]] = {
    "|": operator.or_, "^": operator.xor, "&": operator.and_, "<<": operator.lshift, ">>": operator.rshift,
    "+": operator.add, "-": operator.sub, "*": operator.mul,
}  # fmt: skip


class Constants:
    """`names` are the enumerators that are known; `measure` reads what stands after `sizeof` or `_Alignof`."""

    def __init__(self, tokens: Tokens, measure: Callable[[str], int]) -> None:
        self.names: dict[str, int] = {}
        self._tokens, self._measure = tokens, measure

    def value(self, level: int = 1) -> int:
        """An expression of operators that bind at least as `level`. Raises ProtoError."""
        tokens = self._tokens
        tokens.enter()
        value = self._operand()
        while (precedence := _PRECEDENCE.get(tokens.peek(), 0)) >= level:
            column, sign = tokens.column(), tokens.take()
            value = _applied(sign, value, self.value(precedence + 1), column)
        tokens.leave()
        return value

    def _operand(self) -> int:
        tokens = self._tokens
        if tokens.accept("-"):
            return -self.value(_UNARY)
        if tokens.accept("+"):
            return self.value(_UNARY)
        if tokens.accept("~"):
            return ~self.value(_UNARY)
        if tokens.accept("("):
            value = self.value()
            tokens.want(")")
            return value
        if tokens.peek() in self.names:
            return self.names[tokens.take()]
        if tokens.peek() in ("sizeof", "_Alignof", "alignof"):
            word = tokens.take()
            tokens.want("(")
            value = self._measure(word)
            tokens.want(")")
            return value
        return tokens.number("a number")


def _applied(sign: str, left: int, right: int, column: int) -> int:
    if (sign in "/%" and right == 0) or (sign in ("<<", ">>") and not 0 <= right < 64):
        raise ProtoError(column, f"{left} {sign} {right} has no value")
    if sign in "/%":  # C rounds to zero
        quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
        return quotient if sign == "/" else left - right * quotient
    value = _OPERATIONS[sign](left, right)
    if abs(value) >= 1 << 64:
        raise ProtoError(column, "a constant of more than 64 bits")
    return value
