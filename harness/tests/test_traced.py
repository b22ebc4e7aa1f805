"""Cases of trampolines: what is wrong with one is told, and what is wrong with a trampoline is seen."""

import json
from pathlib import Path

import pytest

from backends.base import Died, Unsupported
from backends.linux.attach import Request
from backends.linux.backend import LinuxBackend
from backends.linux.differs import Differences
from backends.linux.tests.test_tracing import native
from backends.trampoline import RefusedError
from backends.trampoline_grid import call_of
from harness import cli
from harness.case import LoadedFile, load_file
from harness.suite import Result, Suite
from harness.trampoline_sweep import sweep

RIGHT = """\
- case: x
  about: It is.
  spec: AAPCS64, C.14
  trampoline:
    func: u64 f(u64 a, struct {u8 b; u32 c;} d)
    args: [1, [2, 3]]
    returns: 5
    progs: [fentry, {fmod_ret: 0}, fexit]
  expect: {verdict: accept, retval: 5, place: {arm64: {d: x1}, x86_64: {d: rsi}}}
"""


def load(tmp_path: Path, text: str) -> LoadedFile:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return load_file(path, shown="c.yaml")


def test_values_are_bytes(tmp_path: Path) -> None:
    (case,) = load(tmp_path, RIGHT).cases
    assert case.traced is not None
    assert [raw.hex() for raw in case.traced.call.args] == ["0100000000000000", "0200000003000000"]
    assert case.traced.call.result.hex() == "0500000000000000"


WRONG = {
    ("u64 f(u64 a, struct", "u64 f(u64 a, strukt"): "c.yaml:5:",
    ("args: [1, [2, 3]]", "args: [1]"): "c.yaml:6:11: args: expected 2, one for each parameter, found 1",
    ("args: [1, [2, 3]]", "args: [1, 2]"): "expected a list of the members of struct {u8 b; u32 c;}, found 2",
    ("args: [1, [2, 3]]", "args: [1, [2]]"): "expected 2 members of struct",
    ("args: [1, [2, 3]]", "args: [1, [256, 3]]"): "does not hold 256",
    ("args: [1, [2, 3]]", 'args: [1, "0102"]'): "expected 8 bytes of struct",
    ("returns: 5", "returns: 5\n    tail_call: true"): "tail_call goes with target: bpf",
    ("returns: 5", "returns: 5\n    target: module"): "expected one of kernel, bpf, struct_ops",
    ("returns: 5", "returns: 5\n    target: struct_ops"): "progs: [struct_ops] goes with target: struct_ops",
    ("[fentry, {fmod_ret: 0}, fexit]", "[struct_ops]"): "progs: [struct_ops] goes with target: struct_ops",
    ("[fentry, {fmod_ret: 0}, fexit]", "[fentry, struct_ops]"): "progs: [struct_ops] goes with target: struct_ops",
    ("[fentry, {fmod_ret: 0}, fexit]", "[struct_ops]\n    target: struct_ops\n    func_ip: true"): "a struct_ops program traces no function",
    ("returns: 5", "returns: 0x10000000000000000"): "does not hold 18446744073709551616",
    ("[fentry, {", "[fentri, {"): "expected one of fentry, fmod_ret, fexit, fsession, struct_ops, found 'fentri'",
    ("{arm64: {d: x1}", "{arm64: {e: x1}"): "f has no parameter 'e' (parameters: a, d)",
    ("  expect:", "  prog: {main: exit}\n  expect:"): "expected one of prog, progs, elf and trampoline, found prog and trampoline",
    ("  expect:", "  needs: [kfuncs]\n  expect:"): "needs goes with prog",
    ("retval: 5", 'memory: "00"'): "memory goes with prog",
    ("verdict: accept, retval: 5", "verdict: reject, rule: tramp-load"): "place goes with verdict: accept only",
}  # fmt: skip


@pytest.mark.parametrize("change", WRONG)
def test_what_is_wrong_is_told(change: tuple[str, str], tmp_path: Path) -> None:
    assert change[0] in RIGHT
    loaded = load(tmp_path, RIGHT.replace(*change))
    assert loaded.cases == ()
    assert any(WRONG[change] in str(error) for error in loaded.errors), [str(error) for error in loaded.errors]


def test_neither_prog_nor_trampoline(tmp_path: Path) -> None:
    text = "- {case: x, about: It is., spec: y, expect: {verdict: accept}}\n"
    assert "expected one of prog, progs, elf and trampoline, found none" in str(load(tmp_path, text).errors[0])


FAILS = {
    ("retval: 5", "retval: 6"): "got     retval = 0x5",
    ("d: x1", "d: x2"): "got     d = x1",
    ("retval: 5,", "retval: 5, linux: {arm64: [TRAMP-CTX]},"): "expect  Linux's trampoline breaks TRAMP-CTX",
    ("{verdict: accept, retval: 5, place: {arm64: {d: x1}, x86_64: {d: rsi}}}", "{verdict: reject, rule: tramp-load}"):
        "got     verdict = accept",
    ("u64 f(", "struct {long a, b, c;} f("): "got     verdict = reject (tramp-load): load: errno 22",
}  # fmt: skip


@pytest.mark.parametrize("change", FAILS)
def test_a_case_can_fail(change: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    text = RIGHT.replace(*change)
    path.write_text(
        text.replace("returns: 5", 'returns: "' + "00" * 24 + '"') if "long a, b, c" in text else text, encoding="utf-8"
    )
    assert cli.main(["run", str(path), "--no-reports", "--backend", "jit-arm64"]) == 1
    assert FAILS[change] in capsys.readouterr().out


def test_who_makes_none_skips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(RIGHT, encoding="utf-8")
    assert cli.main(["run", str(path), "--no-reports"]) == 0
    assert "1 cases: 2 passed" in capsys.readouterr().out
    assert cli.main(["run", str(path), "--no-reports", "--backend", "interp"]) == 1
    assert "skipped 1: interp makes no trampolines" in capsys.readouterr().out


def test_show_tells_words_events_and_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(RIGHT, encoding="utf-8")
    assert cli.main(["show", f"{path}::x", "--backend", "jit-x86_64"]) == 0
    out = capsys.readouterr().out
    assert "ctx[1]  d, bytes 0 to 7          rsi" in out
    assert (
        "enter; enter 0; fentry 0; exit 0; enter 1; fmod_ret 1; exit 1; original; enter 2; fexit 2; exit 2; exit" in out
    )
    assert "push rbp" in out


def test_a_report_has_the_trampoline_and_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(RIGHT.replace("retval: 5", "retval: 6"), encoding="utf-8")
    assert cli.main(["run", str(path), "--reports", str(tmp_path / "out"), "--backend", "jit-arm64"]) == 1
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "ctx[1]  d, bytes 0 to 7          x1" in page
    assert "<svg" in page
    assert ">BPF</summary>" not in page


def test_trampolines_are_left_out_where_nobody_makes_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    plain = '- {case: y, about: It is., spec: z, prog: {main: "r0 = 0\\nexit"}, expect: {verdict: accept}}\n'
    path.write_text(RIGHT + plain, encoding="utf-8")
    assert cli.main(["run", str(path), "--no-reports", "--backend", "interp"]) == 0
    out = capsys.readouterr().out
    assert "1 trampolines are left out: interp makes none" in out
    assert "2 cases: 1 passed (0 of them rightly rejected), 0 failed, 0 skipped" in out


def test_a_report_draws_each_layout_once(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(RIGHT + RIGHT.replace("case: x", "case: y"), encoding="utf-8")
    reports = tmp_path / "out"
    assert (
        cli.main(["run", str(path), "--reports", str(reports), "--backend", "jit-arm64", "--backend", "jit-x86_64"])
        == 0
    )
    page = (reports / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert ">x86_64</figcaption>" in page
    assert [row["traced"] for row in json.loads((reports / "report.json").read_text())["results"]] == [
        {"func": "u64 f(u64 a, struct {u8 b; u32 c;} d)", "arch": arch, "target": "kernel"}
        for arch in ("arm64", "x86_64")
    ] * 2


# --- a kernel's trampolines


class Kernel:
    """A back end of a Linux, with ours as its trampolines, or with what a test gives."""

    def __init__(self, made: object = None) -> None:
        self.made = made
        self.arch, self.release = "arm64", "7.2"

    def announce(self, bodies: object) -> None:
        pass

    def close(self) -> None:
        pass

    def reply(self, job: object) -> Unsupported:
        return Unsupported("no programs")

    def announce_trampolines(self, requests: object) -> None:
        self.announced = requests

    def trampoline(self, request: Request) -> object:
        return native("arm64", self.call) if self.made is None else self.made

    def judge(self, tmp_path: Path, text: str) -> Result:
        (case,) = load(tmp_path, text).cases
        assert case.traced is not None
        self.call = case.traced.call
        backend = LinuxBackend("linux-arm64", "arm64", self, Differences())
        Suite().announce([case], [backend])
        return Suite().judge(case, backend)


HOLE = """\
- case: x
  about: It is.
  spec: AAPCS64, C.10
  trampoline: {func: "u64 f(u64 a, struct {__int128 x;} b, u64 c)", args: [1, [2], 3], returns: 5, progs: [fentry]}
  expect: {verdict: accept, retval: 5, linux: {arm64: [TRAMP-CTX, TRAMP-ARG]}}
"""
REFUSED = RefusedError("load", 22, "The function f is unsupported.")


def test_a_kernel_that_is_right_passes(tmp_path: Path) -> None:
    result = Kernel().judge(tmp_path, RIGHT)
    assert (result.status, result.mismatches) == ("passed", ())


def test_a_kernel_that_is_wrong_as_stated_differs(tmp_path: Path) -> None:
    result = Kernel().judge(tmp_path, HOLE)
    assert result.status == "differs"
    assert result.reason == "the case states it of Linux 7.2: TRAMP-CTX, TRAMP-ARG"
    assert "at x4 (C.9)" in result.mismatches[-1].got


def test_a_kernel_that_is_wrong_otherwise_fails(tmp_path: Path) -> None:
    for text in (HOLE.replace(", linux: {arm64: [TRAMP-CTX, TRAMP-ARG]}", ""), HOLE.replace(", TRAMP-ARG]", "]")):
        result = Kernel().judge(tmp_path, text)
        assert result.status == "failed"
        assert any("original" in line for line in result.listing)


def test_a_kernel_that_refuses(tmp_path: Path) -> None:
    assert Kernel(REFUSED).judge(tmp_path, RIGHT).status == "failed"
    assert Kernel(REFUSED).judge(tmp_path, HOLE.replace("[TRAMP-CTX, TRAMP-ARG]", "refused")).status == "differs"
    rejects = RIGHT.replace(
        "verdict: accept, retval: 5, place: {arm64: {d: x1}, x86_64: {d: rsi}}",
        "verdict: reject, rule: tramp-load, msg: unsupported",
    )
    assert Kernel(REFUSED).judge(tmp_path, rejects).status == "passed"
    assert Kernel(REFUSED).judge(tmp_path, rejects.replace("msg: unsupported", "msg: forbidden")).status == "failed"
    assert Kernel(REFUSED).judge(tmp_path, rejects.replace("tramp-load", "tramp-attach")).status == "failed"
    assert Kernel().judge(tmp_path, rejects).status == "failed"
    assert Kernel().judge(tmp_path, rejects.replace("msg: unsupported", "linux: {arm64: accepted}")).status == "differs"


def test_a_kernel_that_cannot_be_asked(tmp_path: Path) -> None:
    result = Kernel(Unsupported("no compiler")).judge(tmp_path, RIGHT)
    assert (result.status, result.reason) == ("skipped", "no compiler")
    result = Kernel(Died("it is gone")).judge(tmp_path, RIGHT)
    assert (result.status, result.mismatches[0].got) == ("failed", "it is gone")


def test_what_linux_does_is_stated_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Our own `linux` mode refuses a struct as result: a case that does not say so is wrong."""
    path = tmp_path / "c.yaml"
    text = (
        HOLE.replace("u64 f(u64 a", "struct {int x, y;} f(u64 a")
        .replace("returns: 5, ", "returns: [1, 2], ")
        .replace("retval: 5, linux: {arm64: [TRAMP-CTX, TRAMP-ARG]}", "retval: 0x200000001")
    )
    path.write_text(text, encoding="utf-8")
    assert cli.main(["run", str(path), "--no-reports", "--backend", "jit-arm64"]) == 1
    assert "Linux makes the trampoline" in capsys.readouterr().out
    path.write_text(text.replace("0x200000001", "0x200000001, linux: {arm64: refused}"), encoding="utf-8")
    assert cli.main(["run", str(path), "--no-reports", "--backend", "jit-arm64"]) == 0


# --- the sweep


def test_a_sweep_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trampoline-sweep", "1-8"]) == 0
    out = capsys.readouterr().out
    assert "arm64: 8 calls through our trampolines, 8 made, 0 refused" in out
    assert "seeds 1-8, 0 differences" in out


@pytest.mark.parametrize("target", ["bpf", "struct_ops"])
def test_a_sweep_of_other_targets(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trampoline-sweep", "1-40", "--target", target]) == 0
    assert "seeds 1-40, 0 differences" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["0-3"], ["x"], ["5-1"], ["1", "--backend", "interp"]])
def test_a_sweep_that_cannot_be(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trampoline-sweep", *words]) == 2
    assert "callconv: " in capsys.readouterr().err


def test_a_sweep_beside_a_kernel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds 1-4 of the grid are scalars; a kernel that gives one trampoline for all of them is found out."""
    kernel = Kernel()
    kernel.call = call_of(1)
    backend = LinuxBackend("linux-arm64", "arm64", kernel, Differences())
    assert not sweep(1, 2, [backend], print)
    out = capsys.readouterr().out
    assert "seed 1, arm64" not in out
    assert "seed 2, arm64: u64 f(u8 a1); fexit" in out


def test_show_tells_who_found_what(capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: C.10 leaves x1 empty, which Linux 7.2.13 takes for the first half of `b`."""
    for backend, lines in {
        "jit-arm64": ["fentry 0 finds in ctx: 0x1 0x2 0x3 0x4", "f finds: a = 0x1, b = 0x30000000000000002, c = 0x4"],
        "golden-arm64": ["fentry 0 finds in ctx: 0x1 0xbad0bad0bad0000e 0x2 0x3"],
    }.items():
        differs = backend == "golden-arm64"
        assert cli.main(["show", "even_register@prog=fentry", "--backend", backend]) == differs
        shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
        assert [line for line in (*lines, "its caller gets: 0xa") if line not in shown] == []


OWN = """\
- case: x
  about: It is.
  spec: TR-61
  trampoline:
    func: u64 f(u64 a, u8 b)
    args: [1, 2]
    progs: [{fmod_ret: {prog: {main: "r0 = *(u64 *)(r1 + 0)\\nexit"}}}]
  expect: {verdict: accept, retval: 1}
"""
WRONG_OWN = {
    ("r1 + 0", "r1 + 4"): "c.yaml:7:39: the verifier refuses it: invalid bpf_context access off=4 size=8",
    ("fmod_ret: {prog", "fentry: {returns: 5, prog"): "returns goes with fmod_ret; others return 0",
    ("r1 + 0)", "r1 + 0"): "c.yaml:7:",
    ("exit", "call bpf_get_prandom_u32\\nexit"): "it calls nothing but its own subprogs here",
    ("exit", "r0 = 1\\n" * 100 + "exit"): "expected at most 100 insns, found 102",
    ("{prog:", "{returns: 3, prog:"): "returns: the program's own text says what it returns",
    ("progs:", "target: bpf\n    progs:"): "goes with target: kernel",
    ("u8 b)", "u8 b, ...)"): "func: no fmod_ret program traces it: The function f with variable args",
    ("fmod_ret:", "fexit:"): "the verifier refuses it: At program exit the register R0 has",
    ("{prog:", "{prig:"): "did you mean 'prog'?",
}  # fmt: skip


@pytest.mark.parametrize("change", WRONG_OWN)
def test_what_is_wrong_with_a_program_of_its_own(change: tuple[str, str], tmp_path: Path) -> None:
    assert change[0] in OWN
    assert load(tmp_path, OWN).errors == ()
    loaded = load(tmp_path, OWN.replace(*change, 1))
    assert loaded.cases == ()
    assert any(WRONG_OWN[change] in str(error) for error in loaded.errors), [str(error) for error in loaded.errors]


def test_show_has_what_linux_makes(capsys: pytest.CaptureFixture[str]) -> None:
    """The mode that a case runs in either way, by itself."""
    arguments = ["show", "even_register@prog=fentry", "--backend", "jit-arm64", "--mode", "linux"]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert (
        "TRAMP-CTX: fentry program 0: argument 2 `b` (C.11) at ctx[1] is " in shown or "(C.12) at ctx[1] is " in shown
    )
    assert "finds in ctx: 0x1 0xbad0bad0bad0000e 0x2 0x3" in shown
