"""Compilers' objects on the command line."""

from pathlib import Path

import pytest

from harness import cli
from harness.case import load_file

ROOT = Path(__file__).resolve().parents[2]
OBJECTS, OF_CASES = ROOT / "harness" / "isa" / "tests" / "objects", ROOT / "cases" / "objects"
CALLS = str(OF_CASES / "calls.o")


def test_an_object_runs_on_every_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", CALLS, "--no-reports"]) == 0
    assert "2 cases: 6 passed" in capsys.readouterr().out


def test_a_listing_shows_the_sources_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", f"{CALLS}::main_prog", "--backend", "jit-arm64"]) == 0
    out = capsys.readouterr().out
    assert out.count("; ./calls.c:28: c->v[0] = inner(c, GREEN, 1) + leaf(c->v[2], -5, 'x');") == 1
    assert "; ./calls.c:13: return a * 3 + b - c;" in out
    assert "call 1: inner(" in out


def test_an_object_with_maps_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(OF_CASES / "maps.o"), str(OBJECTS / "data.o"), "--no-reports"]) == 0
    assert "2 cases: 6 passed" in capsys.readouterr().out
    assert cli.main(["show", f"{OF_CASES / 'maps.o'}::counts", "--backend", "jit-x86_64"]) == 0
    out = capsys.readouterr().out
    assert "; ./maps.c:46: struct pair *pair = lookup(&pairs, &key);" in out
    assert "(18) r1 = pairs " in out
    assert "(18) r1 = map_val(.data) + 0 " in out


def test_the_verifiers_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", f"{CALLS}::with_kfunc"]) == 0
    assert "(85) call kf#1" in capsys.readouterr().out


def test_what_cannot_be_loaded_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(OBJECTS / "kconfig.o"), "--no-reports"]) == 2
    assert "CONFIG_HZ is a variable of .kconfig, which is not supported" in capsys.readouterr().out
    bad = tmp_path / "bad.o"
    bad.write_bytes(b"\x7fELF no more")
    assert cli.main(["run", str(bad), "--no-reports"]) == 2
    assert cli.main(["run", str(tmp_path / "none.o"), "--no-reports"]) == 2
    assert cli.main(["run", f"{CALLS}::nothing", "--no-reports"]) == 2


CASE = """\
- case: x
  about: It is.
  spec: C source
  kfuncs: {"u64 kf(u64 a, struct pair *p)": a}
  elf: {file: calls.o, function: with_kfunc}
  expect: {verdict: accept}
"""
WRONG = {
    ("calls.o", "none.o"): "c.yaml:5:15: none.o: cannot be read: there is no such file",
    ("calls.o", "."): "cannot be read: it is not a file",
    ("calls.o", "c.yaml"): "c.yaml: no ELF object that can be read",
    ("with_kfunc", "with_kfun"): "c.yaml:5:34: calls.o has no function 'with_kfun' (did you mean 'with_kfunc'?)"
                                 " (functions: main_prog, with_kfunc)",
    ("{file: calls.o, function: with_kfunc}", "calls.o"):
        "calls.o has several functions, and `function` names none: main_prog, with_kfunc",
    ('  kfuncs: {"u64 kf(u64 a, struct pair *p)": a}\n', ""): "kfuncs has to say what it returns",
    ("u64 a, struct pair *p", "u64 a"): "kf: the object calls it with 2 arguments",
    ("kf(u64", "kg(u64"): "the object calls no kg",
    ("  elf:", "  maps: {m: {type: array, key: 4, value: 8, entries: 1}}\n  elf:"): "maps goes with prog: an object has its own",
    ("  elf:", "  prog: {main: exit}\n  elf:"): "expected one of prog, progs, elf and trampoline, found prog and elf",
    ("function: with_kfunc", "funktion: with_kfunc"): "unknown key 'funktion' (did you mean 'function'?)",
}  # fmt: skip


@pytest.mark.parametrize("change", WRONG)
def test_what_is_wrong_with_an_object_of_a_case(change: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "calls.o").write_bytes((OF_CASES / "calls.o").read_bytes())
    path = tmp_path / "c.yaml"
    path.write_text(CASE, encoding="utf-8")
    assert load_file(path, shown="c.yaml").errors == ()
    assert change[0] in CASE
    path.write_text(CASE.replace(*change), encoding="utf-8")
    loaded = load_file(path, shown="c.yaml")
    assert loaded.cases == ()
    assert any(WRONG[change] in str(error) for error in loaded.errors), [str(error) for error in loaded.errors]


def test_native_code_without_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["jit", f"{CALLS}::main_prog", "--arch", "arm64"]) == 0
    out = capsys.readouterr().out
    assert "(arm64, " in out
    assert "; ./calls.c:28: c->v[0] = inner(c, GREEN, 1) + leaf(c->v[2], -5, 'x');" in out
    assert "bti jc" in out
    assert cli.main(["jit", f"{CALLS}::main_prog", "--arch", "arm64", "--no-bti", "--no-pac"]) == 0
    assert "bti" not in (out := capsys.readouterr().out)
    assert "paciasp" not in out
    assert cli.main(["jit", f"{CALLS}::main_prog", "--hex"]) == 0
    x86_64, arm64 = capsys.readouterr().out.split()
    assert (x86_64[:8], arm64[:8]) == ("f30f1efa", "df2403d5")  # endbr64; bti jc


@pytest.mark.parametrize(
    ("switch", "arch", "case", "gone"),
    [
        ("--no-bmi2", "x86_64", "cases/alu/registers.yaml::shift@insn=r4 <<= r1", "shlx"),
        ("--no-ibt", "x86_64", "no_arguments", "endbr64"),
        ("--no-lse", "arm64", "cases/maps/values.yaml::atomic_on_value", "swpal"),
    ],
)
def test_switches_of_the_jits(
    switch: str, arch: str, case: str, gone: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert cli.main(["jit", case, "--arch", arch]) == 0
    assert gone in capsys.readouterr().out
    assert cli.main(["jit", case, "--arch", arch, switch]) == 0
    assert gone not in capsys.readouterr().out


def test_what_has_no_native_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert cli.main(["jit", "cases/alu/refused.yaml::reserved_fields@what=exit_imm"]) == 1
    assert "rejected (reserved-field): BPF_EXIT uses reserved fields" in capsys.readouterr().out
    assert cli.main(["jit", "cases/trampoline/holes.yaml::even_register@prog=fentry"]) == 2
    assert "is a trampoline: `callconv show` prints its native code" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["run", "--no-reports"], ["verify"]])
def test_programs_of_a_section(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, CALLS, "--section", "syscall"]) == 0
    assert cli.main([*command, CALLS, "--section", "xdp"]) == 2
    assert "no program is in a section 'xdp'; sections: syscall" in capsys.readouterr().err
    assert cli.main(["jit", CALLS, "--section", "syscall"]) == 2  # two of them
    assert cli.main(["jit", str(OF_CASES / "maps.o"), "--section", "syscall", "--hex"]) == 0


@pytest.mark.parametrize("command", [["jit"], ["show", "--backend", "jit-arm64"]])
def test_insns_as_llvm_prints_them(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, f"{CALLS}::main_prog", "--form", "objdump"]) == 0
    out = capsys.readouterr().out
    assert "r1 = *(u64 *)(r6 + 0x10)" in out
    assert "w2 = -0x5" in out
    assert "(bf)" not in out
