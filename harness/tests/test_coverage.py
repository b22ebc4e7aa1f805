"""The list of what the cases have."""

from pathlib import Path

import pytest

from harness import cli
from harness.case import find_files, load_file
from harness.coverage import Row, covered, every_insn, name_of, report_lines
from harness.isa.insn import Hole, Insn, Undefined, decode
from harness.plugins import make_backends

ROOT = Path(__file__).resolve().parents[2]


def test_every_insn_has_a_passing_case_on_each_engine() -> None:
    cases = [case for path in find_files([ROOT / "cases"]) for case in load_file(path).cases]
    assert [row.name for row in covered(cases, make_backends(None)) if not row.is_covered] == []


def test_every_opcode_has_a_row() -> None:
    """Whatever decodes to an insn belongs to a row, and there is no row twice."""
    rows = [name for name, _ in every_insn()]
    assert len(rows) == len(set(rows))
    for opcode in range(256):
        for off, imm in (
            (0, 0),
            (1, 0),
            (8, 0),
            (16, 0),
            (32, 0),
            (0, 16),
            (0, 32),
            (0, 64),
            (0, 0x100),
            (0, 0x110),
            (0, 0xF1),
        ):
            for typed in decode((Insn(opcode, off=off, imm=imm), Insn(0))):
                name = name_of(typed)
                assert name in rows if name is not None else isinstance(typed, Hole | Undefined)


def test_groups_are_those_of_the_rfc() -> None:
    groups = dict(every_insn())
    assert {name: groups[name] for name in ("add32 register", "jeq64 constant", "mul32 constant", "smod64 register", "be16", "be64")} == {
        "add32 register": "base32", "jeq64 constant": "base64", "mul32 constant": "divmul32", "smod64 register": "divmul64",
        "be16": "base32", "be64": "base64",
    }  # fmt: skip
    assert (groups["atomic add u32"], groups["atomic xchg u64"], groups["packet u8 absolute"]) == (
        "atomic32",
        "atomic64",
        "packet",
    )


def test_what_lacks_a_case_is_shown() -> None:
    rows = [
        Row("x", "base32", passed={"interp": 1, "jit": 0}),
        Row("y", "base32", passed={"interp": 1, "jit": 2}),
        Row("callx", "base32", passed={"interp": 0, "jit": 0}),
    ]
    assert [row.is_covered for row in rows] == [False, True, False]
    text = list(report_lines(rows, every=False))
    assert [line.split()[0] for line in text] == ["insn", "x", "callx", "base32:"]
    assert text[-1] == "base32: 1 of 3 covered"


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "- {case: a, about: b, spec: c, prog: {main: 'r0 = 1\n\n exit'}, expect: {verdict: accept, retval: 1}}\n",
        encoding="utf-8",
    )
    assert cli.main(["coverage", str(path)]) == 1
    assert "base32: 1 of " in capsys.readouterr().out
    assert cli.main(["sweep", "1-30", "--backend", "jit-arm64"]) == 0
    assert "30 programs" in capsys.readouterr().out
    assert cli.main(["sweep", "9-3"]) == 2
    assert "SEEDS is N, or FIRST-LAST, found '9-3'" in capsys.readouterr().err
