"""The three files of a run, and the page that explains them."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from backends.calls import Body
from backends.native import NativeBackend
from backends.x86_64.jit import X8664Jit
from harness import report
from harness.case import Case, load_file
from harness.report import Record, compiled_templates, counts, failure_lines, html, junit, record_of, report_data
from harness.suite import Suite
from harness.tests.test_cli import GOOD, WRONG

ROOT = Path(__file__).resolve().parent.parent.parent
ERROR = {"file": "a.yaml", "line": 3, "column": 4, "message": "broken \x00 here"}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    path = tmp_path_factory.mktemp("r") / "c.yaml"
    hostile = WRONG.replace("Six arguments add up.", "<script>alert(1)</script> \\u0001")
    path.write_text(GOOD + hostile, encoding="utf-8")
    backend, suite = NativeBackend("jit-x86_64", X8664Jit()), Suite()
    return [record_of(suite.judge(case, backend)) for case in load_file(path, shown="c.yaml").cases]


def documented(heading: str) -> set[str]:
    page = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
    section = page.split(heading, 1)[1]
    rows = section.split("\n\n", 2)[1]
    fields = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", rows, re.MULTILINE)
    return {name for row in fields for name in re.findall(r"`(\w+)`", row)}


def test_every_field_is_documented(records: list[Record]) -> None:
    data = report_data(records, [ERROR], interrupted=False, command="callconv run")
    assert set(data) == documented("## report.json")
    everything = set().union(*records) | {"rule", "message", "at", "errno", "traced"}
    assert everything == documented("A result:")


def test_counts(records: list[Record]) -> None:
    assert counts(records) == {"passed": 1, "differs": 0, "failed": 1, "error": 0, "skipped": 0}


def test_junit_is_xml_and_counts(records: list[Record]) -> None:
    root = ET.fromstring(junit(records, [ERROR]))
    suite = root[0]
    wanted = {"tests": "3", "failures": "1", "errors": "1", "skipped": "0"}
    assert {key: suite.get(key) for key in wanted} == wanted
    assert [case.get("classname") for case in suite] == ["c.six", "c.wrong", "a.yaml"]
    failure = suite[1].find("failure")
    assert failure is not None
    assert "retval = 230" in (failure.text or "")


def test_html_escapes_and_shows_the_listing(records: list[Record]) -> None:
    page = html(report_data(records, [ERROR], interrupted=True, command="callconv run <x>"))
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    for part in (
        "The run was interrupted",
        "mov r9d, 0x42",
        "(7a) *(u64 *)(r11 -8) = 66",
        "a.yaml:3:4",
        "retval = 231",
    ):
        assert part in page
    assert "http" not in re.sub(r"</?html[^>]*>", "", page)


def test_a_failure_in_lines(records: list[Record]) -> None:
    lines = failure_lines(records[1])
    assert lines[0] == "c.yaml:18: wrong (jit-x86_64)"
    assert [line.split()[0] for line in lines[1:]] == ["spec", "expect", "got"]


def case_with(case: Case, **changes: Any) -> Case:
    return replace(case, expect=replace(case.expect, **changes))


def test_every_expectation_can_fail(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD, encoding="utf-8")
    case = load_file(path).cases[0]
    backend, suite = NativeBackend("jit-x86_64", X8664Jit()), Suite()
    assert suite.judge(case, backend).status == "passed"
    other = load_file(path).cases[0]
    calls = (replace_call(other, 67),)
    broken = {
        "retval": case_with(case, retval=5),
        "memory": case_with(case, memory=b"\x01"),
        "calls": case_with(case, calls=calls),
        "verdict": case_with(case, verdict="reject", rule="reg-readable", at="main 0"),
    }
    for check, changed in broken.items():
        result = suite.judge(changed, backend)
        assert (result.status, result.mismatches[0].check) == ("failed", check)
    assert suite.judge(case_with(case, calls=(replace_call(other, 66),)), backend).status == "passed"
    lying = replace(case, kfuncs=(Body(case.kfuncs[0].proto, "f"),))
    assert suite.judge(lying, backend).mismatches[0].got == "retval = 66"


def replace_call(case: Case, last: int) -> Any:
    from harness.case import ExpectedCall

    return ExpectedCall(case.kfuncs[0].proto.name, (11, 22, 33, 44, 55, last))


def test_reject_expectations_can_fail(tmp_path: Path) -> None:
    text = """
- case: c
  about: x
  spec: y
  prog: {main: "r0 = r3\\nexit"}
  expect: {verdict: reject, at: main 0, rule: reg-readable, msg: ["R{{[0-9]}} !read", "processed {{1}} insns"]}
"""
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    case = load_file(path).cases[0]
    backend, suite = NativeBackend("jit-x86_64", X8664Jit()), Suite()
    assert suite.judge(case, backend).status == "passed"
    broken = {
        "rule": case_with(case, rule="mem-type"),
        "at": case_with(case, at="main 1"),
        "msg": case_with(case, msg=("processed {{1}} insns", "R{{[0-9]}} !read")),  # the wrong order
        "verdict": case_with(case, verdict="accept"),
    }
    for check, changed in broken.items():
        assert suite.judge(changed, backend).mismatches[0].check == check


def test_the_compiled_template_is_kept_where_that_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert compiled_templates(tmp_path) is None
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert compiled_templates(tmp_path) is not None
    assert (tmp_path / "__pycache__").is_dir()
    assert compiled_templates(tmp_path / "is" / "not" / "there") is None


def test_a_damaged_template_is_compiled_again(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    cache = compiled_templates(tmp_path)
    monkeypatch.setattr(report, "compiled_templates", lambda templates: cache)
    data = report_data(records, [], interrupted=False, command="callconv run")
    whole = html(data)
    (kept,) = (tmp_path / "__pycache__").iterdir()
    good = kept.read_bytes()
    for size in (0, 5, 24, 30, 1000):
        kept.write_bytes(good[:size])
        assert html(data) == whole
