"""The tokens of C declarations, and what they are called where they cannot be used."""

import re
from typing import Final

_TOKEN: Final = re.compile(
    r"(?:\s|/\*.*?\*/|//[^\n]*)*(?:([A-Za-z_]\w*|\d\w*|\.\.\.|<<|>>|[^\s])|\Z)",
    re.DOTALL,
)
_NAME: Final = re.compile(r"[A-Za-z_]\w*\Z")
_NUMBER: Final = re.compile(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9]\d*)[uUlL]*\Z")
MAX_DEPTH: Final = 64  # of declarators, structs and expressions inside each other


class ProtoError(ValueError):
    """A prototype that cannot be read; `column` is the 0-based place in its text."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(message)
        self.column = column
        self.message = message


class Tokens:
    """The tokens of one text, with their columns."""

    def __init__(self, text: str) -> None:
        self._items = [(m.group(1), m.start(1)) for m in _TOKEN.finditer(text) if m.group(1)]
        self._items += [("", len(text))] * 2  # so that there is always a next one, and one after it
        self.at = 0
        self._depth = 0

    def peek(self, ahead: int = 0) -> str:
        """The next token, or with 1 the one after it; empty at the end."""
        return self._items[self.at + ahead][0]

    def column(self) -> int:
        """Where the next token stands."""
        return self._items[self.at][1]

    def take(self) -> str:
        """The next token, which is passed."""
        token = self._items[self.at][0]
        self.at += token != ""
        return token

    def accept(self, *what: str) -> bool:
        """Passes the next token if it is one of these."""
        if self._items[self.at][0] in what:
            self.at += 1
            return True
        return False

    def want(self, what: str) -> None:
        """Passes a token that has to be there. Raises ProtoError."""
        if not self.accept(what):
            raise self.unexpected(repr(what))

    def unexpected(self, wanted: str) -> ProtoError:
        """The next token is not what was expected."""
        return ProtoError(self.column(), f"expected {wanted}, found {repr(self.peek()) if self.peek() else 'the end'}")

    def is_name(self) -> bool:
        """Whether the next token is an identifier."""
        return bool(_NAME.match(self.peek()))

    def name(self, what: str) -> str:
        """An identifier. Raises ProtoError."""
        if not self.is_name():
            raise self.unexpected(what)
        return self.take()

    def number(self, what: str) -> int:
        """An integer constant as C writes it. Raises ProtoError."""
        found = _NUMBER.match(self.peek())
        if not found:
            raise self.unexpected(what)
        self.take()
        digits = found.group(1)
        octal = digits.startswith("0") and digits.isdigit() and len(digits) > 1
        return int(digits, 8 if octal else 0)

    def enter(self) -> None:
        """One level deeper. Raises ProtoError."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ProtoError(self.column(), f"nested more than {MAX_DEPTH} deep")

    def leave(self) -> None:
        """One level back."""
        self._depth -= 1

    def skip_parentheses(self) -> None:
        """Passes `( ... )` as a whole. Raises ProtoError."""
        start, depth = self.column(), 0
        while True:
            token = self.take()
            depth += (token == "(") - (token == ")")
            if depth == 0:
                return
            if not token:
                raise ProtoError(start, "this '(' is not closed")
