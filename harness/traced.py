"""Cases of trampolines: a call of a traced function from data, and its judgement on one architecture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from backends.base import Died, Ran, Refused, Unsupported
from backends.checks import CHECKS
from backends.decode import disassemble
from backends.linux.tracing import LinuxTracer, Theirs
from backends.tracing import Traced, Tracer
from backends.trampoline import MAX_ARGS, Kind, Mode, RefusedError, Target
from backends.trampoline_bench import Outcome as TracedOutcome
from backends.trampoline_bench import Scenario, Step, layout_of
from backends.trampoline_code import TRAMPOLINE_AT
from backends.trampoline_plan import size
from harness.check import Mismatch
from harness.expect import Expect, hex_bytes
from harness.isa.asm import Assembled
from harness.isa.ctypes import (
    ARM64,
    CInt,
    CPtr,
    CStruct,
    CType,
    CVoid,
    IncompleteError,
    bare,
    leaves,
    size_of,
    type_text,
)
from harness.isa.insn import CallHelper, CallKfunc
from harness.isa.proto import Proto, ProtoError, parse_proto
from harness.isa.traced import TracedCtx
from harness.isa.verified import Verified
from harness.params import Notes
from harness.yamldoc import Path, quoted
from verifier.verdict import Rejected
from verifier.verify import Verifier

MAX_OWN_INSNS: Final = 100  # of a program of a case's own behind a trampoline
REFUSED_WORD, ACCEPTED_WORD = "refused", "accepted"
if TYPE_CHECKING:
    from harness.case import Case
    from harness.suite import Result

RULES: Final = {"target": "tramp-target", "load": "tramp-load", "attach": "tramp-attach"}


@dataclass(frozen=True, slots=True)
class TracedCase:
    """What a case says of a trampoline.

    `places`: by architecture and parameter, typed by hand, at the call insn. `linux`: by architecture, where Linux 7.2 is
    not right: the checks that its trampoline breaks, or `refused` or `accepted`.
    """

    func: str  # the prototype as the case writes it
    call: Scenario
    places: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    linux: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def build_traced(notes: Notes, data: Mapping[str, Any], texts: "Sequence[OwnText | None]") -> TracedCase | None:
    """The call; what is wrong is noted, and then there is none. `texts` are programs of the case's own, by attachment."""
    part, expect = data["trampoline"], data["expect"]
    proto = read_proto(notes, ("trampoline", "func"), part["func"])
    if proto is None:
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
    target = Target(part.get("target", Target.KERNEL.value))
    own = _Own(notes, proto, target)
    steps = tuple(
        own.step(number, item, text) for number, (item, text) in enumerate(zip(part["progs"], texts, strict=True))
    )
    flags = {key: bool(part.get(key, False)) for key in ("func_ip", "tail_call")}
    if flags["tail_call"] and target is not Target.BPF:
        notes.at(("trampoline", "tail_call"), "tail_call goes with target: bpf", key=True)
    if target is Target.STRUCT_OPS and flags["func_ip"]:
        notes.at(("trampoline", "func_ip"), "a struct_ops program traces no function", key=True)
    kinds = [step.kind for step in steps]
    if (kinds == [Kind.STRUCT_OPS]) != (target is Target.STRUCT_OPS) or Kind.STRUCT_OPS in kinds[1:]:
        notes.at(("trampoline", "progs"), "progs: [struct_ops] goes with target: struct_ops", key=True)
    call = Scenario(proto, tuple(args), result, steps, target=target, **flags)
    places = {arch: dict(_places(notes, proto, arch, rows)) for arch, rows in expect.get("place", {}).items()}
    linux = {
        arch: tuple([found] if isinstance(found, str) else found) for arch, found in expect.get("linux", {}).items()
    }
    return None if notes.errors else TracedCase(part["func"], call, places, linux)


def read_proto(notes: Notes, path: Path, text: str) -> Proto | None:
    """A C prototype; what is wrong with it is noted."""
    try:
        return parse_proto(text)
    except ProtoError as error:
        notes.within(path, 0, error.column, error.message)
        return None


@dataclass(frozen=True, slots=True)
class OwnText:
    """A program of a case's own, assembled, and where each of its subprogs is in the case."""

    assembled: Assembled
    paths: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class _Own:
    """Programs on one function; those of the case's own text are verified."""

    notes: Notes
    proto: Proto
    target: Target

    def step(self, number: int, item: "str | dict[str, int | dict[str, Any]]", text: "OwnText | None") -> Step:
        """`fexit`, `{fmod_ret: 7}`: what the program returns, or `{fexit: {cookie: 7}}`."""
        if isinstance(item, str):
            return Step(Kind(item))
        ((kind, given),) = item.items()
        if isinstance(given, int):
            return Step(Kind(kind), given)
        path: Path = ("trampoline", "progs", number, kind, "prog")
        if "prog" in given and "returns" in given:
            self.notes.at((*path[:-1], "returns"), "returns: the program's own text says what it returns", key=True)
        if "returns" in given and kind != "fmod_ret":
            self.notes.at((*path[:-1], "returns"), "returns goes with fmod_ret; others return 0", key=True)
        cookie = given.get("cookie", 0)
        if text is None or self.notes.errors:
            return Step(Kind(kind), given.get("returns", 0), cookie=cookie)
        verified = self._verified(path, kind, text)
        if verified is None:
            return Step(Kind(kind))
        return Step(Kind(kind), cookie=cookie, prog=verified)

    def _verified(self, path: Path, kind: str, own: "OwnText") -> Verified | None:
        text = own.assembled.prog
        if self.target is not Target.KERNEL:
            self.notes.at(path, "prog: a program of the case's own goes with target: kernel", key=True)
            return None
        if len(text.insns) > MAX_OWN_INSNS:
            self.notes.at(path, f"prog: expected at most {MAX_OWN_INSNS} insns, found {len(text.insns)}", key=True)
            return None
        if any(isinstance(one, CallHelper | CallKfunc) for one in text.ops):
            self.notes.at(path, "prog: it calls nothing but its own subprogs here", key=True)
            return None
        if (why := why_untraced(self.proto, kind)) is not None:
            self.notes.at(("trampoline", "func"), f"func: no {kind} program traces it: {why}")
            return None
        verdict = Verifier().verify(replace(text, traced=TracedCtx(kind, self.proto)))
        if isinstance(verdict, Rejected):
            message = f"the verifier refuses it: {verdict.message.replace(chr(10), '; ')}"
            if verdict.insn is None:
                self.notes.at(path, message, key=True)
                return None
            subprog, place = text.subprogs[text.subprog_of(verdict.insn)], own.assembled.places[verdict.insn]
            self.notes.within(own.paths[subprog.name], place.line, place.column, message)
            return None
        return verdict.verified


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
            members = "a list of the members" if isinstance(bare(ctype), CStruct) else f"the {length} bytes, in hex,"
            self.notes.at(path, f"expected {members} of {type_text(ctype)}, found {value}")
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


def why_untraced(proto: Proto, kind: str, modes: Sequence[Mode] = (Mode.FULL,)) -> str | None:
    """Why no trampoline calls a program for this function, on one architecture or another; None where one does."""
    from backends.tracing import PLANS

    for plan in PLANS.values():
        for mode in modes:
            try:
                plan(proto, [Kind(kind)], mode)
            except RefusedError as refusal:
                return refusal.message or f"its arguments have more than {MAX_ARGS} words"
    return None


# --- judgement


def judge_traced(case: TracedCase, expect: Expect, tracer: Tracer) -> tuple[Ran | Refused, list[Mismatch]]:
    """The `full` trampoline against the case and the ABI, then Linux 7.2's against what the case says of it."""
    full, linux = (tracer.trace(case.call, mode) for mode in (Mode.FULL, Mode.LINUX))
    found = [*_full_mismatches(case, expect, full, tracer.arch), *_linux_mismatches(case, expect, linux, tracer.arch)]
    if isinstance(full, RefusedError):
        return Refused(full.message, full.errno, None, str(full), 0), found
    return Ran(_retval(full.outcome), b"", (), violations=tuple(full.outcome.violations)), found


def _retval(outcome: TracedOutcome) -> int | None:
    raw = outcome.result
    return None if raw is None else int.from_bytes(raw[:8], "little")


def _full_mismatches(case: TracedCase, expect: Expect, full: Traced | RefusedError, arch: str) -> Iterator[Mismatch]:
    if isinstance(full, RefusedError):
        yield from _refusal_mismatches(expect, full)
        return
    yield from _outcome_mismatches(expect, full.outcome)
    if expect.verdict == "reject":
        return
    places = {
        placed.name: ", ".join(str(piece.where) for piece in placed.pieces)
        for placed in layout_of(arch, case.call).args
    }
    for name, where in case.places.get(arch, {}).items():
        if places[name] != where:
            yield Mismatch("place", f"{name} = {where}", f"{name} = {places[name]}")


def _outcome_mismatches(expect: Expect, outcome: TracedOutcome) -> Iterator[Mismatch]:
    """A trampoline that was made."""
    if expect.verdict == "reject":
        yield Mismatch("verdict", f"verdict = reject ({expect.rule})", "verdict = accept")
        return
    for violation in outcome.violations:
        yield Mismatch(violation.check, f"{violation.check}: {CHECKS[violation.check].sentence}", violation.message,
                       "" if violation.offset is None else f"native offset {violation.offset:#x}")  # fmt: skip
    retval = _retval(outcome)
    if expect.retval is not None and retval != expect.retval:
        yield Mismatch(
            "retval", f"retval = {expect.retval:#x}", f"retval = {'nothing' if retval is None else f'{retval:#x}'}"
        )


def _refusal_mismatches(expect: Expect, refusal: RefusedError) -> Iterator[Mismatch]:
    rule = RULES[refusal.at]
    if expect.verdict == "accept":
        yield Mismatch("verdict", "verdict = accept", f"verdict = reject ({rule}): {refusal}")
    elif expect.rule != rule:
        yield Mismatch("rule", f"rule = {expect.rule}", f"rule = {rule}: {refusal}")
    elif expect.msg and any(text not in refusal.message for text in expect.msg):
        yield Mismatch("msg", f"msg = {expect.msg[0]}", f"msg = {refusal.message}")


def _linux_mismatches(
    case: TracedCase, expect: Expect, linux: Traced | Theirs | RefusedError, arch: str
) -> Iterator[Mismatch]:
    """Linux's trampoline against what the case says of it."""
    stated = case.linux.get(arch, ())
    right = REFUSED_WORD if expect.verdict == "reject" else ACCEPTED_WORD
    verdict = next((word for word in stated if word in (REFUSED_WORD, ACCEPTED_WORD)), right)
    if isinstance(linux, RefusedError):
        if verdict == ACCEPTED_WORD:
            yield Mismatch("linux", "Linux makes the trampoline", f"it refuses it at {linux}")
        elif expect.verdict == "reject":
            yield from _refusal_mismatches(expect, linux)
        return
    if verdict == REFUSED_WORD:
        yield Mismatch("linux", "Linux refuses to make the trampoline", "it makes it")
        return
    wanted = set(stated) - {ACCEPTED_WORD}
    broken = {violation.check for violation in linux.outcome.violations}
    if broken != wanted:
        shown = "; ".join(violation.message for violation in linux.outcome.violations) or "nothing"
        yield Mismatch(
            "linux", f"Linux's trampoline breaks {', '.join(sorted(wanted)) or 'nothing'}", f"it breaks {shown}"
        )


def judge_theirs(case: "Case", traced: TracedCase, name: str, tracer: LinuxTracer) -> "Result":
    """A kernel's own trampoline against the case and the ABI: what it is stated to do wrong is a difference, not a pass."""
    from harness.suite import Result

    found = tracer.theirs(traced.call)
    if isinstance(found, Unsupported):
        return Result(case, name, "skipped", None, found, reason=found.reason, arch=tracer.arch)
    if isinstance(found, Died):
        gone = Mismatch("crash", "the kernel goes on", found.reason)
        return Result(case, name, "failed", None, found, mismatches=(gone,), arch=tracer.arch)
    expect, arch = case.expect, tracer.arch
    outcome: Ran | Refused
    if isinstance(found, RefusedError):
        outcome = Refused(found.message, found.errno, None, str(found), 0)
        right = [] if expect.verdict == "reject" else [Mismatch("verdict", "verdict = accept", f"refused at {found}")]
        right += list(_refusal_mismatches(expect, found)) if expect.verdict == "reject" else []
    else:
        outcome = Ran(_retval(found.outcome), b"", (), violations=tuple(found.outcome.violations))
        right = list(_outcome_mismatches(expect, found.outcome))
    if not right:
        return Result(case, name, "passed", None, outcome, arch=arch)
    if arch in traced.linux and not list(_linux_mismatches(traced, expect, found, arch)):
        why = f"the case states it of Linux 7.2: {', '.join(traced.linux[arch])}"
        return Result(case, name, "differs", None, outcome, mismatches=tuple(right), reason=why, arch=arch)
    lines = () if isinstance(found, RefusedError) else tuple(native_lines(arch, traced.call, found.outcome, found.code))
    return Result(case, name, "failed", None, outcome, mismatches=tuple(right), listing=lines, arch=arch)


def listing(case: TracedCase, tracer: Tracer | LinuxTracer, mode: Mode = Mode.FULL) -> list[str]:
    """What a trampoline knows, does and is, as lines for `show`. A kernel's own has no other mode."""
    if isinstance(tracer, LinuxTracer):
        found = tracer.theirs(case.call)
        if isinstance(found, Theirs):
            return [f"{case.call.proto}", *native_lines(tracer.arch, case.call, found.outcome, found.code)]
        return [f"refused at {found}" if isinstance(found, RefusedError) else found.reason]
    full = tracer.trace(case.call, mode)
    if isinstance(full, RefusedError):
        return [f"refused at {full}"]
    lines = [f"{case.call.proto}"]
    if mode is Mode.LINUX:
        lines += ["", *(f"  {one.check}: {one.message}" for one in full.outcome.violations)]
    for index, slot in enumerate(full.plan.slots):
        name = case.call.proto.params[slot.arg].name
        part = f"{name}, bytes {slot.at} to {slot.at + slot.size - 1}"
        lines.append(f"  ctx[{index}]  {part:<24} {slot.where or 'padding'}")
    return [*lines, *native_lines(tracer.arch, case.call, full.outcome, full.code)]


def native_lines(arch: str, call: Scenario, outcome: TracedOutcome, code: bytes) -> list[str]:
    """What happened, who found what, and the insns."""
    rows = disassemble(arch, code, TRAMPOLINE_AT)
    insns = (f"  {address - TRAMPOLINE_AT:4x}  {mnemonic} {text}".rstrip() for address, _, mnemonic, text in rows)
    return ["", "happened: " + "; ".join(outcome.events), *_found_lines(call, outcome), "", *insns]


def _found_lines(call: Scenario, outcome: TracedOutcome) -> Iterator[str]:
    """What programs read in ctx, the function's arguments, the caller's result."""
    yield from (f"  {who} finds in ctx: {' '.join(f'{word:#x}' for word in words)}" for who, words in outcome.ctx)
    if outcome.args is not None:
        pairs = zip(call.proto.params, outcome.args, strict=True)
        yield f"  {call.proto.name} finds: {', '.join(f'{param.name} = {_number(raw)}' for param, raw in pairs)}"
    if outcome.result is not None:
        yield f"  its caller gets: {_number(outcome.result)}"


def _number(raw: bytes) -> str:
    return f"{int.from_bytes(raw, 'little'):#x}"
