"""`callconv abi-sweep`: what it prints and how it ends, with compilers that are made up."""

from collections.abc import Sequence

import pytest

from backends.oracle.compilers import Compiler
from backends.oracle.generate import Generated
from backends.oracle.judge import Finding, Judged
from harness import abi_sweep, cli

GCC = Compiler("gcc", (12, 2, 0), "arm64", ("gcc",))
CLANG = Compiler("clang", (22, 1, 8), "x86_64", ("clang",))


def finding(seed: int, compiler: Compiler, side: str, *quirks: str) -> Finding:
    return Finding(seed, f"void f{seed}(int a0)", str(compiler), side, (f"{side}, a0: 01 instead of 02",), quirks)


def sweep(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, found: Sequence[Finding], *arguments: str
) -> tuple[int, list[str]]:
    def judge(compiler: Compiler, prototypes: Sequence[Generated]) -> Judged:
        seeds = {made.seed for made in prototypes}
        own = tuple(one for one in found if one.compiler == str(compiler) and one.seed in seeds)
        return Judged(compiler, len(prototypes) - 1, 1, own)

    monkeypatch.setattr(abi_sweep, "find_compilers", lambda commands: [CLANG, GCC])
    monkeypatch.setattr(abi_sweep, "judge", judge)
    status = cli.main(["abi-sweep", *arguments, "--jobs", "1"])
    streams = capsys.readouterr()
    return status, (streams.out + streams.err).splitlines()


def test_recorded_differences_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        finding(3, GCC, "callee", "D-5"),
        finding(3, GCC, "caller", "D-5", "D-13"),
        finding(4, GCC, "caller", "D-5"),
    ]
    status, lines = sweep(capsys, monkeypatch, found, "1-300")
    assert status == 0
    assert lines[0] == "clang 22.1.8 for x86_64: 298 prototypes, 298 agree; 2 left out, with types it does not know"
    assert lines[1] == (
        "gcc 12.2.0 for arm64: 298 prototypes, 296 agree, 2 differ as recorded (D-13 1, D-5 2); "
        "2 left out, with types it does not know"
    )
    assert lines[2:4] == ["skipped: no clang for arm64 is here", "skipped: no gcc for x86_64 is here"]
    assert lines[4].startswith("D-5 (gcc, arm64): In a packed struct a bit-field counts")
    assert lines[6].startswith("D-13 (gcc, arm64): A union with a bit-field of width 0 is no HFA")
    assert lines[-1].startswith("300 prototypes, seeds 1-300, 2 compilers, 0 differences; ")


def test_others_fail(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    status, lines = sweep(capsys, monkeypatch, [finding(7, CLANG, "caller"), finding(9, GCC, "callee")], "7-9")
    assert status == 1
    assert lines[:4] == [
        "seed 7, clang 22.1.8 for x86_64, caller",
        "  void f7(int a0)",
        "  caller, a0: 01 instead of 02",
        "  again   callconv abi-sweep 7",
    ]
    assert "clang 22.1.8 for x86_64: 2 prototypes, 1 agree, 1 differ; 1 left out, with types it does not know" in lines
    assert lines[-1].startswith("3 prototypes, seeds 7-9, 2 compilers, 2 differences; ")


def test_only_so_many_are_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = [finding(seed, GCC, "callee") for seed in range(1, 31)]
    _, lines = sweep(capsys, monkeypatch, found, "1-40")
    assert sum(line.startswith("seed ") for line in lines) == 20
    assert "... and 10 more" in lines


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["x"], "SEEDS is N, or FIRST-LAST, found 'x'"),
        (["9-3"], "SEEDS is N, or FIRST-LAST, found '9-3'"),
        (["1", "--compiler", "true"], "no C compiler for arm64 or x86_64 is here: true"),
    ],
)
def test_refusals(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["abi-sweep", *arguments]) == 2
    assert capsys.readouterr().err == f"callconv: {text}\n"
