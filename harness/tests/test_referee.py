"""Back ends with a verifier of their own: what is asked of them, and what is said where they differ."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Call, Died, Difference, Job, Loaded, Outcome, Ran, Refused, Unsupported, Violation
from backends.calls import Body
from backends.linux import settings
from harness import cli
from harness.case import Case, load_file
from harness.report import record_of
from harness.suite import Result, Suite, unexecuted

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
