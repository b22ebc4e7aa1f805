"""Expect and Outcome to a list of mismatches; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from backends.base import (
    Answered,
    Died,
    Difference,
    Entries,
    Loaded,
    Outcome,
    Ran,
    Refused,
    StackRef,
    Unsupported,
    Value,
)
from backends.calls import as_type
from backends.checks import CHECKS
from harness.case import Case, Expect
from harness.isa.ctypes import CInt
from harness.isa.disasm import insn_text
from harness.isa.insn import Prog
from harness.isa.slots import callee_slots, slots_of
from verifier.verdict import Accepted, Rejected, Verdict

_PATTERN: Final = re.compile(r"\{\{(.*?)\}\}")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that is not as it must be. `check` is the id of the broken rule: an always-on check, or a key of `expect`."""

    check: str
    expect: str
    got: str
    where: str = ""


def verdict_mismatches(case: Case, verdict: Verdict) -> list[Mismatch]:
    """The verifier's answer against the case."""
    expect, prog = case.expect, case.assembled.prog
    match verdict:
        case Accepted():
            if expect.verdict == "accept":
                return []
            return [Mismatch("verdict", f"verdict = reject ({expect.rule})", "verdict = accept")]
        case Rejected():
            if expect.verdict == "reject":
                return _reject_mismatches(expect, prog, verdict)
            got = f"verdict = reject ({verdict.rule}): {verdict.message}"
            return [Mismatch("verdict", "verdict = accept", got, where_of(prog, verdict.insn))]
        case _:
            assert_never(verdict)


def _reject_mismatches(expect: Expect, prog: Prog, verdict: Rejected) -> list[Mismatch]:
    found: list[Mismatch] = []
    where = where_of(prog, verdict.insn)
    if verdict.rule != expect.rule:
        found.append(Mismatch("rule", f"rule = {expect.rule}", f"rule = {verdict.rule}: {verdict.message}", where))
    at = None if verdict.insn is None else prog.where(verdict.insn)
    if at != expect.at:
        found.append(
            Mismatch("at", f"at = {expect.at or 'no insn'}", f"at = {at or 'no insn'}: {verdict.message}", where)
        )
    missing = first_missing(expect.msg, verdict.log)
    if missing is not None:
        found.append(Mismatch("msg", f"msg = {missing}", f"msg = {verdict.message}", where))
    return found


def first_missing(messages: Sequence[str], log: str) -> str | None:
    """The first message that the log does not hold after the ones before it, or None. `{{...}}` is a regular expression."""
    at = 0
    for message in messages:
        parts = _PATTERN.split(message)
        pattern = "".join(part if i % 2 else re.escape(part) for i, part in enumerate(parts))
        match = re.compile(pattern).search(log, at)
        if match is None:
            return message
        at = match.end()
    return None


def where_of(prog: Prog, insn: int | None) -> str:
    """`main insn 3 (85) call pc+1`, or nothing."""
    if insn is None or not 0 <= insn < len(prog.insns):
        return ""
    subprog = prog.subprogs[prog.subprog_of(insn)]
    return f"{subprog.name} insn {insn - subprog.start} `{insn_text(prog, insn)}`"


def run_mismatches(case: Case, outcome: Outcome, reference: Ran | None) -> list[Mismatch]:
    """What a run did against the case, the always-on checks, and the interpreter's run of the same program."""
    match outcome:
        case Unsupported():
            return []
        case Died():
            return [Mismatch("RUN", "a run", outcome.reason)]
        case Answered(retval):
            return _answer_mismatches(case, retval, reference)
        case Refused():
            got = f"verdict = reject: {outcome.message} (errno {outcome.errno})"
            return [Mismatch("verdict", "verdict = accept", got, where_of(case.assembled.prog, outcome.insn))]
        case Ran():
            found = _violations(case.assembled.prog, outcome)
            found += _values(case, outcome)
            return found + _against_reference(outcome, reference) if not found and reference else found
        case _:
            assert_never(outcome)


def _answer_mismatches(case: Case, retval: int, reference: Ran | None) -> list[Mismatch]:
    """R0 alone, against the case or else against the interpreter."""
    wanted, whose = case.expect.retval, ""
    if wanted is None and reference is not None:
        wanted, whose = reference.retval, " (interp)"
    if wanted is None or wanted == retval:
        return []
    return [Mismatch("retval", f"retval = {_number(wanted)}{whose}", f"retval = {_number(retval)}")]


def referee_mismatches(case: Case, outcome: Outcome, ours: Verdict, reference: Ran | None) -> list[Mismatch]:
    """What a back end with a verifier of its own did: its verdict and message first, then its runs."""
    if isinstance(outcome, Refused) and case.expect.verdict == "reject":
        return _refusal_mismatches(case, outcome, ours)
    if isinstance(outcome, Ran) and case.expect.verdict == "reject":
        return [Mismatch("verdict", f"verdict = reject ({case.expect.rule})", "verdict = accept")]
    found = _own_run_mismatches(case, outcome.loaded) if isinstance(outcome, Ran) and outcome.loaded else []
    return found + run_mismatches(case, outcome, reference)


def _refusal_mismatches(case: Case, outcome: Refused, ours: Verdict) -> list[Mismatch]:
    """A rule has no name elsewhere, so the message stands for it: the case's, or else the built-in verifier's."""
    found: list[Mismatch] = []
    prog, where = case.assembled.prog, where_of(case.assembled.prog, outcome.insn)
    same_rule = isinstance(ours, Rejected) and ours.rule == case.expect.rule
    wanted = case.expect.msg or ((ours.message,) if isinstance(ours, Rejected) and same_rule else ())
    missing = first_missing(wanted, outcome.log)
    if missing is not None or not wanted:
        found.append(Mismatch("msg", f"msg = {missing or case.expect.rule}", f"msg = {outcome.message}", where))
    if isinstance(ours, Rejected) and same_rule and ours.errno != outcome.errno:
        found.append(Mismatch("errno", f"errno = {ours.errno}", f"errno = {outcome.errno}: {outcome.message}", where))
    at = None if outcome.insn is None else prog.where(outcome.insn)
    if at is not None and case.expect.at is not None and at != case.expect.at:
        found.append(Mismatch("at", f"at = {case.expect.at}", f"at = {at}: {outcome.message}", where))
    return found


def _own_run_mismatches(case: Case, loaded: Loaded) -> list[Mismatch]:
    """The back end's own run; it gives the low half of R0."""
    expect, found = case.expect, list[Mismatch]()
    if loaded.retval is None and not loaded.run_errno:
        return []
    if loaded.run_errno:
        return [Mismatch("run", "a run of its own", f"errno {loaded.run_errno}")]
    if expect.retval is not None and loaded.retval != expect.retval & 0xFFFF_FFFF:
        wanted, got = _number(expect.retval & 0xFFFF_FFFF), _number(loaded.retval)
        found.append(Mismatch("retval", f"retval = {wanted} (32 bits)", f"retval = {got} (its own run)"))
    if expect.memory is not None and loaded.memory != expect.memory:
        wanted, got = expect.memory.hex(" "), loaded.memory.hex(" ")
        found.append(Mismatch("memory", f"memory = {wanted}", f"memory = {got} (its own run)"))
    return found + _map_mismatches(case, loaded.maps, " (its own run)")


def _map_mismatches(case: Case, maps: Sequence[Entries], whose: str = "") -> list[Mismatch]:
    """Maps after a run, against the case."""
    found: list[Mismatch] = []
    for map_, got in zip(case.assembled.prog.maps, maps, strict=False):
        wanted = case.expect.maps.get(map_.name)
        if wanted is not None and wanted != got:
            left, right = _entry_texts(wanted, got)
            found.append(Mismatch("maps", f"{map_.name} = {left}", f"{map_.name} = {right}{whose}"))
    return found


def _entry_texts(wanted: Entries, got: Entries) -> tuple[str, str]:
    """The entries of each that the other does not have."""
    texts = [
        ", ".join(f"{key.hex()}: {value.hex()}" for key, value in one if (key, value) not in other)[:400]
        for one, other in ((wanted, got), (got, wanted))
    ]
    return texts[0] or "no other entry", texts[1] or "no such entry"


def difference_mismatches(found: Sequence[Mismatch], stated: Difference) -> list[Mismatch]:
    """What is left to report where a difference is stated: nothing if it is there, and only it."""
    if not found:
        text = f"the difference that {stated.source} states: {stated.got}"
        return [Mismatch("differs", text, "no difference: it vanished; the entry has to go")]
    pattern = re.compile(stated.got)
    return [mismatch for mismatch in found if not pattern.search(mismatch.got)]


def _violations(prog: Prog, outcome: Ran) -> list[Mismatch]:
    rows: list[Mismatch] = []
    for violation in outcome.violations:
        where = where_of(prog, violation.insn)
        if violation.offset is not None:
            where = f"{where or 'outside the insns'}, native offset {violation.offset:#x}"
        rows.append(
            Mismatch(
                violation.check, f"{violation.check}: {CHECKS[violation.check].sentence}", violation.message, where
            )
        )
    return rows


def _values(case: Case, outcome: Ran) -> list[Mismatch]:
    expect, found = case.expect, list[Mismatch]()
    if expect.retval is not None and outcome.retval != expect.retval:
        found.append(Mismatch("retval", f"retval = {_number(expect.retval)}", f"retval = {_number(outcome.retval)}"))
    if expect.memory is not None and outcome.memory != expect.memory:
        found.append(Mismatch("memory", f"memory = {expect.memory.hex(' ')}", f"memory = {outcome.memory.hex(' ')}"))
    found += _map_mismatches(case, outcome.maps)
    if expect.calls is not None:
        wanted = [text for call in expect.calls if (text := _typed_call(case, call.callee, call.args))]
        got = [text for call in outcome.calls if (text := _typed_call(case, call.callee, call.args))]
        if got != wanted:
            found.append(Mismatch("calls", "calls = " + "; ".join(wanted), "calls = " + "; ".join(got)))
    return found


def _number(value: int | None) -> str:
    if value is None:
        return "nothing: it did not return"
    return str(value) if -4096 < value < 4096 else f"{value:#x}"


def _typed_call(case: Case, callee: str, args: Sequence[Value | None]) -> str | None:
    """A call to something with a prototype, its arguments as their types see them; None for any other call."""
    protos = {s.proto.name: callee_slots(s.proto) for s in case.assembled.prog.subprogs if s.proto is not None}
    slots = protos.get(callee) or next((slots_of(k.proto) for k in case.kfuncs if k.proto.name == callee), None)
    if slots is None and callee not in protos:
        return None
    shown: list[str] = []
    for value, slot in zip(args, slots or (), strict=False):
        if isinstance(value, int) and isinstance(slot.type, CInt):
            text = _number(as_type(value, slot.type))
        else:
            text = str(value) if isinstance(value, StackRef) else _number(value)
        shown[-1:] = [f"{shown[-1]}:{text}"] if slot.half else [*shown[-1:], text]
    return f"{callee}({', '.join(shown)})"


def _against_reference(outcome: Ran, reference: Ran) -> list[Mismatch]:
    """Native code against the interpreter: what no expectation names must be the same all the same."""
    found: list[Mismatch] = []
    if outcome.retval != reference.retval:
        expect, got = _number(reference.retval), _number(outcome.retval)
        found.append(Mismatch("interp", f"retval = {expect} (interp)", f"retval = {got}"))
    if outcome.memory != reference.memory:
        expect, got = reference.memory.hex(" "), outcome.memory.hex(" ")
        found.append(Mismatch("interp", f"memory = {expect} (interp)", f"memory = {got}"))
    for number, (one, other) in enumerate(zip(reference.maps, outcome.maps, strict=False)):
        if one != other:
            left, right = _entry_texts(one, other)
            found.append(Mismatch("interp", f"map {number} = {left} (interp)", f"map {number} = {right}"))
    if len(outcome.calls) != len(reference.calls):
        found.append(Mismatch("interp", f"{len(reference.calls)} calls (interp)", f"{len(outcome.calls)} calls"))
    return found
