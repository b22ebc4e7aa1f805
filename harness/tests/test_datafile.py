"""Other people's test files, and their plugin protocol from the other side."""

import io
import sys
from pathlib import Path

import pytest

from harness import cli, plugin_command
from harness.case import CaseError
from harness.datafile import judge, read_data_file
from harness.dialect import DialectError, assemble_dialect
from harness.plugins import make_backends

# (text, bytes). RFC 9669; the spelling is uBPF's.
INSNS = {
    "add %r0, 1": "07 00 00 00 01 00 00 00",
    "add32 %r1, %r2": "0c 21 00 00 00 00 00 00",
    "sub %r1, -1": "17 01 00 00 ff ff ff ff",
    "mov %r3, 0xffffffff": "b7 03 00 00 ff ff ff ff",
    "neg %r1": "87 01 00 00 00 00 00 00",
    "neg32 %r1": "84 01 00 00 00 00 00 00",
    "arsh32 %r1, 4": "c4 01 00 00 04 00 00 00",
    "sdiv %r1, %r2": "3f 21 01 00 00 00 00 00",
    "smod32 %r1, 3": "94 01 01 00 03 00 00 00",
    "movsx864 %r1, %r2": "bf 21 08 00 00 00 00 00",
    "movsx3264 %r1, %r2": "bf 21 20 00 00 00 00 00",
    "movsx1632 %r1, %r2": "bc 21 10 00 00 00 00 00",
    "le16 %r1": "d4 01 00 00 10 00 00 00",
    "be64 %r1": "dc 01 00 00 40 00 00 00",
    "swap32 %r1": "d7 01 00 00 20 00 00 00",
    "lddw %r1, 0x1122334455667788": "18 01 00 00 88 77 66 55 00 00 00 00 44 33 22 11",
    "ldxdw %r0, [%r1+2]": "79 10 02 00 00 00 00 00",
    "ldxb %r0, [%r1]": "71 10 00 00 00 00 00 00",
    "ldxsh %r0, [%r1-0x10]": "89 10 f0 ff 00 00 00 00",
    "stw [%r10-4], 7": "62 0a fc ff 07 00 00 00",
    "stxh [%r1+2], %r3": "6b 31 02 00 00 00 00 00",
    "ja +2": "05 00 02 00 00 00 00 00",
    "ja32 -1": "06 00 00 00 ff ff ff ff",
    "jeq %r1, 5, +3": "15 01 03 00 05 00 00 00",
    "jsgt32 %r1, %r2, -2": "6e 21 fe ff 00 00 00 00",
    "call 5": "85 00 00 00 05 00 00 00",
    "call helper 0x7": "85 00 00 00 07 00 00 00",
    "call local +4": "85 10 00 00 04 00 00 00",
    "call runtime 9": "85 20 00 00 09 00 00 00",
    "lock add [%r1+8], %r2": "db 21 08 00 00 00 00 00",
    "lock fetch or32 [%r1], %r2": "c3 21 00 00 41 00 00 00",
    "lock xchg [%r1+0], %r2": "db 21 00 00 e1 00 00 00",
    "lock cmpxchg32 [%r1+0], %r2": "c3 21 00 00 f1 00 00 00",
    "exit": "95 00 00 00 00 00 00 00",
}


@pytest.mark.parametrize("text", INSNS)
def test_insns(text: str) -> None:
    assert b"".join(insn.to_bytes() for insn in assemble_dialect([text])).hex(" ") == INSNS[text]


def test_labels_and_comments() -> None:
    lines = [
        "  mov %r0, 3 # three",
        "again: sub %r0, 1",
        "lddw %r1, 1 ; wide",
        "jne %r0, 0, again",
        "ja32 out",
        "exit",
        "out: exit // end",
    ]
    raw = [insn.to_bytes().hex() for insn in assemble_dialect(lines)]
    assert (raw[4], raw[5]) == ("5500fcff00000000", "0600000001000000")


WRONG = {
    "frob %r1": "there is no insn 'frob'",
    "add %r1": "add takes 2 operands, found 1",
    "add %r1, ": "add takes 2 operands, found 2",
    "add %r16, 1": "expected a register (%r0-%r10), found '%r16'",
    "add r1, 1": "expected a register",
    "add %r1, 0x100000000": "0x100000000 does not fit in 32 bits",
    "add %r1, ten": "expected a number, found 'ten'",
    "ldxw %r1, %r2": "expected a place in memory ([%r1+8])",
    "stw [%r1+70000], 1": "does not fit in 16 bits",
    "jeq %r1, 5, out": "there is no label 'out'",
    "lock frob [%r1], %r2": "expected [fetch] add, or, and, xor, xchg or cmpxchg",
    "call remote f": "expected call local, helper or runtime, found 'remote'",
    "exit 1": "exit takes 0 operands, found 1",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_insn(text: str) -> None:
    with pytest.raises(DialectError) as found:
        assemble_dialect(["exit", text])
    assert found.value.line == 1
    assert WRONG[text] in found.value.message


def data(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.data"
    path.write_text(text, encoding="utf-8")
    return path


RESULTS = {
    "asm": ("-- asm\nmov %r0, 7\nexit\n-- result\n0x7\n", "passed"),
    "memory and length": (
        "-- asm\nldxb %r0, [%r1+1]\nadd %r0, %r2\nexit\n-- mem\n01 02\n03\n-- result\n0x5\n",
        "passed",
    ),
    "raw": ("-- raw\n0x00000007000000b7 # mov\n0x0000000000000095\n-- result\n7\n", "passed"),
    "the last line counts": ("-- asm\nmov %r0, 7\nexit\n-- result\n# first\n0x1\n0x7\n", "passed"),
    "64 bits": ("-- asm\nmov %r0, -1\nexit\n-- result\n0xffffffffffffffff\n", "passed"),
    "a loop and a function": (
        "-- asm\nmov %r0, 0\nmov %r6, 5\nl: mov %r1, %r0\ncall local f\nsub %r6, 1\njne %r6, 0, l\nexit\nf:\nmov %r0, %r1\nadd %r0, 2\nexit\n-- result\n10\n",
        "passed",
    ),
    "a wrong result": ("-- asm\nmov %r0, 7\nexit\n-- result\n0x8\n", "failed"),
    "an error that comes": ("-- asm\ncall helper 999\nexit\n-- error\nno such helper\n", "passed"),
    "an error that does not": ("-- asm\nmov %r0, 7\nexit\n-- error\nsome\n", "failed"),
    "no insn": ("-- raw\n0x00000000000000e7\n0x95\n-- result\n7\n", "failed"),
    "a jump out": ("-- asm\nja +7\nexit\n-- result\n7\n", "failed"),
    "other sections": (
        "-- c\nint x;\n-- asm\nmov %r0, 7\nexit\n-- no register offset\ncall\n-- result\n0x7\n",
        "passed",
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_files(name: str, tmp_path: Path) -> None:
    text, status = RESULTS[name]
    results = judge(read_data_file(data(tmp_path, text), "x.data"), make_backends(None))
    assert [result.status for result in results] == [status] * 3


UNREADABLE = {
    "-- asm\nfrob\n-- result\n1\n": (2, "there is no insn 'frob'"),
    "-- asm\nexit\n": (1, "expected one section -- result or -- error"),
    "-- result\n1\n": (1, "expected a program: one section -- asm or -- raw"),
    "-- asm\nexit\n-- raw\n1\n-- result\n1\n": (1, "expected a program"),
    "-- asm\nexit\n-- rsult\n1\n": (3, "there is no section 'rsult'; there are: asm, raw,"),
    "-- asm\nexit\n-- asm\nexit\n-- result\n1\n": (3, "there is a section 'asm' already"),
    "exit\n-- result\n1\n": (1, "expected a section"),
    "-- asm\nexit\n-- result\nseven\n": (4, "result: expected a number of 64 bits, found 'seven'"),
    "-- asm\nexit\n-- result\n": (1, "result: expected a number"),
    "-- asm\nexit\n-- mem\n0g\n-- result\n1\n": (4, "mem: expected bytes as hex digits, found '0g'"),
    "-- raw\n0x11223344556677889\n-- result\n1\n": (2, "raw: expected 64 bits of hex digits"),
    "-- asm\n-- result\n1\n": (1, "the program has no insn"),
}


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_file_that_cannot_be_read_says_where(text: str, tmp_path: Path) -> None:
    with pytest.raises(CaseError) as found:
        read_data_file(data(tmp_path, text), "x.data")
    line, message = UNREADABLE[text]
    assert (found.value.line, message in found.value.message) == (line, True)


def test_the_command_reports_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.data").write_text(RESULTS["asm"][0], encoding="utf-8")
    (tmp_path / "bad.data").write_text("-- asm\nfrob\n-- result\n1\n", encoding="utf-8")
    run = ["run", "--format", "bpf-conformance", "--no-reports"]
    assert cli.main([*run, str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert "bad.data:2:1: there is no insn 'frob'" in out
    assert "1 cases: 3 passed" in out
    assert "1 unreadable" in out
    assert cli.main([*run, str(tmp_path / "good.data")]) == 0
    assert cli.main([*run, str(tmp_path / "none")]) == 2
    assert cli.main(run) == 2


def test_a_runtime_judged_by_a_file(tmp_path: Path) -> None:
    lying = tmp_path / "lying.py"
    lying.write_text("print('7')", encoding="utf-8")
    honest = tmp_path / "honest.py"
    honest.write_text("import sys; print('no'); sys.exit(1)", encoding="utf-8")
    backends = make_backends([f"plugin:{sys.executable} -S {path}" for path in (lying, honest)])
    right = read_data_file(data(tmp_path, RESULTS["asm"][0]), "x.data")
    assert [result.status for result in judge(right, backends)] == ["passed", "failed"]
    error = read_data_file(data(tmp_path, RESULTS["an error that comes"][0]), "x.data")
    results = judge(error, backends)
    assert [result.status for result in results] == ["failed", "passed"]
    assert results[0].mismatches[0].got == "retval = 7, status 0"


PLUGIN = {
    "a program": (["0102"], "7110010000000000 9500000000000000", 0, "2\n", ""),
    "its memory with spaces": (["01 02"], "71100100000000009500000000000000", 0, "2\n", ""),
    "no memory": ([], "b7000000ffffffff9500000000000000", 0, "ffffffffffffffff\n", ""),
    "on a JIT": (["--backend", "jit-arm64", "0102"], "71100100000000009500000000000000", 0, "2\n", ""),
    "no program": ([], "", 1, "", "the program has no insn\n"),
    "no hex": ([], "xyz", 1, "", "the program is no bytes in hex digits\n"),
    "half an insn": ([], "95", 1, "", "1 bytes are not a whole number of 8-byte insns\n"),
    "no insn": ([], "e700000000000000", 1, "", "insn 0 is none: e7 00 00 00 00 00 00 00\n"),
    "a fault": ([], "79000000000000009500000000000000", 1, "", "MEM: R0 is read and holds nothing\n"),
    "an option": (["--frob"], "95", 1, "", plugin_command.USAGE + "\n"),
    "no such back end": (
        ["--backend", "jit-arm"],
        "b7000000010000009500000000000000",
        1,
        "",
        "there is no back end 'jit-arm'",
    ),
}


@pytest.mark.parametrize("name", PLUGIN)
def test_being_a_plugin(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, program, status, out, err = PLUGIN[name]
    monkeypatch.setattr(sys, "stdin", io.StringIO(program))
    assert plugin_command.main(arguments) == status
    said = capsys.readouterr()
    assert said.out == out
    assert said.err.startswith(err)
