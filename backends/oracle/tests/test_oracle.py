"""The layouts against the C compilers that are here, caller and callee; `callconv abi-sweep` takes more prototypes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.oracle.compilers import Compiler, CompilerError, asked, find_compilers
from backends.oracle.generate import Generated, generate
from backends.oracle.judge import judge
from backends.oracle.source import source
from backends.tests.abi_rows import ROWS, TYPES

PROTOTYPES = 200


def test_generated_prototypes(compiler: Compiler) -> None:
    judged = judge(compiler, [generate(seed) for seed in range(PROTOTYPES)])
    assert [finding for finding in judged.findings if not finding.quirks] == []
    assert judged.prototypes > 0.9 * PROTOTYPES


def worked_example(number: int) -> Generated:
    """A row of the document's table, its types by names as a generated prototype has them."""
    row = next(row for row in ROWS if row.number == number)
    declared: dict[str, str] = {"i128": f"typedef __int128 i128_{number};\n", "ptr": f"typedef void *ptr_{number};\n"}
    params: list[str] = []
    for argument in row.arguments.split(", "):
        name, _, count = argument.partition("*")
        if name in TYPES:
            declared.setdefault(name, f"typedef {TYPES[name]} {name}_{number};\n")
        params += [f"{name}_{number}" if name in TYPES else name] * int(count or 1)
    used = [declared[name] for name in declared if f"{name}_{number}" in params]
    return Generated(number, "".join(used), "void", tuple(params), (), variadic=False, has_half=False)


def test_worked_examples(compiler: Compiler) -> None:
    judged = judge(compiler, [worked_example(row.number) for row in ROWS])
    assert [finding for finding in judged.findings if not finding.quirks] == []


def test_a_difference_of_the_types_shows(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler reads `packed`, the suite does not: sizes, offsets and places are others."""
    made = Generated(1, "struct s_1 {u8 a; u32 b;};\n", "u8", ("struct s_1", "u64"), (), variadic=False, has_half=False)
    assert judge(compiler, [made]).findings == ()

    def packed(*arguments: Any) -> str:
        return source(*arguments).replace("u32 b;}", "u32 b;} __attribute__((packed))")

    monkeypatch.setattr("backends.oracle.judge.source", packed)
    found = judge(compiler, [made]).findings
    assert {"facts", "callee", "caller"} == {finding.side for finding in found}
    assert "facts, sizeof(struct s_1): 5, ours is 8" in found[0].mismatches


def test_what_a_compiler_refuses_is_a_finding_of_its_own(compiler: Compiler) -> None:
    """The others of the file are judged all the same."""
    made = [generate(seed) for seed in (3, 4, 5)]
    refused = replace(made[1], declarations=f"{made[1].declarations}enum e_4 {{TWICE, TWICE}};\n")
    judged = judge(compiler, [made[0], refused, made[2]])
    assert [(finding.seed, finding.side) for finding in judged.findings] == [(4, "compile")]
    assert judged.prototypes == 3


def test_a_source_that_is_no_c(compiler: Compiler) -> None:
    with pytest.raises(CompilerError, match="error"):
        compiler.compile("nonsense\n")


def test_code_that_needs_another_file(compiler: Compiler) -> None:
    with pytest.raises(CompilerError, match="its code needs 'elsewhere'"):
        compiler.compile("void elsewhere(void);\nvoid f(void) { elsewhere(); elsewhere(); }\n")


def test_a_compiler_that_is_named_has_to_compile(tmp_path: Path) -> None:
    program = tmp_path / "clang"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "clang version 99.1.2" && exit 0\necho "no such target" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    assert [str(made) for made in asked([str(program)])] == ["clang 99.1.2 for x86_64", "clang 99.1.2 for arm64"]
    with pytest.raises(CompilerError, match="--target=x86_64-linux-gnu: no such target"):
        find_compilers([str(program)])


def test_what_is_no_compiler() -> None:
    assert asked(["true"]) == []
    assert asked(["no-such-program-anywhere"]) == []
