"""Case data against case.schema.json, and what is wrong with it in our words."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Final

from harness.yamldoc import Data, Path, quoted

if TYPE_CHECKING:
    from jsonschema_rs import Draft7Validator, ValidationError

SCHEMA_FILE: Final = FilePath(__file__).with_name("case.schema.json")
MAX_SUGGESTED: Final = 64  # characters of a word that is compared with the known ones
MAX_ERRORS: Final = 100  # told of one file

_TYPES: Final = {
    "integer": "an integer",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
    "boolean": "true or false",
    "null": "nothing",
    "number": "a number",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, at a value or at its key."""

    path: Path
    message: str
    key: bool = False


def load_schema() -> dict[str, Any]:
    """The JSON Schema of a case file."""
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


@cache
def _validator() -> "Draft7Validator":
    # Importing it takes longer than reading a file of cases.
    from jsonschema_rs import Draft7Validator

    return Draft7Validator({"$ref": "#/definitions/case", "definitions": load_schema()["definitions"]})


def is_valid(case: Data) -> bool:
    """Whether one item of a case file has the shape of a case."""
    return _validator().is_valid(case)


def problems(case: Data) -> list[Problem]:
    """All that is wrong with the shape of one item; paths are within it."""
    words = _Words(load_schema())
    described = (problem for error in _validator().iter_errors(case) for problem in words.of(error))
    found = list(islice(described, MAX_ERRORS + 1))
    # A misspelt key is one mistake, not an unknown key and a missing one.
    return [problem for problem in found if problem not in words.explained]


def closest(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant."""
    import difflib

    return next(iter(difflib.get_close_matches(word[:MAX_SUGGESTED], known, n=1)), None)


def suggestion(word: str, known: Sequence[str]) -> str:
    """` (did you mean ...?)`, or nothing."""
    close = closest(word, known)
    return "" if close is None else f" (did you mean {close!r}?)"


def found_words(value: Data) -> str:
    """A value in a message: its kind, and itself where it is short."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int():
            return f"integer {value}"
        case str():
            return f"text {quoted(value)}"
        case list():
            return "a list"
        case dict():
            return "a mapping"


class _Words:
    """Words the errors of one case."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema = schema
        self.explained: set[Problem] = set()  # what a did-you-mean says already

    def of(self, error: "ValidationError") -> Iterator[Problem]:
        from jsonschema_rs import ValidationErrorKind as Kind

        path: Path = tuple(error.instance_path)
        value: Any = error.instance
        match error.kind:
            case Kind.AdditionalProperties(unexpected=names):
                yield from self._unknown_keys(error, names)
            case Kind.Required(property=name):
                yield Problem(path, f"missing key {name!r}")
            case Kind.AnyOf(context=branches):
                yield from self._any_of(error, branches)
            case Kind.PropertyNames(error=inner):
                name = str(inner.instance)
                yield Problem((*path, name), f"expected {self._pattern_words(inner)}, found {quoted(name)}", key=True)
            case Kind.Type(types=types):
                yield self._type(path, types, value)
            case Kind.Enum(options=options):
                yield self._enum(path, [str(option) for option in options], value)
            case Kind.Pattern():
                yield self._expected(path, self._pattern_words(error), _short(value))
            case Kind.Minimum() | Kind.Maximum():
                yield self._expected(path, "an integer from -2^63 to 2^64-1", str(value)[:60])
            case Kind.MaxLength(limit=limit):
                yield self._expected(path, _count("at most", limit, "character"), str(len(value)))
            case Kind.MinItems(limit=limit):
                yield self._expected(path, _count("at least", limit, "item"), str(len(value)))
            case Kind.MaxItems(limit=limit):
                yield self._expected(path, _count("at most", limit, "item"), str(len(value)))
            case Kind.MinProperties(limit=limit):
                yield self._expected(path, _count("at least", limit, "key"), str(len(value)))
            case Kind.MaxProperties(limit=limit):
                yield self._expected(path, _count("at most", limit, "key"), str(len(value)))
            case Kind.UniqueItems():
                yield Problem(path, f"{_label(path)}an item is there twice")
            case _:
                yield Problem(path, f"{_label(path)}{error.message[:200]}")

    def _expected(self, path: Path, what: str, found: str) -> Problem:
        return Problem(path, f"{_label(path)}expected {what}, found {found}")

    def _unknown_keys(self, error: "ValidationError", names: list[str]) -> Iterator[Problem]:
        known = list(self._part(error.schema_path[:-1]).get("properties", ()))
        path: Path = tuple(error.instance_path)
        for name in names[:MAX_ERRORS]:
            close = closest(name, known)
            self.explained.add(Problem(path, f"missing key {close!r}"))
            hint = f"did you mean {close!r}?" if close else f"known: {', '.join(known)}"
            yield Problem((*path, name), f"unknown key {quoted(name)} ({hint})", key=True)

    def _any_of(self, error: "ValidationError", branches: list[list["ValidationError"]]) -> Iterator[Problem]:
        """The errors of the branch that the value was meant for, or the types that would do."""
        path: Path = tuple(error.instance_path)
        value: Any = error.instance
        own = [branch for branch in branches if branch[0].schema_path[:2] != ["definitions", "param"]]
        types = [(branch, _type_mismatch(branch, path)) for branch in own]
        meant = [branch for branch, mismatch in types if not mismatch]
        if meant:
            for inner in min(meant, key=len):  # the one with the fewest errors, the first of those
                yield from self.of(inner)
        else:
            yield self._type(path, [name for _, mismatch in types for name in mismatch], value)

    def _type(self, path: Path, types: Sequence[str], value: Data) -> Problem:
        found = found_words(value)
        if isinstance(value, int) and not isinstance(value, bool) and "string" in types:
            found += ": quote it"
        elif isinstance(value, str) and "${" in value:
            found += ": a param must stand alone here"
        return self._expected(path, " or ".join(_TYPES[name] for name in types), found)

    def _enum(self, path: Path, options: list[str], value: Data) -> Problem:
        hint = suggestion(value, options) if isinstance(value, str) else ""
        return self._expected(path, f"one of {', '.join(options)}", _short(value) + hint)

    def _pattern_words(self, error: "ValidationError") -> str:
        return str(self._part(error.schema_path[:-1]).get("patternErrorMessage", "some text"))

    def _part(self, schema_path: Sequence[str | int]) -> dict[str, Any]:
        part: Any = self.schema
        for step in schema_path:
            part = part[step]
        return dict(part)


def _type_mismatch(branch: list["ValidationError"], path: Path) -> list[str]:
    """The types that a branch wants of the value at `path` itself, where the value has none of them."""
    from jsonschema_rs import ValidationErrorKind as Kind

    wanted: list[str] = []
    for error in branch:
        if tuple(error.instance_path) != path:
            continue
        if isinstance(error.kind, Kind.Type):
            wanted += error.kind.types
        elif isinstance(error.kind, Kind.Enum) and isinstance(error.instance, dict | list):
            wanted.append("string")  # one of some words
    return wanted


def _label(path: Path) -> str:
    """The nearest key, before a message."""
    name = next((step for step in reversed(path) if isinstance(step, str)), None)
    return "" if name is None else f"{name if len(name) <= 40 else name[:37] + '...'}: "


def _count(how: str, limit: int, what: str) -> str:
    return f"{how} {limit} {what}{'' if limit == 1 else 's'}"


def _short(value: Data) -> str:
    return quoted(value) if isinstance(value, str) else found_words(value)
