"""The variants of a case: rows of `params` filled into its texts, with the way back to where each text was written."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from harness.schema import MAX_ERRORS, suggestion
from harness.yamldoc import CaseError, Data, Document, Path, quoted

MAX_FILLED: Final = 4 << 20  # characters and values that the variants of one file come to
MAX_NAME: Final = 60  # characters of a value in a variant's name
_NAMELESS: Final = "nothing in this row can name it: give it a key with an integer or a short text"

_REF: Final = re.compile(r"\$\{(?!\{)([^{}\n]*)(\}?)")
Row = Mapping[str, Data]


@dataclass(slots=True)
class Budget:
    """What the variants of a file may still come to."""

    left: int = MAX_FILLED

    def spend(self, amount: int) -> bool:
        """Whether it lasts."""
        self.left -= amount
        return self.left >= 0


@dataclass(frozen=True, slots=True)
class Variant:
    """A case with one row filled in. Paths are within its data, errors where the template, or the row, was written."""

    doc: Document
    at: Path  # of the case in the document
    template: dict[str, Data]
    data: dict[str, Data]
    row_at: Path = ()  # of the row in the document
    row: Row = field(default_factory=dict)
    suffix: str = ""  # `@n=6`; empty for a case without params

    @property
    def name(self) -> str:
        """`case`, or `case@n=6`."""
        return f"{self.template['case']}{self.suffix}"

    def error(self, path: Path, message: str, *, key: bool = False) -> CaseError:
        """An error at a value, or at its key."""
        return self.doc.error(self._origin(path, key)[0], message, key=key)

    def error_within(self, path: Path, line: int, column: int, message: str, *, key: bool = False) -> CaseError:
        """An error at a character of a text, by its 0-based line and column in this variant's text."""
        origin, template = self._origin(path, key)
        if template is not None:
            line, column = _template_place(template, self.row, line, column)
        return self.doc.error_within(origin, line, column, message, key=key)

    def _origin(self, path: Path, key: bool) -> tuple[Path, str | None]:
        """Where a part of this variant's data was written, and the template of its text."""
        node: Data = self.template
        origin = self.at
        for step in path:
            node, origin = self._follow(node, origin)
            if isinstance(node, dict):
                name = next((k for k in node if _filled_text(k, self.row) == step), None)
                if name is None:
                    return origin, None
                node, origin = node[name], (*origin, name)
            elif isinstance(node, list) and isinstance(step, int) and step < len(node):
                node, origin = node[step], (*origin, step)
            else:
                return origin, None
        if key:
            return origin, str(origin[-1])
        node, origin = self._follow(node, origin)
        return origin, node if isinstance(node, str) else None

    def _follow(self, node: Data, origin: Path) -> tuple[Data, Path]:
        """From a value that is `${key}` alone to the row's value."""
        if isinstance(node, str) and (key := _sole_key(node)) in self.row:
            return self.row[key], (*self.row_at, key)
        return node, origin


@dataclass(frozen=True, slots=True)
class Notes:
    """Gathers what is wrong with one variant."""

    variant: Variant
    errors: list[CaseError] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether there is more than anyone reads."""
        return len(self.errors) > MAX_ERRORS

    def at(self, path: Path, message: str, *, key: bool = False) -> None:
        """Notes an error at a value, or at its key."""
        self.errors.append(self.variant.error(path, message, key=key))

    def within(self, path: Path, line: int, column: int, message: str, *, key: bool = False) -> None:
        """Notes an error at a character of a text."""
        self.errors.append(self.variant.error_within(path, line, column, message, key=key))


def _sole_key(text: str) -> str:
    """The key of a text that is `${key}` and nothing else, or nothing."""
    match = _REF.fullmatch(text) if text[:2] == "${" else None
    return match.group(1) if match and match.group(2) else ""


def _filled_text(text: str, row: Row) -> str:
    return _REF.sub(lambda match: str(row.get(match.group(1), match.group())), text) if "${" in text else text


def _template_place(template: str, row: Row, line: int, column: int) -> tuple[int, int]:
    """The place in a template of a place in the text made from it; filled-in text is where its `${key}` is."""
    rows = _filled_text(template, row).split("\n")
    offset = sum(len(r) + 1 for r in rows[:line]) + column
    done, at = 0, 0  # of the filled text, of the template
    for match in _REF.finditer(template):
        literal = match.start() - at
        if offset < done + literal:
            break
        size = len(str(row.get(match.group(1), match.group())))
        if offset < done + literal + size:
            done, at = offset, match.start()
            break
        done, at = done + literal + size, match.end()
    before = template[: at + offset - done]
    return before.count("\n"), len(before) - before.rfind("\n") - 1


@dataclass(slots=True)
class _Use:
    """Looks a template over before any row is filled in."""

    variant: Variant
    keys: tuple[str, ...]
    used: set[str] = field(default_factory=set)
    errors: list[CaseError] = field(default_factory=list)

    def walk(self, node: Data, path: Path) -> None:
        match node:
            case str():
                self._text(node, path, key=False)
            case list():
                for index, item in enumerate(node):
                    self.walk(item, (*path, index))
            case dict():
                for name, item in node.items():
                    self._text(name, (*path, name), key=True)
                    self.walk(item, (*path, name))
            case _:
                pass

    def _text(self, text: str, path: Path, *, key: bool) -> None:
        for match in _REF.finditer(text) if "${" in text else ():
            name = match.group(1)
            if match.group(2) and name in self.keys:
                self.used.add(name)
                continue
            if len(self.errors) > MAX_ERRORS:
                return
            line = text.count("\n", 0, match.start())
            column = match.start() - text.rfind("\n", 0, match.start()) - 1
            message = self._wrong(name) if match.group(2) else "'${' is not closed by '}'"
            self.errors.append(self.variant.doc.error_within((*self.variant.at, *path), line, column, message, key=key))

    def _wrong(self, name: str) -> str:
        if not self.keys:
            return f"there is no param {quoted(name)}: the case has no params"
        return f"there is no param {quoted(name)}" + (
            suggestion(name, self.keys) or f" (params: {', '.join(self.keys)})"
        )


def variants(doc: Document, at: Path, case: dict[str, Data], budget: Budget, errors: list[CaseError]) -> list[Variant]:
    """Every variant of a case of the right shape; a case without params is its own. What is wrong is added to `errors`."""
    template = {name: value for name, value in case.items() if name != "params"}
    rows = [row for row in _items(case.get("params")) if isinstance(row, dict)]
    plain = Variant(doc, at, template, template)
    use = _Use(plain, tuple(rows[0]) if rows else ())
    use.walk(template, ())
    errors += use.errors
    if not rows:
        return [] if use.errors else [plain]
    wrong = [*use.errors, *_row_errors(doc, (*at, "params"), rows, use.used)]
    errors += wrong[len(use.errors) :]
    return [] if wrong else _filled(plain, rows, budget, errors)


def _items(value: Data) -> list[Data]:
    return value if isinstance(value, list) else []


def _row_errors(doc: Document, at: Path, rows: list[dict[str, Data]], used: set[str]) -> Iterator[CaseError]:
    """The first key names the variants, so it alone may be used nowhere else."""
    keys = tuple(rows[0])
    for name in keys[1:]:
        if name not in used:
            yield doc.error((*at, 0, name), f"the param {name!r} is used nowhere", key=True)
    for index, row in enumerate(rows):
        for name in keys:
            if name not in row:
                yield doc.error((*at, index), f"missing key {name!r}: all rows have the keys of the first")
        for name, value in row.items():
            if name not in keys:
                message = f"unknown key {quoted(name)}: all rows have the keys of the first"
                yield doc.error((*at, index, name), message, key=True)
            if any(map(_REF.search, _texts(value))):
                yield doc.error((*at, index, name), f"{name}: a param's value cannot use a param")


def _texts(node: Data) -> Iterator[str]:
    match node:
        case str():
            yield node
        case list():
            yield from chain.from_iterable(map(_texts, node))
        case dict():
            yield from node
            yield from chain.from_iterable(map(_texts, node.values()))
        case _:
            pass


def _filled(plain: Variant, rows: list[dict[str, Data]], budget: Budget, errors: list[CaseError]) -> list[Variant]:
    doc, at = plain.doc, (*plain.at, "params")
    found: list[Variant] = []
    names = _names(rows)
    weight = _weight(plain.template)
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        fill = _Fill(row, {key: _weight(value) for key, value in row.items()}, budget)
        data = fill.value(plain.template) if budget.spend(weight) else None
        if budget.left < 0:
            message = f"the variants of this file come to more than {MAX_FILLED} characters"
            errors.append(doc.error((*at, index), message))
            return []
        if names.index(name) < index or not name:
            errors.append(doc.error((*at, index), _NAMELESS if not name else f"there is a row {name} already"))
        elif fill.wrong:
            errors.append(doc.error((*at, index, fill.wrong[0]), fill.wrong[1]))
        elif isinstance(data, dict):
            found.append(Variant(doc, plain.at, plain.template, data, (*at, index), row, f"@{name}"))
    return found


def _names(rows: list[dict[str, Data]]) -> list[str]:
    """`n=6`, by the first key; by all keys whose value is short text or an integer where that does not tell rows apart."""
    first = next(iter(rows[0]))
    names = [_name(row, (first,)) for row in rows]
    if len(set(names)) == len(names) and all(names):
        return names
    return [_name(row, tuple(row)) for row in rows]


def _name(row: Row, keys: tuple[str, ...]) -> str:
    shown = [(key, str(row[key])) for key in keys if isinstance(row[key], str | int)]
    return ",".join(f"{key}={text}" for key, text in shown if len(text) <= MAX_NAME and "\n" not in text)


def _weight(node: Data) -> int:
    match node:
        case str():
            return len(node) + 1
        case list():
            return 1 + sum(map(_weight, node))
        case dict():
            return 1 + sum(len(key) + _weight(value) for key, value in node.items())
        case _:
            return 1


@dataclass(slots=True)
class _Fill:
    """Fills one row into a template."""

    row: Row
    weights: Mapping[str, int]
    budget: Budget
    wrong: tuple[str, str] | None = None  # the param, and what is wrong with its use

    def value(self, node: Data) -> Data:
        match node:
            case str():
                key = _sole_key(node)
                if key:
                    return self.row[key] if self.budget.spend(self.weights[key]) else None
                return self._text(node)
            case list():
                return [self.value(item) for item in node]
            case dict():
                return self._mapping(node)
            case _:
                return node

    def _mapping(self, node: dict[str, Data]) -> dict[str, Data]:
        filled: dict[str, Data] = {}
        for name, item in node.items():
            key = self._text(name)
            if key in filled:
                used = next((match.group(1) for match in _REF.finditer(name)), next(iter(self.row)))
                self.wrong = used, f"with this row, the key {quoted(key)} is there twice"
            filled[key] = self.value(item)
        return filled

    def _text(self, text: str) -> str:
        if "${" not in text:
            return text
        for match in _REF.finditer(text):
            name = match.group(1)
            if not isinstance(self.row[name], str | int):
                what = "list" if isinstance(self.row[name], list) else "mapping"
                self.wrong = name, f"{name}: a {what} cannot stand within a text: '${{{name}}}' must be the whole value"
                return text
            if not self.budget.spend(self.weights[name]):
                return text
        return _filled_text(text, self.row)
