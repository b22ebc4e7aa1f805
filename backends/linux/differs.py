"""Expected differences: they stand with the back end, in differs.yaml, each with its reason."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from backends.base import Difference, OwnFileError

FILE: Final = Path(__file__).with_name("differs.yaml")
_KEYS: Final = {"case", "arches", "since", "before", "got", "why", "right", "crashes"}
_REQUIRED: Final = {"case", "since", "got", "why", "right"}
_ARCHES: Final = ("x86_64", "arm64")
_VERSION: Final = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


class DiffersError(OwnFileError):
    """An entry that cannot be used; the message says which, and what was expected."""


def version_of(text: str) -> tuple[int, int, int] | None:
    """`7.2.13+deb14-cloud-amd64` as (7, 2, 13)."""
    match = _VERSION.match(text)
    return (int(match.group(1)), int(match.group(2)), int(match.group(3) or 0)) if match else None


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the file. `case` is `FILE::NAME` with or without its variant; `before` is the first kernel without it."""

    case: str
    arches: tuple[str, ...]
    since: tuple[int, int, int]
    before: tuple[int, int, int] | None
    got: str
    why: str
    right: str
    crashes: bool

    def holds(self, case: str, arch: str, release: tuple[int, int, int]) -> bool:
        """Whether it is about this case on this kernel."""
        named = case == self.case or case.split("@", maxsplit=1)[0] == self.case
        return (
            named and arch in self.arches and self.since <= release and (self.before is None or release < self.before)
        )


@dataclass(frozen=True, slots=True)
class Differences:
    """All rows."""

    entries: tuple[Entry, ...] = ()

    def find(self, case: str, arch: str, release: str | None) -> Difference | None:
        """The row for a case on a kernel; none where the kernel's release is not known."""
        entry = self._entry(case, arch, release)
        return (
            None
            if entry is None
            else Difference(entry.got, f"{entry.why} Right: {entry.right}.", "backends/linux/differs.yaml")
        )

    def crashes(self, case: str, arch: str) -> bool:
        """Whether some kernel is known to die of this case."""
        return any(
            e.crashes and case.split("@", maxsplit=1)[0] == e.case.split("@")[0] and arch in e.arches
            for e in self.entries
        )

    def _entry(self, case: str, arch: str, release: str | None) -> Entry | None:
        version = version_of(release) if release else None
        if version is None:
            return None
        return next((entry for entry in self.entries if entry.holds(case, arch, version)), None)


def load_differences(path: Path = FILE) -> Differences:
    """The file's rows. Raises DiffersError."""
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DiffersError(f"{path.name}: cannot be read: {error}") from error
    if not isinstance(rows, list):
        raise DiffersError(f"{path.name}: expected a list of entries, found {type(rows).__name__}")
    return Differences(tuple(_entry(f"{path.name}: entry {number}", row) for number, row in enumerate(rows, 1)))


def _entry(where: str, row: Any) -> Entry:
    if not isinstance(row, dict) or not row.keys() >= _REQUIRED or not row.keys() <= _KEYS:
        raise DiffersError(
            f"{where}: expected the keys {', '.join(sorted(_REQUIRED))}, and of {', '.join(sorted(_KEYS))}"
        )
    arches = row.get("arches", list(_ARCHES))
    if not isinstance(arches, list) or not set(arches) <= set(_ARCHES):
        raise DiffersError(f"{where}: arches: expected a list of {', '.join(_ARCHES)}, found {arches!r}")
    try:
        re.compile(row["got"])
    except (re.error, TypeError) as error:
        raise DiffersError(f"{where}: got: not a regular expression: {error}") from error
    since, before = _version(where, "since", row["since"]), None
    if "before" in row:
        before = _version(where, "before", row["before"])
    if row["right"] not in ("suite", "linux", "both"):
        raise DiffersError(f"{where}: right: expected suite, linux or both, found {row['right']!r}")
    texts: Sequence[str] = [str(row[key]).strip() for key in ("case", "got", "why", "right")]
    return Entry(texts[0], tuple(arches), since, before, texts[1], texts[2], texts[3], bool(row.get("crashes", False)))


def _version(where: str, key: str, value: Any) -> tuple[int, int, int]:
    version = version_of(value) if isinstance(value, str) else None
    if version is None:
        raise DiffersError(f'{where}: {key}: expected a kernel version in quotes ("7.2"), found {value!r}')
    return version
