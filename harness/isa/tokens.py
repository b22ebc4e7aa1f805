"""The tokens of one line of assembly, and errors that name their place."""

import re
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""\s*(?:
      (?P<num>-?0[xX][0-9a-fA-F]+\b|-?[0-9]+\b)
    | (?P<word>\.?[A-Za-z_][\w.$@]*)
    | (?P<sym>s>>=|<<=|>>=|s>=|s<=|[-+*/|&^%]=|[<>=!]=|[-+*/|&^%<>=():,\[\]])
    | (?P<bad>\S)
    )""",
    re.VERBOSE,
)
COMMENT: Final = re.compile(r"#|//|;")
REG: Final = re.compile(r"([rw])([0-9]|1[0-5])\Z")
SIGNED_SYM: Final = {">": "s>", ">=": "s>=", "<": "s<", "<=": "s<=", ">>=": "s>>=", "/=": "s/=", "%=": "s%="}


class AsmError(ValueError):
    """Text that is not an insn. `line` and `column` are 0-based, within the text of `subprog`."""

    def __init__(self, subprog: str, line: int, column: int, message: str) -> None:
        super().__init__(f"{subprog}, line {line + 1}, column {column + 1}: {message}")
        self.subprog, self.line, self.column, self.message = subprog, line, column, message


class Line:
    """The tokens of one statement: (kind, text, column)."""

    def __init__(self, text: str, fail: "Fail") -> None:
        self.end = len(text.rstrip())
        # Up to there, because spaces that no token follows are searched again from each of them.
        found = _TOKEN.finditer(text, 0, self.end)
        self.tokens = [(m.lastgroup or "", m.group(m.lastgroup or 0), m.start(m.lastgroup or 0)) for m in found]
        self.at = 0
        self.fail = fail

    def peek(self, ahead: int = 0) -> str:
        """The token `ahead` of this one, or nothing."""
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def kind(self) -> str:
        """`num`, `word`, `sym` or `bad`."""
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def column(self) -> int:
        """0-based."""
        return self.tokens[self.at][2] if self.at < len(self.tokens) else self.end

    def take(self) -> str:
        """The token at hand; goes on to the next."""
        token = self.peek()
        self.at += 1
        return token

    def found(self) -> str:
        """The token at hand, as messages name it."""
        return repr(self.peek()) if self.peek() else "the end of the line"

    def expected(self, what: str) -> AsmError:
        """The error that something else was expected here."""
        return self.fail(self.column(), f"expected {what}, found {self.found()}")

    def want(self, what: str) -> None:
        """Takes a token that must be there."""
        if self.peek() != what:
            raise self.expected(repr(what))
        self.take()

    def reg(self) -> tuple[int, int]:
        """A register as (number, bits)."""
        match = REG.match(self.peek())
        if not match:
            raise self.expected("a register (r0-r11, w0-w10)")
        self.take()
        return int(match.group(2)), 64 if match.group(1) == "r" else 32

    def number(self, low: int, high: int, what: str, signs: tuple[str, ...] = ("+", "-")) -> int:
        """A constant in [low, high]; one sign as a token of its own belongs to it."""
        column, sign = self.column(), ""
        if self.peek() in signs:
            sign = self.take()
        if self.kind() != "num" or (sign and self.peek().startswith("-")):
            raise self.expected(what)
        try:
            value = int(self.take(), 0) * (-1 if sign == "-" else 1)
        except ValueError:  # it begins with 0, which is octal elsewhere, or has thousands of digits
            raise self.fail(column, f"{what} is a decimal without a leading 0, or 0x...") from None
        if not low <= value <= high:
            raise self.fail(column, f"{what} {value:#x} does not fit: {low:#x} to {high:#x}")
        return value

    def done(self) -> None:
        """Raises where something is left."""
        if self.peek():
            raise self.expected("the end of the line")


@dataclass(frozen=True, slots=True)
class Fail:
    """Makes an AsmError at one line of one subprog."""

    subprog: str
    line: int
    shift: int = 0  # columns before the statement

    def __call__(self, column: int, message: str) -> AsmError:
        """The error at a column of the statement."""
        return AsmError(self.subprog, self.line, column + self.shift, message)
