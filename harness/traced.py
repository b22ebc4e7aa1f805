"""Cases of trampolines: a call of a traced function from data, and its judgement on one architecture."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from backends.abis import ARCHES
from backends.base import Ran, Refused
from backends.checks import CHECKS
from backends.decode import disassemble
from backends.tracing import Traced, Tracer
from backends.trampoline import Kind, Mode, RefusedError, size
from backends.trampoline_bench import TRAMPOLINE_AT, Scenario, Step
from harness.check import Mismatch
from harness.expect import Expect, hex_bytes
from harness.isa.ctypes import ARM64, CInt, CPtr, CType, CVoid, IncompleteError, bare, leaves, size_of, type_text
from harness.isa.proto import Proto, ProtoError, parse_proto
from harness.params import Notes
from harness.yamldoc import Path, quoted

REFUSED_WORD: Final = "refused"
RULES: Final = {"load": "tramp-load", "attach": "tramp-attach"}


@dataclass(frozen=True, slots=True)
class TracedCase:
    """What a case says of a trampoline.

    `places`: by architecture and parameter, typed by hand, at the call insn. `linux`: the checks that Linux 7.2's trampoline
    breaks, or `refused`, by architecture; the others it keeps.
    """

    call: Scenario
    places: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    linux: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def build_traced(notes: Notes, data: Mapping[str, Any]) -> TracedCase | None:
    """The call; what is wrong is noted, and then there is none."""
    part, expect = data["trampoline"], data["expect"]
    try:
        proto = parse_proto(part["func"])
    except ProtoError as error:
        notes.within(("trampoline", "func"), 0, error.column, error.message)
        return None
    reader = _Values(notes)
    values = part.get("args", [])
    if len(values) != len(proto.params):
        notes.at(
            ("trampoline", "args"), f"args: expected {len(proto.params)}, one for each parameter, found {len(values)}"
        )
        return None
    args = [
        reader.bytes_of(("trampoline", "args", n), param.type, value)
        for n, (param, value) in enumerate(zip(proto.params, values, strict=True))
    ]
    result = b""
    if not isinstance(bare(proto.result), CVoid):
        given = part.get("returns", "00" * size(proto.result, ARM64))
        result = reader.bytes_of(("trampoline", "returns"), proto.result, given)
    steps = tuple(_step(item) for item in part["progs"])
    call = Scenario(proto, tuple(args), result, steps, bool(part.get("func_ip", False)))
    places = {arch: dict(_places(notes, proto, arch, rows)) for arch, rows in expect.get("place", {}).items()}
    linux = {
        arch: tuple([found] if isinstance(found, str) else found) for arch, found in expect.get("linux", {}).items()
    }
    return None if notes.errors else TracedCase(call, places, linux)


def _step(item: str | dict[str, int]) -> Step:
    """`fexit`, or `{fmod_ret: 7}`: what the program returns."""
    if isinstance(item, str):
        return Step(Kind(item))
    ((kind, returns),) = item.items()
    return Step(Kind(kind), returns)


def _places(notes: Notes, proto: Proto, arch: str, rows: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    known = [param.name for param in proto.params]
    for name, where in rows.items():
        if name not in known:
            path: Path = ("expect", "place", arch, name)
            notes.at(
                path, f"place: {proto.name} has no parameter {quoted(name)} (parameters: {', '.join(known)})", key=True
            )
        yield name, ", ".join(part.strip().replace(" ", "") for part in where.split(","))


@dataclass(frozen=True, slots=True)
class _Values:
    """Values of C types as bytes."""

    notes: Notes

    def bytes_of(self, path: Path, ctype: CType, value: Any) -> bytes:
        """An integer, a list of a struct's members, or all bytes in hex as memory has them."""
        try:
            length = size_of(ctype, ARM64)
        except IncompleteError as error:
            self.notes.at(path, str(error))
            return b""
        if isinstance(value, str):
            raw = hex_bytes(self.notes, path, value) or b""
            if len(raw) != length and not self.notes.errors:
                self.notes.at(path, f"expected {length} bytes of {type_text(ctype)}, found {len(raw)}")
            return raw
        if isinstance(value, list):
            return self._members(path, ctype, value, length)
        if not isinstance(bare(ctype), CInt | CPtr):
            self.notes.at(path, f"expected a list of the members of {type_text(ctype)}, found {value}")
            return bytes(length)
        return self._number(path, ctype, value, length)

    def _number(self, path: Path, ctype: CType, value: int, size: int) -> bytes:
        if not -(1 << 8 * size - 1) <= value < 1 << 8 * size:
            self.notes.at(path, f"{type_text(ctype)} does not hold {value}")
            return bytes(size)
        return (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def _members(self, path: Path, ctype: CType, values: list[Any], size: int) -> bytes:
        fields = [leaf for leaf in leaves(ctype, ARM64) if not leaf.is_bits]
        if len(fields) != len(values):
            self.notes.at(path, f"expected {len(fields)} members of {type_text(ctype)}, found {len(values)}")
            return bytes(size)
        raw = bytearray(size)
        for leaf, value in zip(fields, values, strict=True):
            at, length = leaf.at_bit // 8, leaf.size_bits // 8
            raw[at : at + length] = self._number(path, leaf.type, value if isinstance(value, int) else 0, length)
        return bytes(raw)


# --- judgement


def judge_traced(case: TracedCase, expect: Expect, tracer: Tracer) -> tuple[Ran | Refused, list[Mismatch]]:
    """The `full` trampoline against the case and the ABI, then Linux 7.2's against what the case says of it."""
    full, linux = (tracer.trace(case.call, mode) for mode in (Mode.FULL, Mode.LINUX))
    found = [*_full_mismatches(case, expect, full, tracer.arch), *_linux_mismatches(case, linux, tracer.arch)]
    if isinstance(full, RefusedError):
        return Refused(full.message, full.errno, None, str(full), 0), found
    return Ran(_retval(full), b"", (), violations=tuple(full.outcome.violations)), found


def _retval(traced: Traced) -> int | None:
    raw = traced.outcome.result
    return None if raw is None else int.from_bytes(raw[:8], "little")


def _full_mismatches(case: TracedCase, expect: Expect, full: Traced | RefusedError, arch: str) -> Iterator[Mismatch]:
    if isinstance(full, RefusedError):
        yield from _refusal_mismatches(expect, full)
        return
    if expect.verdict == "reject":
        yield Mismatch("verdict", f"verdict = reject ({expect.rule})", "verdict = accept")
        return
    for violation in full.outcome.violations:
        yield Mismatch(violation.check, f"{violation.check}: {CHECKS[violation.check].sentence}", violation.message,
                       "" if violation.offset is None else f"native offset {violation.offset:#x}")  # fmt: skip
    retval = _retval(full)
    if expect.retval is not None and retval != expect.retval:
        yield Mismatch(
            "retval", f"retval = {expect.retval:#x}", f"retval = {'nothing' if retval is None else f'{retval:#x}'}"
        )
    places = {
        placed.name: ", ".join(str(piece.where) for piece in placed.pieces)
        for placed in ARCHES[arch][1](case.call.proto).args
    }
    for name, where in case.places.get(arch, {}).items():
        if places[name] != where:
            yield Mismatch("place", f"{name} = {where}", f"{name} = {places[name]}")


def _refusal_mismatches(expect: Expect, refusal: RefusedError) -> Iterator[Mismatch]:
    rule = RULES[refusal.at]
    if expect.verdict == "accept":
        yield Mismatch("verdict", "verdict = accept", f"verdict = reject ({rule}): {refusal}")
    elif expect.rule != rule:
        yield Mismatch("rule", f"rule = {expect.rule}", f"rule = {rule}: {refusal}")
    elif expect.msg and any(text not in refusal.message for text in expect.msg):
        yield Mismatch("msg", f"msg = {expect.msg[0]}", f"msg = {refusal.message}")


def _linux_mismatches(case: TracedCase, linux: Traced | RefusedError, arch: str) -> Iterator[Mismatch]:
    wanted = set(case.linux.get(arch, ()))
    if isinstance(linux, RefusedError):
        if wanted and wanted != {REFUSED_WORD}:
            yield Mismatch("linux", f"Linux 7.2 breaks {', '.join(sorted(wanted))}", f"it refuses: {linux}")
        return
    broken = {violation.check for violation in linux.outcome.violations}
    if broken != wanted:
        shown = "; ".join(violation.message for violation in linux.outcome.violations) or "nothing"
        yield Mismatch("linux", f"Linux 7.2 breaks {', '.join(sorted(wanted)) or 'nothing'}", f"it breaks {shown}")


def listing(case: TracedCase, tracer: Tracer) -> list[str]:
    """What a trampoline knows, does and is, as lines for `show`."""
    full = tracer.trace(case.call, Mode.FULL)
    if isinstance(full, RefusedError):
        return [f"refused at {full}"]
    lines = [f"{case.call.proto}"]
    for index, slot in enumerate(full.plan.slots):
        name = case.call.proto.params[slot.arg].name
        part = f"{name}, bytes {slot.at} to {slot.at + slot.size - 1}"
        lines.append(f"  ctx[{index}]  {part:<24} {slot.where or 'padding'}")
    lines += ["", "happened: " + "; ".join(full.outcome.events), ""]
    rows = disassemble(tracer.arch, full.code, TRAMPOLINE_AT)
    return [
        *lines,
        *(f"  {address - TRAMPOLINE_AT:4x}  {mnemonic} {text}".rstrip() for address, _, mnemonic, text in rows),
    ]
