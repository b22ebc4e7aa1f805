"""Writes reports/: report.json, junit.xml and report.html, all from one list of plain records."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from backends.base import Answered, Died, Ran, Refused
from harness.case import Case, CaseError
from harness.listing import Row, bpf_rows, frame_lines, native_rows, value_text
from harness.suite import Result
from verifier.verdict import Rejected

if TYPE_CHECKING:
    import jinja2

SCHEMA: Final = 1  # of report.json; raised when a field changes its meaning or goes away
Record = dict[str, Any]


def record_of(result: Result) -> Record:
    """One result as plain data; the fields are those of reports/README.md."""
    case, verdict = result.case, result.verdict
    record: Record = {
        "file": case.file,
        "line": case.line,
        "case": case.name,
        "backend": result.backend,
        "status": result.status,
        "verdict": result.verdict_word,
        "about": case.about,
        "spec": list(case.spec),
        "seconds": round(result.seconds, 6),
        "reason": result.reason,
        "mismatches": [
            {"check": m.check, "expect": m.expect, "got": m.got, "where": m.where} for m in result.mismatches
        ],
        "retval": None,
        "calls": [],
    }
    if isinstance(result.outcome, Refused):
        refused = result.outcome
        at = None if refused.insn is None else case.assembled.prog.where(refused.insn)
        record |= {"rule": None, "message": refused.message, "at": at, "errno": refused.errno}
    elif isinstance(verdict, Rejected) and not isinstance(result.outcome, Ran | Died):
        at = None if verdict.insn is None else case.assembled.prog.where(verdict.insn)
        record |= {"rule": verdict.rule, "message": verdict.message, "at": at, "errno": verdict.errno}
    if isinstance(result.outcome, Answered):
        record["retval"] = result.outcome.retval
    if isinstance(result.outcome, Ran):
        record["retval"] = result.outcome.retval
        record["calls"] = [{"callee": c.callee, "args": [value_text(a) for a in c.args]} for c in result.outcome.calls]
    if case.traced is not None:
        record["traced"] = {"func": case.traced.func, "arch": result.arch, "target": case.traced.call.target.value}
    if result.status in ("failed", "error"):
        record["detail"] = _detail(result)
    return record


def _detail(result: Result) -> Record:
    """What a failure is explained by: the log, and the listings."""
    case = result.case
    detail: Record = {
        "log": _log(result),
        "reproduce": _command(case, result.backend),
        "bpf": [_row(row) for row in bpf_rows(case.assembled.prog, case.lines)],
        "native": [],
        "frames": [],
    }
    if case.traced is not None:
        detail["trampoline"] = list(result.listing)
    if isinstance(result.outcome, Ran):
        if result.outcome.image is not None:
            rows = native_rows(result.outcome.image, case.lines)
            detail["native"] = [_row(row) for row in rows]
        detail["frames"] = ["\n".join(frame_lines(view)) for view in result.outcome.frames]
    return detail


def _command(case: Case, backend: str) -> str:
    if case.file.endswith(".data"):
        return f"callconv run --format bpf-conformance {case.file} --backend {backend}"
    return f"callconv show {case.file}::{case.name} --backend {backend}"


def _log(result: Result) -> str:
    """Of the verifier that judged."""
    if isinstance(result.outcome, Refused):
        return result.outcome.log
    if isinstance(result.outcome, Ran) and result.outcome.loaded is not None:
        return result.outcome.loaded.log
    return result.verdict.log if result.verdict else ""


def _row(row: Row) -> Record:
    text = f"{row.text}    ; {row.source}" if row.source else row.text
    return {"subprog": row.subprog, "number": row.number, "text": text, "native": [list(n) for n in row.native]}


def error_record(error: CaseError) -> Record:
    """A case file that cannot be read."""
    return {"file": error.file, "line": error.line, "column": error.column, "message": error.message}


def counts(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many results have each status; all five are always there."""
    total = dict.fromkeys(("passed", "differs", "failed", "error", "skipped"), 0)
    for record in records:
        total[record["status"]] += 1
    return total


def write_reports(
    folder: Path, records: Sequence[Record], errors: Sequence[Record], *, interrupted: bool, command: str
) -> None:
    """All three files. Raises OSError where the folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    report = report_data(records, errors, interrupted=interrupted, command=command)
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (folder / "junit.xml").write_bytes(junit(records, errors))
    (folder / "report.html").write_text(html(report), encoding="utf-8")


def report_data(records: Sequence[Record], errors: Sequence[Record], *, interrupted: bool, command: str) -> Record:
    """The content of report.json."""
    return {
        "schema": SCHEMA,
        "command": command,
        "interrupted": interrupted,
        "counts": counts(records),
        "errors": list(errors),
        "results": list(records),
    }


def failure_lines(record: Mapping[str, Any]) -> list[str]:
    """A failure in a few lines: what was promised, expected, got, and where."""
    lines = [f"{record['file']}:{record['line']}: {record['case']} ({record['backend']})"]
    lines.append(f"  spec    {'; '.join(record['spec'])}")
    if record["status"] == "error":
        return [*lines, "  error   a defect of the suite itself:", *("    " + t for t in record["reason"].splitlines())]
    first = record["mismatches"][0]
    lines += [f"  expect  {first['expect']}", f"  got     {first['got']}"]
    if first["where"]:
        lines.append(f"  where   {first['where']}")
    if len(record["mismatches"]) > 1:
        lines.append(
            f"  more    {len(record['mismatches']) - 1} more: {', '.join(m['check'] for m in record['mismatches'][1:])}"
        )
    return lines


def junit(records: Sequence[Record], errors: Sequence[Record]) -> bytes:
    """JUnit XML: a testcase per result, classname the case, name the back end; properties as CI viewers group by them."""
    total = counts(records)
    suite = ET.Element(
        "testsuite",
        name="callconv",
        tests=str(len(records) + len(errors)),
        failures=str(total["failed"]),
        errors=str(total["error"] + len(errors)),
        skipped=str(total["skipped"]),
    )
    for record in records:
        suite.append(_testcase(record))
    for error in errors:
        case = ET.SubElement(suite, "testcase", classname=_xml(error["file"]), name="load")
        place = f"{error['file']}:{error['line']}:{error['column']}"
        ET.SubElement(case, "error", message=_xml(f"{place}: {error['message']}"))
    root = ET.Element("testsuites")
    root.append(suite)
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + bytes(ET.tostring(root, encoding="utf-8"))


def _testcase(record: Record) -> ET.Element:
    stem = record["file"].removesuffix(".yaml").replace("/", ".")
    name = {"classname": f"{stem}.{record['case']}", "name": record["backend"], "time": f"{record['seconds']:.6f}"}
    case = ET.Element("testcase", {k: _xml(v) for k, v in name.items()}, file=record["file"], line=str(record["line"]))
    properties = ET.SubElement(case, "properties")
    for key, value in (
        ("backend", record["backend"]),
        ("verdict", record["verdict"] or ""),
        ("spec", "; ".join(record["spec"])),
    ):
        ET.SubElement(properties, "property", name=key, value=_xml(value))
    if record["status"] == "skipped":
        ET.SubElement(case, "skipped", message=_xml(record["reason"]))
    elif record["status"] in ("failed", "error"):
        tag = "failure" if record["status"] == "failed" else "error"
        lines = failure_lines(record)
        ET.SubElement(case, tag, message=_xml(lines[-1].strip())).text = _xml("\n".join(lines))
    return case


def _xml(text: str) -> str:
    """Without the control characters that XML 1.0 cannot hold."""
    return "".join(c if c in "\t\n\r" or " " <= c <= "\ud7ff" or c >= "\ue000" else "\ufffd" for c in text)


def html(report: Record) -> str:
    """One self-contained page."""
    import jinja2

    templates = Path(__file__).parent / "templates"
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=compiled_templates(templates),
    )
    files: dict[str, dict[str, dict[str, Record]]] = {}
    for record in report["results"]:
        files.setdefault(record["file"], {}).setdefault(record["case"], {})[record["backend"]] = record
    backends = list(dict.fromkeys(record["backend"] for record in report["results"]))
    failures = [r for r in report["results"] if r["status"] in ("failed", "error")]
    differing = [r for r in report["results"] if r["status"] == "differs"]
    layouts = _layouts(report["results"])
    return _page(env).render(
        report=report, files=files, backends=backends, failures=failures, differing=differing, layouts=layouts
    )


def _page(env: "jinja2.Environment") -> "jinja2.Template":
    """The template; where what was kept of it is damaged, it is compiled again."""
    try:
        return env.get_template("report.html.j2")
    except Exception:  # noqa: BLE001
        if env.bytecode_cache is not None:
            env.bytecode_cache.clear()
        env.bytecode_cache = None
        return env.get_template("report.html.j2")


def compiled_templates(templates: Path) -> "jinja2.BytecodeCache | None":
    """Beside the template, as Python keeps what it compiled, where that may be written: it takes longer than most runs."""
    import jinja2

    folder = templates / "__pycache__"
    if sys.dont_write_bytecode:
        return None
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return None
    return jinja2.FileSystemBytecodeCache(str(folder)) if os.access(folder, os.W_OK) else None


def _layouts(records: Iterable[Record]) -> dict[str, dict[str, str]]:
    """Where the ABI has the arguments of the traced functions: SVG by prototype and architecture, each drawn once."""
    traced = [record["traced"] for record in records if record.get("traced") and record["traced"]["arch"]]
    traced = [one for one in traced if one["target"] != "bpf"]  # which no C ABI places
    found: dict[str, dict[str, str]] = {}
    if not traced:
        return found
    from backends.abi import LayoutError
    from harness.abi_svg import svg
    from harness.abi_view import view_of
    from harness.isa.proto import parse_proto

    for func, arch in dict.fromkeys((one["func"], one["arch"]) for one in traced):
        try:
            found.setdefault(func, {})[arch] = svg(view_of(parse_proto(func), arch))
        except LayoutError:
            continue
    return found
