"""The JITs as other CPUs and kernels would have them, on the cases that tell them apart."""

from pathlib import Path

import pytest

from backends.arm64.jit import Arm64Jit
from backends.arm64.jit import Options as Arm64Options
from backends.image import Compiler
from backends.native import NativeBackend
from backends.x86_64.jit import Options as X8664Options
from backends.x86_64.jit import X8664Jit
from harness.case import Case, find_files, load_file
from harness.suite import Suite

ROOT = Path(__file__).resolve().parents[2]
VARIANTS: dict[str, tuple[Compiler, str]] = {
    "arm64 without LSE": (Arm64Jit(Arm64Options(lse=False)), "atomic"),
    "arm64 without BTI and PAC": (Arm64Jit(Arm64Options(bti=False, pac=False)), "subprog"),
    "x86-64 without BMI2": (X8664Jit(X8664Options(bmi2=False)), "alu"),
    "x86-64 without IBT": (X8664Jit(X8664Options(ibt=False)), "subprog"),
}


def cases_of(folder: str) -> list[Case]:
    return [case for path in find_files([ROOT / "cases" / folder]) for case in load_file(path).cases]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant(name: str) -> None:
    compiler, folder = VARIANTS[name]
    suite, backend = Suite(), NativeBackend(name, compiler)
    results = [suite.judge(case, backend) for case in cases_of(folder)]
    assert [(result.case.id, result.mismatches) for result in results if result.status != "passed"] == []
