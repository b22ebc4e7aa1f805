"""What the tests of broken parts share: cases by name, the classes of a module, what it is to be caught."""

import inspect
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

from harness.case import Case, load_file
from harness.suite import Result

CASES: Final = Path(__file__).resolve().parent.parent.parent / "cases"


@cache
def _file(file: str) -> dict[str, Case]:
    loaded = load_file(CASES / file, shown=f"cases/{file}")
    assert not loaded.errors
    return {case.name: case for case in loaded.cases}


def cases_of(file: str) -> list[Case]:
    """All of a file below `cases/`."""
    return list(_file(file).values())


def case_of(name: str) -> Case:
    """`folder/file.yaml::case@params`."""
    file, _, case = name.partition("::")
    return _file(file)[case]


def classes_of(module: ModuleType, base: type = object) -> set[type]:
    """Those that a module defines, private ones apart."""
    found = inspect.getmembers(module, inspect.isclass)
    return {
        cls for name, cls in found if cls.__module__ == module.__name__ and name[0] != "_" and issubclass(cls, base)
    }


def assert_caught(result: Result, check: str) -> None:
    """The case fails, and for the right reason."""
    assert result.status == "failed", result.reason
    assert result.mismatches[0].check == check, result.mismatches[0]
