"""Back ends with a verifier of their own: what is asked of them, and what is said where they differ."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Call, Died, Difference, Job, Loaded, Outcome, Ran, Refused, Unsupported, Violation
from backends.calls import Body
from backends.interp import Interpreter
from backends.linux import differs, golden, settings
from harness import cli
from harness.case import Case, load_file
from harness.report import record_of
from harness.suite import Result, Suite, unexecuted

ROOT = Path(__file__).resolve().parents[2]
ACCEPTED = """
- case: seven
  about: R0 is the result.
  spec: x
  ctx: "0a0b"
  prog: {main: "*(u8 *)(r1 + 0) = 1\\nr0 = 0x700000007 ll\\nexit"}
  expect: {verdict: accept, retval: 0x700000007, memory: "010b"}
"""
REJECTED = """
- case: unread
  about: R0 is written before it is returned.
  spec: x
  prog: {main: "r1 = 0\\nexit"}
  expect: {verdict: reject, at: main 1, rule: reg-readable, msg: R0 !read_ok}
"""
LOG = "0: (b7) r1 = 0\n1: (95) exit\nR0 !read_ok\n"
RAN = Ran(0x7_0000_0007, b"\1\x0b", (), loaded=Loaded("", 3, (0,), b"", 0, 7, b"\1\x0b"))
REFUSED = Refused("R0 !read_ok", 13, 1, LOG, 2)


class Judge:
    name = "judge"
    features = frozenset[str]()

    def __init__(self, outcome: Outcome, stated: Difference | None = None) -> None:
        self.outcome, self.stated, self.jobs = outcome, stated, list[Job]()

    def announce(self, bodies: Iterable[Body]) -> None: ...

    def describe(self) -> str:
        return "a judge"

    def difference(self, case: str) -> Difference | None:
        return self.stated

    def run(self, job: Job) -> Outcome:
        self.jobs.append(job)
        return self.outcome


def judged(tmp_path: Path, text: str, outcome: Outcome, stated: Difference | None = None) -> Result:
    return Suite().judge(case_of(tmp_path, text), Judge(outcome, stated))


def case_of(tmp_path: Path, text: str) -> Case:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    loaded = load_file(path, shown="c.yaml")
    assert not loaded.errors
    return loaded.cases[0]


def loaded(**keys: object) -> Ran:
    assert RAN.loaded is not None
    return replace(RAN, loaded=replace(RAN.loaded, **keys))  # type: ignore[arg-type]


OUTCOMES: dict[str, tuple[str, Outcome, str, str]] = {
    "accepts and runs right": (ACCEPTED, RAN, "passed", ""),
    "refuses what is right": (ACCEPTED, REFUSED, "failed", "verdict = reject: R0 !read_ok (errno 13)"),
    "low half is wrong": (ACCEPTED, loaded(retval=8), "failed", "retval = 8 (its own run)"),
    "memory is wrong": (ACCEPTED, loaded(memory=b"\2\x0b"), "failed", "memory = 02 0b (its own run)"),
    "does not run": (ACCEPTED, loaded(run_errno=22, retval=None), "failed", "errno 22"),
    "native code is wrong": (ACCEPTED, replace(RAN, retval=8), "failed", "retval = 8"),
    "native code breaks a rule": (
        ACCEPTED,
        replace(RAN, violations=(Violation("ABI-SP", "SP is odd"),)),
        "failed",
        "SP is odd",
    ),
    "native code calls too much": (ACCEPTED, replace(RAN, calls=(Call(0, "f", True, ()),)), "failed", "1 calls"),
    "refuses": (REJECTED, REFUSED, "passed", ""),
    "refuses as a whole": (REJECTED, replace(REFUSED, insn=None), "passed", ""),
    "accepts what is wrong": (REJECTED, RAN, "failed", "verdict = accept"),
    "refuses for another reason": (
        REJECTED,
        replace(REFUSED, message="R1 !read_ok", log="R1 !read_ok"),
        "failed",
        "msg = R1 !read_ok",
    ),
    "refuses with another errno": (REJECTED, replace(REFUSED, errno=22), "failed", "errno = 22: R0 !read_ok"),
    "refuses elsewhere": (REJECTED, replace(REFUSED, insn=0), "failed", "at = main 0: R0 !read_ok"),
    "dies": (ACCEPTED, Died("the guest crashed"), "failed", "the guest crashed"),
    "dies of what is wrong": (REJECTED, Died("the guest crashed"), "failed", "the guest crashed"),
    "is not there": (ACCEPTED, Unsupported("no kernel"), "skipped", ""),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_what_is_asked(name: str, tmp_path: Path) -> None:
    text, outcome, status, got = OUTCOMES[name]
    result = judged(tmp_path, text, outcome)
    assert result.status == status
    assert [m.got for m in result.mismatches][:1] == ([got] if got else [])


def test_a_case_that_says_that_the_kernel_is_too_old(tmp_path: Path) -> None:
    """It is skipped without failing the run, as long as something else ran."""
    old = judged(tmp_path, ACCEPTED, Unsupported("Linux 7.2 is older than 7.4", told=True))
    other = judged(tmp_path, ACCEPTED, Unsupported("no kernel"))
    ran = judged(tmp_path, ACCEPTED, RAN)
    assert (old.status, old.told, old.reason) == ("skipped", True, "Linux 7.2 is older than 7.4")
    assert (other.told, ran.told) == (False, False)

    def status(*results: Result) -> int:
        return cli._status(list(results), cli.Loaded(), interrupted=False, allow_skips=False)

    assert [status(old, ran), status(other, ran), status(old)] == [0, 1, 1]


def test_the_kernel_is_told_since_when(tmp_path: Path) -> None:
    judge = Judge(RAN)
    Suite().judge(case_of(tmp_path, ACCEPTED.replace("  ctx", '  since: "7.4"\n  ctx')), judge)
    assert [job.since for job in judge.jobs] == ["7.4"]


CRASH = Difference("crashed", "a NULL pointer", "differs.yaml")


@pytest.mark.parametrize(
    ("outcome", "status", "got"),
    [
        (Died("the guest crashed"), "differs", "the guest crashed"),
        (RAN, "failed", "no difference: it vanished; the entry has to go"),
        (REFUSED, "failed", "verdict = reject: R0 !read_ok (errno 13)"),
    ],
)
def test_a_stated_difference(outcome: Outcome, status: str, got: str, tmp_path: Path) -> None:
    result = judged(tmp_path, ACCEPTED, outcome, CRASH)
    assert (result.status, result.mismatches[0].got) == (status, got)
    assert not unexecuted([result])


def test_what_is_not_stated_is_left(tmp_path: Path) -> None:
    """Two things are wrong, one of them stated."""
    wrong = loaded(retval=8, memory=b"\2\x0b")
    stated = Difference(r"memory = 02 0b", "it counts twice", "differs.yaml")
    result = judged(tmp_path, ACCEPTED, wrong, stated)
    assert (result.status, [m.got for m in result.mismatches]) == ("failed", ["retval = 8 (its own run)"])


def test_a_stated_difference_of_a_refusal(tmp_path: Path) -> None:
    stated = Difference("R1 !read_ok", "it looks at R1 first", "differs.yaml")
    other = replace(REFUSED, message="R1 !read_ok", log="R1 !read_ok")
    result = judged(tmp_path, REJECTED, other, stated)
    assert (result.status, result.reason, result.verdict_word) == ("differs", "it looks at R1 first", "reject")


def test_no_kernel_is_no_difference(tmp_path: Path) -> None:
    result = judged(tmp_path, ACCEPTED, Unsupported("no kernel"), CRASH)
    assert (result.status, result.reason) == ("skipped", "no kernel")
    assert unexecuted([result])


def test_a_failed_run_is_made_once_more_for_the_report(tmp_path: Path) -> None:
    judge = Judge(loaded(retval=8))
    Suite().judge(case_of(tmp_path, ACCEPTED), judge)
    assert [job.detail for job in judge.jobs] == [False, True]
    for outcome, stated in ((RAN, None), (REFUSED, None), (loaded(retval=8), Difference("= 8", "x", "x"))):
        judge = Judge(outcome, stated)
        Suite().judge(case_of(tmp_path, ACCEPTED), judge)
        assert [job.detail for job in judge.jobs] == [False]


NO_MESSAGE = REJECTED.replace(", msg: R0 !read_ok", "")


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(REFUSED, "passed"), (replace(REFUSED, message="R0 is odd", log="R0 is odd"), "failed")],
)
def test_without_a_message_of_the_case_ours_is_asked_for(outcome: Outcome, status: str, tmp_path: Path) -> None:
    assert judged(tmp_path, NO_MESSAGE, outcome).status == status


def test_kfuncs_are_announced_to_judges_only(tmp_path: Path) -> None:
    class Listening(Judge):
        def announce(self, bodies: Iterable[Body]) -> None:
            heard.extend(body.proto.name for body in bodies)

    heard: list[str] = []
    kfuncs = '  kfuncs: {"u64 kf(u64 a)": sum}\n'
    case = case_of(tmp_path, ACCEPTED.replace("  prog:", f"{kfuncs}  prog:"))
    Suite().announce([case, case], [Interpreter(), Listening(RAN)])
    assert heard == ["kf", "kf"]


def test_a_refused_program_is_put_to_the_judge(tmp_path: Path) -> None:
    judge = Judge(REFUSED)
    Suite().judge(case_of(tmp_path, REJECTED), judge)
    assert [(job.case, job.verified) for job in judge.jobs] == [("c.yaml::unread", None)]


def test_the_report_has_the_judges_words(tmp_path: Path) -> None:
    record = record_of(judged(tmp_path, REJECTED, replace(REFUSED, errno=22)))
    assert {key: record[key] for key in ("verdict", "rule", "message", "at", "errno", "status")} == {
        "verdict": "reject", "rule": None, "message": "R0 !read_ok", "at": "main 1", "errno": 22, "status": "failed",
    }  # fmt: skip
    assert record["detail"]["log"] == LOG
    assert record_of(judged(tmp_path, ACCEPTED, RAN))["verdict"] == "accept"


RECORDS: dict[str, tuple[str, Outcome, Difference | None, dict[str, object]]] = {
    "passed": (ACCEPTED, RAN, None, {"status": "passed", "verdict": "accept", "retval": 0x7_0000_0007, "reason": ""}),
    "rejected": (REJECTED, REFUSED, None, {"status": "passed", "verdict": "reject", "errno": 13, "at": "main 1"}),
    "refused as a whole": (REJECTED, replace(REFUSED, insn=None), None, {"at": None, "rule": None, "retval": None}),
    "differs": (ACCEPTED, Died("the guest crashed"), CRASH, {"status": "differs", "reason": "a NULL pointer"}),
    "died": (
        ACCEPTED,
        Died("the guest crashed"),
        None,
        {"status": "failed", "retval": None, "calls": [], "reason": ""},
    ),
    "skipped": (
        ACCEPTED,
        Unsupported("no kernel"),
        None,
        {"status": "skipped", "reason": "no kernel", "mismatches": []},
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records(name: str, tmp_path: Path) -> None:
    text, outcome, stated, fields = RECORDS[name]
    record = record_of(judged(tmp_path, text, outcome, stated))
    assert {key: record[key] for key in fields} == fields
    assert ("detail" in record) == (name == "died")
    assert (record["file"], record["backend"]) == ("c.yaml", "judge")


def test_the_record_of_a_death_says_what_died(tmp_path: Path) -> None:
    record = record_of(judged(tmp_path, ACCEPTED, Died("the guest crashed")))
    assert record["mismatches"] == [{"check": "RUN", "expect": "a run", "got": "the guest crashed", "where": ""}]
    assert record["detail"]["reproduce"] == "callconv show c.yaml::seven --backend judge"


def test_the_record_of_a_death_has_no_verdict(tmp_path: Path) -> None:
    record = record_of(judged(tmp_path, REJECTED, Died("the guest crashed")))
    assert (record["verdict"], record.get("rule"), record.get("errno")) == (None, None, None)


CASE = "cases/args/registers.yaml::no_arguments"


@pytest.mark.parametrize(
    "arguments",
    [["run", CASE, "--backend", "golden-x86_64", "--no-reports"], ["compare", CASE, "--golden", "--arch", "x86_64"]],
)
def test_a_damaged_record_is_wrong_input(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x86_64.json").write_text("{", encoding="utf-8")
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.chdir(ROOT)
    assert cli.main(arguments) == 2
    assert "x86_64.json: cannot be read" in capsys.readouterr().err


def test_a_damaged_entry_is_wrong_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "differs.yaml"
    path.write_text("- {case: x}\n", encoding="utf-8")
    monkeypatch.setattr(differs.load_differences, "__defaults__", (path,))
    monkeypatch.chdir(ROOT)
    assert cli.main(["run", CASE, "--backend", "golden-x86_64", "--no-reports"]) == 2
    assert "differs.yaml: entry 1" in capsys.readouterr().err


def test_this_machines_kernel_needs_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    path = tmp_path / "c.yaml"
    path.write_text(ACCEPTED + REJECTED, encoding="utf-8")
    arguments = ["run", str(path), "--backend", "linux-host", "--no-reports"]
    assert (cli.main(arguments), cli.main([*arguments, "--allow-skips"])) == (1, 1)  # nothing was judged
    out = capsys.readouterr().out
    assert "skipped 2: bpf(2) on this machine's own kernel needs root" in out
    assert "linux-host: no Linux answered" in out


def test_no_kernel_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings.Settings, "__init__", lambda self, *a, **k: _set(self, tmp_path))
    monkeypatch.chdir(ROOT)
    assert cli.main(["compare", CASE, "--arch", "arm64"]) == 1
    assert "no kernel image for arm64" in capsys.readouterr().out


def test_no_kernel_is_said_and_not_green(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings.Settings, "__init__", lambda self, *a, **k: _set(self, tmp_path))
    path = tmp_path / "c.yaml"
    path.write_text(ACCEPTED + REJECTED, encoding="utf-8")
    assert cli.main(["run", str(path), "--backend", "linux-x86_64", "--no-reports"]) == 1
    out = capsys.readouterr().out
    assert "skipped 2: no kernel image for x86_64: `callconv kernel fetch` gets what is missing" in out
    assert "0 passed" in out


def _set(self: settings.Settings, cache: Path) -> None:
    for name, value in {"images": (), "qemu": None, "cache": cache}.items():
        object.__setattr__(self, name, value)
