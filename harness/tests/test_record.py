"""Linux's answers on record: every case has one, they pass, and native code that is tampered with does not."""

import copy
from pathlib import Path

import pytest

from backends.linux import golden
from backends.linux.backend import LinuxBackend
from backends.linux.differs import load_differences
from harness.case import Case, find_files, load_file
from harness.suite import Suite

ROOT = Path(__file__).resolve().parent.parent.parent
ARCHES = ("x86_64", "arm64")


def case_named(name: str) -> Case:
    file, _, wanted = name.partition("::")
    return next(case for case in load_file(ROOT / file, shown=file).cases if case.name == wanted)


@pytest.mark.parametrize("arch", ARCHES)
def test_nothing_is_on_record_that_is_no_case(arch: str) -> None:
    known = {
        case.id
        for path in find_files([ROOT / "cases"])
        for case in load_file(path, shown=str(path.relative_to(ROOT))).cases
    }
    recorded = {name.split("#")[0] for name in golden.read(golden.path_of(arch))["cases"]}
    assert sorted(recorded - known) == []


# A case, and one native insn of Linux's image with another in its place: the check that must see it.
TAMPERED = {
    "arm64: the ninth argument, one slot higher": (
        "arm64", "cases/kfunc/calls.yaml::place_of_nine", "f30300f9", "f30700f9", "ABI-ARG"),  # str x19, [sp] -> [sp, #8]
    "arm64: SP no multiple of 16": (
        "arm64", "cases/kfunc/calls.yaml::place_of_nine", "ff4300d1", "ff2300d1", "ABI-SP"),  # sub sp, sp, #16 -> #8
    "arm64: R6's register is not restored": (
        "arm64", "cases/callee_saved/values.yaml::nested", "f37fc1a8", "ff7fc1a8", "ABI-SAVED"),  # ldp x19, xzr -> xzr, xzr
    "x86-64: the sixth argument in the wrong register": (
        "x86_64", "cases/kfunc/calls.yaml::place_of_nine", "41b9", "41ba", "ABI-ARG"),  # mov r9d -> mov r10d
    "x86-64: R6's register is not restored": (
        "x86_64", "cases/callee_saved/values.yaml::nested", "5bc9c3", "59c9c3", "ABI-SAVED"),  # pop rbx -> pop rcx
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_native_code_is_seen(name: str, tmp_path: Path) -> None:
    arch, case_id, good, bad, check = TAMPERED[name]
    data = copy.deepcopy(golden.read(golden.path_of(arch)))
    row = data["cases"][case_id]
    assert any(good in code for _, _, code in row["funcs"])
    row["funcs"] = [[subprog, offset, code.replace(good, bad)] for subprog, offset, code in row["funcs"]]
    path = tmp_path / "record.json"
    golden.write(path, {"arch": arch, "release": data["release"]}, {case_id: row})
    backend = LinuxBackend("golden", arch, golden.Golden(arch, path), load_differences(), recorded=True)
    result = Suite().judge(case_named(case_id), backend)
    assert result.status == "failed"
    assert check in {mismatch.check for mismatch in result.mismatches}
