"""Test files of bpf_conformance: a program, memory, and the result, or that there is none. docs/conformance.md."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from backends.base import Backend, Died, Job, Ran, Referee, Unsupported
from backends.image import CompileError
from backends.interp import Interpreter
from backends.runtime import RuntimeBackend
from harness.case import Case, CaseError
from harness.check import Mismatch, run_mismatches
from harness.dialect import DialectError, assemble_dialect, prog_of
from harness.expect import Expect
from harness.isa import opcodes as op
from harness.isa.asm import Assembled
from harness.isa.insn import Insn, Undefined, insns_from_bytes
from harness.suite import Result
from harness.unverified import unverified

MAX_BYTES: Final = 1 << 20
MAX_MEMORY: Final = 65535
SECTIONS: Final = ("asm", "raw", "mem", "result", "error", "c", "name", "no register offset")
_IGNORED: Final = ("c", "name", "no register offset")  # the program's source, a title, a hint for a disassembler


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file: `result` is R0, unsigned 64 bits; None where the program must fail, with `error` in its author's words."""

    file: str
    insns: tuple[Insn, ...]
    memory: bytes
    result: int | None
    error: str


def read_data_file(path: Path, shown: str) -> DataFile:
    """One test file. Raises CaseError with file, line and what was expected."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise CaseError(shown, 1, 1, f"cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise CaseError(shown, 1, 1, f"more than {MAX_BYTES} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise CaseError(shown, 1, 1, "not UTF-8") from None
    return _read(text, shown)


def _read(text: str, shown: str) -> DataFile:
    sections: dict[str, list[tuple[int, str]]] = {}
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines()):
        if line.startswith("--"):
            name = line[2:].strip()
            if name not in SECTIONS:
                raise CaseError(
                    shown, number + 1, 1, f"there is no section {name[:40]!r}; there are: {', '.join(SECTIONS)}"
                )
            if name in sections:
                raise CaseError(shown, number + 1, 1, f"there is a section {name!r} already")
            lines = sections.setdefault(name, [])
        elif line.strip() and not line.lstrip().startswith("#") and name_of(sections) is None:
            raise CaseError(shown, number + 1, 1, "expected a section (-- asm, -- raw, ...) before anything else")
        else:
            lines.append((number, line))
    if ("asm" in sections) == ("raw" in sections):
        raise CaseError(shown, 1, 1, "expected a program: one section -- asm or -- raw")
    if ("result" in sections) == ("error" in sections):
        raise CaseError(shown, 1, 1, "expected one section -- result or -- error")
    insns = _asm(sections["asm"], shown) if "asm" in sections else _raw(sections["raw"], shown)
    if not insns:
        raise CaseError(shown, 1, 1, "the program has no insn")
    memory = _memory(sections.get("mem", []), shown)
    result = _result(sections["result"], shown) if "result" in sections else None
    words = " ".join(line.strip() for _, line in sections.get("error", []) if line.strip())
    return DataFile(shown, insns, memory, result, words)


def name_of(sections: dict[str, list[tuple[int, str]]]) -> str | None:
    """The section at hand: the last one that began."""
    return next(reversed(sections), None)


def _plain(line: str) -> str:
    return line.split("#", 1)[0].strip()


def _asm(lines: Sequence[tuple[int, str]], shown: str) -> tuple[Insn, ...]:
    try:
        return assemble_dialect([line for _, line in lines])
    except DialectError as error:
        raise CaseError(shown, lines[error.line][0] + 1, 1, error.message) from None


def _raw(lines: Sequence[tuple[int, str]], shown: str) -> tuple[Insn, ...]:
    """One 64-bit little-endian number per token."""
    code = bytearray()
    for number, line in lines:
        for token in _plain(line).split():
            if not re.match(r"(0[xX])?[0-9a-fA-F]{1,16}\Z", token):
                raise CaseError(shown, number + 1, 1, f"raw: expected 64 bits of hex digits, found {token[:40]!r}")
            code += int(token, 16).to_bytes(8, "little")
    return insns_from_bytes(bytes(code))


def _memory(lines: Sequence[tuple[int, str]], shown: str) -> bytes:
    memory = bytearray()
    for number, line in lines:
        try:
            memory += bytes.fromhex(_plain(line))
        except ValueError:
            raise CaseError(
                shown, number + 1, 1, f"mem: expected bytes as hex digits, found {line.strip()[:40]!r}"
            ) from None
        if len(memory) > MAX_MEMORY:
            raise CaseError(shown, number + 1, 1, f"mem: more than {MAX_MEMORY} bytes")
    return bytes(memory)


def _result(lines: Sequence[tuple[int, str]], shown: str) -> int:
    """The last line that says something."""
    said = [(number, text) for number, line in lines if (text := _plain(line))]
    if not said:
        raise CaseError(shown, (lines[0][0] if lines else 0) + 1, 1, "result: expected a number")
    number, text = said[-1]
    if not re.match(r"-?(0[xX][0-9a-fA-F]{1,16}|\d{1,20})\Z", text):
        raise CaseError(shown, number + 1, 1, f"result: expected a number of 64 bits, found {text[:40]!r}")
    return int(text, 0) & op.MASK64 if not text.lstrip("-").isdigit() else int(text) & op.MASK64


def find_data_files(paths: Sequence[Path]) -> list[Path]:
    """Files as named; of folders, every *.data. Raises CaseError where there is none."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.rglob("*.data")) if path.is_dir() else [path]
        if not inside:
            raise CaseError(str(path), 1, 1, "there is no file *.data in this folder")
        found += inside
    return found


def case_of(data: DataFile) -> Case:
    """The file as a case, for reports and checks."""
    expect = Expect("accept", retval=data.result)
    about = f"R0 is {data.result:#x}." if data.result is not None else f"It fails: {data.error or 'in some way'}."
    return Case(
        name=Path(data.file).stem, file=data.file, line=1, about=about, spec=("bpf_conformance",), needs=(), type="syscall",
        ctx=data.memory, kfuncs=(), assembled=Assembled(prog_of(data.insns), ()), expect=expect, sources=(),
    )  # fmt: skip


def judge(data: DataFile, backends: Sequence[Backend]) -> list[Result]:
    """One file on every back end; no verifier is asked, because the format has programs that none would take."""
    case = case_of(data)
    unknown = next((i for i, insn in enumerate(case.assembled.prog.ops) if isinstance(insn, Undefined)), None)
    try:
        verified = unverified(case.assembled.prog)
        fault = None if unknown is None else f"insn {unknown} is none"
    except ValueError as error:
        verified, fault = None, str(error)
    if verified is None or fault is not None:
        return [_failed_before(case, data, backend, fault or "") for backend in backends]
    job = Job(case.assembled.prog, verified, case.ctx, (), case=case.id, length_in_r2=True)
    reference = Interpreter().run(job)
    assert isinstance(reference, Ran)
    return [_judged(case, data, backend, replace(job, reference=reference), reference) for backend in backends]


def _failed_before(case: Case, data: DataFile, backend: Backend, fault: str) -> Result:
    if data.result is None:
        return Result(case, backend.name, "passed", None)
    return Result(case, backend.name, "failed", None, mismatches=(Mismatch("program", "a program", fault),))


def _must_fail(case: Case, data: DataFile, backend: Backend, job: Job) -> Result:
    """A runtime has to say itself that it failed: status 0, silence and a crash are something else."""
    outcome = backend.run(job)
    if isinstance(outcome, Unsupported):
        return Result(case, backend.name, "skipped", None, outcome, reason=outcome.reason)
    if isinstance(outcome, Died) and outcome.told:
        return Result(case, backend.name, "passed", None, outcome)
    got = outcome.reason if isinstance(outcome, Died) else f"retval = {getattr(outcome, 'retval', None)}, status 0"
    return Result(
        case, backend.name, "failed", None, outcome, mismatches=(Mismatch("error", f"an error: {data.error}", got),)
    )


def _judged(case: Case, data: DataFile, backend: Backend, job: Job, reference: Ran) -> Result:
    if isinstance(backend, Referee):
        return Result(
            case, backend.name, "skipped", None, reason=f"{backend.name} loads no program that nobody vouches for"
        )
    if data.result is None and isinstance(backend, RuntimeBackend):
        return _must_fail(case, data, backend, job)
    if data.result is None:
        broken = reference.violations[0].message if reference.violations else ""
        found = () if broken else (Mismatch("error", f"an error: {data.error}", f"retval = {reference.retval}"),)
        return Result(case, backend.name, "failed" if found else "passed", None, reference, reference, found)
    try:
        outcome = reference if backend.name == "interp" else backend.run(job)
    except CompileError as error:
        outcome = Unsupported(str(error))
    if isinstance(outcome, Unsupported):
        return Result(case, backend.name, "skipped", None, outcome, reference, reason=outcome.reason)
    mismatches = tuple(run_mismatches(case, outcome, reference))
    return Result(case, backend.name, "failed" if mismatches else "passed", None, outcome, reference, mismatches)
