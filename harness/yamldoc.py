"""YAML text to plain data and the place of every key and value; refuses what YAML's versions read differently."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32
MAX_NODES: Final = 50_000  # keys and values of a file

Scalar = str | int | bool | None
Data = Scalar | list["Data"] | dict[str, "Data"]
Path = tuple[str | int, ...]


class CaseError(Exception):
    """A case file that cannot be used, and where; `line` and `column` are 1-based."""

    def __init__(self, file: str, line: int, column: int, message: str) -> None:
        super().__init__(file, line, column, message)
        self.file, self.line, self.column, self.message = file, line, column, message

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says, where each part of it stands, and what is wrong with it as YAML."""

    file: str
    lines: tuple[str, ...]
    data: Data
    values: dict[Path, Any]  # the event of each value, by its path
    keys: dict[Path, Any]  # the event of each key, by the path of its value
    errors: tuple[CaseError, ...]

    def error(self, path: Path, message: str, *, key: bool = False) -> CaseError:
        """An error at a value, or at its key."""
        mark = self._event(path, key).start_mark if self.values else None
        return CaseError(self.file, mark.line + 1, mark.column + 1, message) if mark else self._at(0, 0, message)

    def error_within(self, path: Path, line: int, column: int, message: str, *, key: bool = False) -> CaseError:
        """An error at a character of a text, by its 0-based line and column in the text as the parser gives it."""
        event = self._event(path, key)
        if isinstance(event, yaml.ScalarEvent) and (place := self._within(event, line, column)):
            return self._at(*place, message)
        return self.error(path, message, key=key)

    def line(self, path: Path) -> int:
        """The 1-based line of a value."""
        return int(self.values[path].start_mark.line) + 1

    def _at(self, line: int, column: int, message: str) -> CaseError:
        return CaseError(self.file, line + 1, column + 1, message)

    def _event(self, path: Path, key: bool) -> Any:
        """The event at a path, or at the nearest part above it that is there."""
        while key and path not in self.keys and path:
            path, key = path[:-1], False
        while path and path not in self.values:
            path = path[:-1]
        return self.keys[path] if key and path in self.keys else self.values[path]

    def _within(self, event: Any, line: int, column: int) -> tuple[int, int] | None:
        """0-based place in the file; None where the text is folded over lines, or empty, and only its start is known."""
        start, text = event.start_mark, event.value
        rows = text.split("\n")
        if not text.strip() or line >= len(rows):
            return None
        if event.style == "|":
            # What the block's indentation took off is what the file's line has more than the text's.
            row = start.line + 1 + line
            return row, max(0, len(self.lines[row]) - len(rows[line])) + column
        if event.style == ">" or start.line != event.end_mark.line:
            return None
        offset = sum(len(row) + 1 for row in rows[:line]) + column
        return start.line, start.column + _raw_offset(self.lines[start.line][start.column :], event.style, offset)


_ESCAPE: Final = re.compile(r"\\(?:x..|u.{4}|U.{8}|.)|.")


def _raw_offset(raw: str, style: str | None, offset: int) -> int:
    """Where character `offset` of a scalar on one line stands in its source."""
    if style == '"':
        ends = [match.end() for match in _ESCAPE.finditer(raw, 1)]
        return ends[offset - 1] if 0 < offset <= len(ends) else 1
    if style == "'":
        ends = [match.end() for match in re.finditer("''|.", raw[1:])]
        return 1 + (ends[offset - 1] if 0 < offset <= len(ends) else 0)
    return offset


_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_HEX: Final = re.compile(r"[-+]?0x[0-9a-fA-F]+\Z")
MAX_DIGITS: Final = 40  # of an integer; anything this long is out of every range, and Python refuses thousands
# What some YAML takes for a number or a date: octal and binary, `_` between digits, base 60, fractions, timestamps.
_NUMBER_LIKE: Final = re.compile(
    r"""[-+]?(?:
      0[xX][0-9a-fA-F_]+ | 0[oO][0-7_]+ | 0[bB][01_]+
    | [0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?
    | [0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?
    | \.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    | \.(?:inf|nan)
    )\Z
    | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt\ \t].*)?\Z""",
    re.VERBOSE | re.IGNORECASE,
)
_NUMBER_STARTS: Final = frozenset("0123456789+-.")
_WORDS: Final[dict[str, Scalar]] = {"": None, "null": None, "true": True, "false": False}
# The one key that is taken as it stands: `off` is an insn's field, and keys are text here whatever YAML 1.1 says.
_PLAIN_KEYS: Final = frozenset(("off",))
_AMBIGUOUS_WORDS: Final = frozenset(("yes", "no", "on", "off", "true", "false", "null", "~", "=", "<<"))
# YAML's printable characters, without those that end a line for some programs only, or turn the order of a line's text.
_UNPRINTABLE: Final = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|\r(?!\n)"
)


class _AmbiguousError(Exception):
    """A plain scalar that YAML 1.1 and 1.2, or a reader, take for different things."""


def _plain(text: str) -> Scalar:
    """The value of an unquoted scalar."""
    if text[:1] in _NUMBER_STARTS and text:
        if _INT.match(text):
            return int(text[:MAX_DIGITS])
        if _HEX.match(text):
            return int(text[:MAX_DIGITS], 16)
        if _NUMBER_LIKE.match(text):
            raise _AmbiguousError
        return text
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= 5 and text.lower() in _AMBIGUOUS_WORDS:
        raise _AmbiguousError
    return text


def is_plain_text(text: str) -> bool:
    """Whether text is text without quotes, as far as it looks like no number, date or word of YAML's."""
    try:
        return isinstance(_plain(text), str)
    except _AmbiguousError:
        return False


def quoted(text: str) -> str:
    """Text in a message: quoted, and cut short."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet; `key` is the one whose value comes next."""

    data: Any
    path: Path
    key: str | None = None


class _Reader:
    """One pass over the events of a file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.values: dict[Path, Any] = {}
        self.keys: dict[Path, Any] = {}
        self.errors: list[CaseError] = []
        self.data: Data = None
        self.stack: list[_Open] = []

    def run(self, events: Iterator[Any]) -> None:
        """Takes every event. Raises CaseError where what follows cannot be understood."""
        documents = 0
        for event in events:
            match event:
                case yaml.ScalarEvent() | yaml.MappingStartEvent() | yaml.SequenceStartEvent() | yaml.AliasEvent():
                    self._node(event)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self.stack.pop()
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise self._error(event, "a case file is one document: remove '---'")
                case _:
                    pass

    def _error(self, event: Any, message: str) -> CaseError:
        return CaseError(self.file, event.start_mark.line + 1, event.start_mark.column + 1, message)

    def _note(self, event: Any, message: str) -> None:
        self.errors.append(self._error(event, message))

    def _node(self, event: Any) -> None:
        if len(self.values) + len(self.keys) >= MAX_NODES:
            raise self._error(event, f"more than {MAX_NODES} keys and values in one file")
        if event.anchor is not None or isinstance(event, yaml.AliasEvent):
            self._note(event, "anchors and aliases (& and *) are not allowed: quote text, write a value out")
        elif event.tag is not None:
            self._note(event, f"the tag {quoted(event.tag)} is not allowed: quote text that begins with '!'")
        top = self.stack[-1] if self.stack else None
        if top is not None and top.key is None and isinstance(top.data, dict):
            self._key(top, event)
        else:
            self._value(top, event)

    def _key(self, top: _Open, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            top.key = f"*{event.anchor}"
        elif isinstance(event, yaml.ScalarEvent):
            top.key = self._text_of_key(event)
        else:
            raise self._error(event, "a key must be text: quote it")
        path = (*top.path, top.key)
        if path in self.keys:
            first = self.keys[path].start_mark.line + 1
            self._note(event, f"duplicate key {quoted(top.key)} (first at line {first})")
        self.keys[path] = event

    def _text_of_key(self, event: Any) -> str:
        text = str(event.value)
        if event.style:
            return self._unescaped(event, text)
        if text not in _PLAIN_KEYS and not is_plain_text(text):
            what = f"the key {quoted(text)} is ambiguous in YAML: quote it" if text else "there is no key before ':'"
            self._note(event, what)
        return text

    def _unescaped(self, event: Any, text: str) -> str:
        """Quoted text; an escape may not bring in what a file may not hold."""
        if event.style == '"' and (match := _UNPRINTABLE.search(text)):
            self._note(event, f"the control character U+{ord(match.group()):04X} is not allowed")
            return ""
        return text

    def _value(self, top: _Open | None, event: Any) -> None:
        if top is None:
            path: Path = ()
        else:
            path = (*top.path, len(top.data) if top.key is None else top.key)
        self.values[path] = event
        value = self._data(event)
        if top is None:
            self.data = value
        elif top.key is None:
            top.data.append(value)
        else:
            top.data[top.key] = value
            top.key = None
        if isinstance(value, dict | list):
            if len(self.stack) >= MAX_DEPTH:
                raise self._error(event, f"nested deeper than {MAX_DEPTH} levels")
            self.stack.append(_Open(value, path))

    def _data(self, event: Any) -> Data:
        if isinstance(event, yaml.MappingStartEvent):
            return {}
        if isinstance(event, yaml.SequenceStartEvent):
            return []
        if isinstance(event, yaml.AliasEvent):
            return None
        text = str(event.value)
        if event.style:
            return self._unescaped(event, text)
        try:
            return _plain(text)
        except _AmbiguousError:
            self._note(
                event, f"{quoted(text)} is ambiguous in YAML: quote it, or write an integer in decimal or 0x form"
            )
            return text


_HINTS: Final = {
    "found character that cannot start any token": "quote the text",
    "mapping values are not allowed in this context": "quote text that holds ': '",
    "while scanning an alias": "quote text that begins with '*'",
    "while scanning an anchor": "quote text that begins with '&'",
    "while scanning a tag": "quote text that begins with '!'",
    "while parsing a block mapping": "is the line indented like the others, and text with a quote in it quoted?",
}


def _syntax_error(file: str, error: yaml.YAMLError) -> CaseError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    words = [str(part) for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part]
    hint = next((hint for word, hint in _HINTS.items() if any(word in part for part in words)), "")
    message = "YAML: " + (", ".join(words) or "cannot be read") + (f" ({hint})" if hint else "")
    return CaseError(file, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1, message)


def _events(file: str, text: str, loader: Any) -> Iterator[Any]:
    try:
        parser = loader(text)
        try:
            while (event := parser.get_event()) is not None:
                yield event
        finally:
            parser.dispose()
    except yaml.YAMLError as error:
        raise _syntax_error(file, error) from None


def parse(text: str, file: str, loader: Any = None) -> Document:
    """The one document of a text. Raises CaseError where the text cannot be read to its end."""
    if match := _UNPRINTABLE.search(text):
        line, column = text.count("\n", 0, match.start()), match.start() - text.rfind("\n", 0, match.start()) - 1
        message = f"the control character U+{ord(match.group()[0]):04X} is not allowed"
        raise CaseError(file, line + 1, column + 1, message)
    reader = _Reader(file)
    reader.run(_events(file, text, loader or getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    lines = tuple(line.removesuffix("\r") for line in text.split("\n"))
    return Document(file, lines, reader.data, reader.values, reader.keys, tuple(reader.errors))


def decode(raw: bytes, file: str) -> str:
    """The text of a file's bytes. Raises CaseError where they are too many, or not UTF-8."""
    if len(raw) > MAX_BYTES:
        raise CaseError(file, 1, 1, f"the file is larger than {MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].removeprefix(b"\xef\xbb\xbf")
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace"))
        raise CaseError(file, before.count(b"\n") + 1, column + 1, "the file is not UTF-8 text") from None
