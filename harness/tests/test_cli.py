"""The command as a user types it: exit status, message, and what is left behind."""

import json
import signal
from pathlib import Path

import pytest

from backends.base import Backend
from harness import cli
from harness.case import Case
from harness.suite import Result, Suite

ROOT = Path(__file__).resolve().parent.parent.parent
GOOD = """
- case: six
  about: Six arguments add up.
  spec: SA-V-02
  kfuncs: {"u64 kf(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)": sum}
  prog:
    main: |
      r1 = 11
      r2 = 22
      r3 = 33
      r4 = 44
      r5 = 55
      *(u64 *)(r11 - 8) = 66
      call kf
      exit
  expect: {verdict: accept, retval: 231}
"""
REJECTED = """
- case: unread
  about: R3 was never written.
  spec: SA-V-24
  prog: {main: "r0 = r3\\nexit"}
  expect: {verdict: reject, at: main 0, rule: reg-readable, msg: "R3 !read_ok"}
"""
WRONG = GOOD.replace("retval: 231", "retval: 230").replace("case: six", "case: wrong")
MALFORMED = GOOD.replace("verdict: accept", "verdit: accept").replace("case: six", "case: typo")
LOOP = """
- case: loop
  about: It never ends.
  spec: none
  prog: {main: "l: r0 = 0\\ngoto l"}
  expect: {verdict: accept, retval: 0}
"""


def case_file(folder: Path, *texts: str) -> str:
    path = folder / "c.yaml"
    path.write_text("".join(texts), encoding="utf-8")
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = cli.main(arguments)
    streams = capsys.readouterr()
    return status, streams.out + streams.err


def test_all_passed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = case_file(tmp_path, GOOD, REJECTED)
    status, text = run(capsys, "run", path, "--reports", str(tmp_path / "r"), "--json", str(tmp_path / "o.json"))
    assert (status, "2 cases: 6 passed (3 of them rightly rejected), 0 failed, 0 skipped" in text) == (0, True)
    data = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    rows = [(r["case"], r["backend"], r["verdict"], r["status"]) for r in data["results"]]
    names = ("interp", "jit-x86_64", "jit-arm64")
    assert rows == [("six", n, "accept", "passed") for n in names] + [("unread", n, "reject", "passed") for n in names]
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["junit.xml", "report.html", "report.json"]


def test_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "run", case_file(tmp_path, GOOD, WRONG), "--no-reports", "--backend", "jit-arm64")
    assert status == 1
    assert "wrong (jit-arm64)" in text
    assert "expect  retval = 230\n  got     retval = 231" in text
    assert "1 passed" in text


def test_a_malformed_case_does_not_lose_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "run", case_file(tmp_path, GOOD, MALFORMED), "--no-reports")
    assert status == 2
    assert "c.yaml:32:12: unknown key 'verdit' (did you mean 'verdict'?)" in text
    assert "1 cases: 3 passed" in text
    assert "1 unreadable" in text


def test_a_loop_is_refused_with_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "run", case_file(tmp_path, LOOP, GOOD), "--no-reports")
    assert (status, "back-edge from insn 1 to 0 (loops are not supported yet)" in text) == (1, True)
    assert "3 passed" in text


WRONG_INPUT = [
    (["run", "/nonexistent.yaml"], "cannot be read"),
    (["run", "--backend", "jit-arm"], "there is no back end 'jit-arm' (did you mean 'jit-arm64'?)"),
    (["run", "-k", "no-such-word"], "no case matches -k no-such-word"),
    (["run", "cases/args/registers.yaml::nope"], "has no case 'nope'; it has: no_arguments"),
    (["show", "nope", "--backend", "interp"], "there is no case 'nope'"),
    (["show", "one_to_twelve", "--backend", "interp"], "names 48 cases"),
    (["verify", "/nonexistent.yaml"], "cannot be read"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_INPUT, ids=[" ".join(row[0]) for row in WRONG_INPUT])
def test_wrong_input(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    status, text = run(capsys, *arguments)
    assert (status, message in text) == (2, True), text


@pytest.mark.parametrize("arguments", [["run", "--bakend", "x"], ["frobnicate"], [], ["run", "--back", "interp"]])
def test_wrong_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: callconv" in capsys.readouterr().err


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "run", str(tmp_path))
    assert (status, "there is no case file" in text) == (2, True)


def test_a_run_that_only_skips_is_not_green(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.interp.Interpreter.features", frozenset[str]())
    path = case_file(tmp_path, GOOD.replace("  kfuncs", "  needs: [kfuncs]\n  kfuncs"))
    status, text = run(capsys, "run", path, "--no-reports", "--backend", "interp")
    assert (status, "skipped 1: interp lacks kfuncs" in text) == (1, True)
    assert run(capsys, "run", path, "--no-reports", "--backend", "interp", "--allow-skips")[0] == 1
    both = case_file(tmp_path, GOOD.replace("  kfuncs", "  needs: [kfuncs]\n  kfuncs"), REJECTED)
    assert run(capsys, "run", both, "--no-reports", "--backend", "interp")[0] == 1
    assert run(capsys, "run", both, "--no-reports", "--backend", "interp", "--allow-skips")[0] == 0


def test_a_defect_of_ours_is_an_error_and_loses_no_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Suite._verdict

    def broken(self: Suite, case: object) -> object:
        if getattr(case, "name", "") == "unread":
            raise ZeroDivisionError("ours")
        return original(self, case)  # type: ignore[arg-type]

    monkeypatch.setattr(Suite, "_verdict", broken)
    status, text = run(capsys, "run", case_file(tmp_path, REJECTED, GOOD), "--no-reports")
    assert (status, "a defect of the suite itself" in text, "3 passed" in text) == (1, True, True)


def test_ctrl_c(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original, judged = Suite.judge, list[str]()

    def interrupted(self: Suite, case: Case, backend: Backend) -> Result:
        judged.append(case.name)
        if len(judged) == 5:
            signal.raise_signal(signal.SIGINT)
        return original(self, case, backend)

    monkeypatch.setattr(Suite, "judge", interrupted)
    status, text = run(capsys, "run", case_file(tmp_path, GOOD, REJECTED), "--reports", str(tmp_path / "r"))
    assert (status, "interrupted: 2 of 2 cases had begun; what they gave is reported" in text) == (130, True)
    report = json.loads((tmp_path / "r" / "report.json").read_text(encoding="utf-8"))
    assert (report["interrupted"], report["counts"]["passed"]) == (True, 4)


def test_show(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    case = "cases/args/kfunc_registers.yaml::one_to_twelve@n=9"
    status, text = run(capsys, "show", case, "--backend", "jit-arm64")
    assert status == 0
    for part in ("prologue", "str x19, [sp]", "call 1: kf(", "[sp]", "retval = ", "passed"):
        assert part in text
    status, text = run(capsys, "show", "recursion", "--backend", "interp")
    assert (status, "rejected (recursion): recursive call from f() to f()" in text) == (0, True)


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "verify", case_file(tmp_path, GOOD, REJECTED))
    assert status == 0
    assert "5: (7a) *(u64 *)(r11 -8) = 66" in text
    assert "R3 !read_ok" in text
    assert "# reject (reg-readable, errno 13)" in text
    status, text = run(capsys, "verify", case_file(tmp_path, REJECTED.replace("main 0", "main 1")))
    assert (status, "got     at = main 0" in text) == (1, True)
