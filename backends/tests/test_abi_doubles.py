"""Each deliberate mistake in a layout shows in the worked examples that the document names for it."""

import pytest

from backends.abi import Layout
from backends.arm64 import abi as arm64
from backends.tests.abi_doubles import ON_ARM64, ON_X86_64
from backends.tests.abi_rows import ROWS, expected, found, prototype
from backends.x86_64 import abi as x86_64


def differing(layouts: list[Layout], places: list[tuple[str, int]]) -> set[int]:
    rows = zip(ROWS, layouts, places, strict=True)
    return {
        row.number
        for row, layout, (text, size) in rows
        if (found(layout), layout.stack_bytes) != (expected(text), size)
    }


@pytest.mark.parametrize(("rules", "rows"), ON_ARM64.items(), ids=[rules.__name__ for rules in ON_ARM64])
def test_on_arm64(rules: type[arm64.Marshalling], rows: set[int]) -> None:
    layouts = [arm64.layout(prototype(row), rules) for row in ROWS]
    assert differing(layouts, [(row.arm64, row.arm64_bytes) for row in ROWS]) == rows


@pytest.mark.parametrize(("rules", "rows"), ON_X86_64.items(), ids=[rules.__name__ for rules in ON_X86_64])
def test_on_x86_64(rules: type[x86_64.Passing], rows: set[int]) -> None:
    layouts = [x86_64.layout(prototype(row), rules) for row in ROWS]
    assert differing(layouts, [(row.x86_64, row.x86_64_bytes) for row in ROWS]) == rows


def test_there_are_26() -> None:
    assert len(ON_ARM64) + len(ON_X86_64) == 26
