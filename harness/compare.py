"""Ours and Linux's side by side: verdict, log, rewritten insns, native code, results."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Final

from backends.base import Died, Job, Ran, Refused, Unsupported
from backends.decode import disassemble
from backends.image import Compiler, Image
from backends.interp import Interpreter
from backends.linux.ask import last_words
from backends.linux.backend import Accepted, Source
from backends.native import native_code
from harness.case import Case
from harness.isa.calls import HELPERS_BY_NAME
from harness.isa.disasm import insn_text
from harness.isa.insn import CallHelper, CallKfunc, CallSubprog, LdImm64, Prog, Subprog, insns_from_bytes
from verifier import verdict as ours
from verifier.verify import Verifier

CONTEXT: Final = 2  # lines around a difference
_STUB: Final = bytes.fromhex("4a000058 40011fd6")  # ldr x10, .+8; br x10
_NOP: Final = bytes.fromhex("1f2003d5")
_WALKED: Final = re.compile(r"(\d+: \([0-9a-f]{2}\) [^;]*)")
_FAR_CALL: Final = re.compile(
    r"mov (x\d+), #(0x[0-9a-f]+|0)\nmovk \1, #(0x[0-9a-f]+|0), lsl #16\nmovk \1, #(0x[0-9a-f]+|0), lsl #32\nblr \1"
)
_PRECISE: Final = re.compile(r"^mark_precise: .*\n?", re.MULTILINE)  # how it came to know what it says later
_ID: Final = re.compile(r"#\d+$")  # of a kfunc: each kernel has its own
_MAP: Final = re.compile(r"(\(18\) r\d+ =) (?:0xff[0-9a-f]{14}|(?:map_val\()?[A-Za-z_.]\w*.*)")  # an address, or a name
_CALL: Final = 0x85
_ADDRESS: Final = re.compile(r"#?0x[0-9a-f]+$")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing compared: what both have where they are the same, else the lines that show the difference."""

    name: str
    same: bool
    lines: tuple[str, ...]


def compare(case: Case, source: Source, compiler: Compiler) -> list[Part]:
    """One case, ours and a Linux's. What Linux cannot be asked is one part that says so."""
    verdict = Verifier(log_level=2).verify(case.assembled.prog)
    verified = verdict.verified if isinstance(verdict, ours.Accepted) else None
    job = Job(case.assembled.prog, verified, case.ctx, case.kfuncs, case=case.id, verbose=True, since=case.since)
    reply = source.reply(job)
    if isinstance(reply, Unsupported) and reply.told:
        return [Part("verdict", True, (reply.reason,))]
    if isinstance(reply, Unsupported | Died):
        return [Part("verdict", False, (f"ours   {_verdict(case, verdict)}", f"Linux  {reply.reason}"))]
    parts = [_verdicts(case, verdict, reply)]
    log = reply.log if isinstance(reply, Refused) else reply.loaded.log
    if log or isinstance(reply, Refused):  # a record has none of an accepted program
        whole = isinstance(reply, Accepted) or len(log.split("\n")) > reply.processed_insns
        parts.append(_logs(verdict.log, log, whole=whole))
    if isinstance(reply, Accepted) and isinstance(verdict, ours.Accepted):
        if _looks_up(case.assembled.prog):
            text = "not compared: Linux makes lookups in maps insns of its own"
            parts.append(Part("rewritten insns and native code", True, (text,)))
        else:
            if reply.loaded.xlated:
                parts.append(_rewritten(verdict.verified.prog, reply.loaded.xlated))
            parts += _native(native_code(compiler, verdict.verified, job), reply.image)
        outcome = Interpreter().run(job)
        if isinstance(outcome, Ran):
            parts.append(_results(case.assembled.prog, outcome, reply))
    return parts


def _looks_up(prog: Prog) -> bool:
    known = HELPERS_BY_NAME["bpf_map_lookup_elem"].id
    return any(isinstance(op, CallHelper) and op.id == known for op in prog.ops)


def _verdict(case: Case, verdict: ours.Verdict) -> str:
    if isinstance(verdict, ours.Accepted):
        return _accepted(verdict.stats.processed_insns, verdict.stats.stack_depths)
    return _refused(case.assembled.prog, verdict.message, verdict.errno, verdict.insn)


def _accepted(processed: int, depths: Sequence[int]) -> str:
    return f"accept; processed {processed} insns; stack depth {'+'.join(map(str, depths))}"


def _refused(prog: Prog, message: str, errno: int, insn: int | None) -> str:
    return f"reject: {message} (errno {errno}{'' if insn is None else f', {prog.where(insn)}'})"


def _verdicts(case: Case, verdict: ours.Verdict, reply: Accepted | Refused) -> Part:
    mine = _verdict(case, verdict)
    if isinstance(reply, Accepted):
        theirs = _accepted(reply.loaded.processed_insns, reply.loaded.stack_depths)
        same = mine == theirs
    else:
        theirs = _refused(case.assembled.prog, reply.message, reply.errno, reply.insn)
        # An insn that one side does not name is no difference.
        same = isinstance(verdict, ours.Rejected) and (reply.message, reply.errno) == (
            last_words(verdict.message),
            verdict.errno,
        )
        insns = {reply.insn, verdict.insn} if isinstance(verdict, ours.Rejected) else set()
        same = same and (None in insns or len(insns) == 1)
    return _pair("verdict", mine, theirs, same=same)


def _pair(name: str, mine: str, theirs: str, *, same: bool) -> Part:
    return Part(name, same, (theirs,) if same else (f"ours   {mine}", f"Linux  {theirs}"))


def _walk(log: str) -> list[str]:
    """The insns that a verifier walked, in order and without the state it prints beside them, then its last words."""
    log = _PRECISE.sub("", _MAP.sub(r"\1 a map", log))
    walked = [_ID.sub("", match.group(1).rstrip()) for line in log.split("\n") if (match := _WALKED.match(line))]
    message = last_words(log)
    return walked if not message or _WALKED.match(message) else [*walked, message]


def _logs(mine: str, theirs: str, *, whole: bool) -> Part:
    """The first line that differs, of the walk; of a record, which is not the `whole` log, of its end."""
    left, right = _walk(mine), _walk(theirs)
    left = left if whole else left[-len(right) :]
    for number, (a, b) in enumerate(zip_longest(left, right, fillvalue="nothing more"), 1):
        if a != b:
            return Part("log", False, (f"line {number} of the walk differs first", f"ours   {a}", f"Linux  {b}"))
    return Part("log", True, (f"a walk of {len(right)} lines",))


def _rewritten(prog: Prog, xlated: bytes) -> Part:
    # Linux keeps what it needs of a call in fields that are 0 in a program as loaded.
    insns = tuple(replace(i, off=0) if i.opcode == _CALL else i for i in insns_from_bytes(xlated))
    theirs = Prog(insns, (Subprog("prog", 0, len(insns), None),), ())
    return _diff("rewritten insns", list(_insn_lines(prog)), list(_insn_lines(theirs)))


def _insn_lines(prog: Prog) -> Iterator[str]:
    """Insns without what each side counts in its own way: the targets of calls."""
    for index, op in enumerate(prog.ops):
        match op:
            case CallSubprog():
                yield "call a subprog"
            case CallHelper() | CallKfunc():
                yield "call a helper or kfunc"
            case LdImm64() if op.pseudo:
                yield f"r{op.dst} = a map"
            case _:
                yield insn_text(prog, index)


def _native(mine: Image, theirs: Image) -> Iterator[Part]:
    for symbol in theirs.symbols:
        own = next((s for s in mine.symbols if s.subprog == symbol.subprog), None)
        left = [] if own is None else _calls_alike(_native_lines(mine, own.offset, own.size))
        right = _calls_alike(_native_lines(theirs, symbol.offset, symbol.size))
        yield _diff(f"native code of {symbol.name}", left, right)


def _calls_alike(lines: Iterable[str]) -> list[str]:
    """On arm64, a call through a register as the direct call that it would be if its target were near."""
    text = "\n".join(lines)
    for match in list(_FAR_CALL.finditer(text)):
        parts = [int(part, 16) for part in match.group(2, 3, 4)]
        text = text.replace(match.group(), f"bl {parts[0] | parts[1] << 16 | parts[2] << 32:#x}")
    return text.split("\n")


def _native_lines(image: Image, offset: int, size: int) -> Iterator[str]:
    """Insns with targets inside the function as offsets, other addresses by what is there.

    Where an address of a map takes fewer insns than one of a kernel, NOPs fill up: then they are left out, and a target is
    the number of its insn.
    """
    size = _without_trampoline_stub(image, offset, size)
    code, base = image.code[offset : offset + size], image.base + offset
    functions = {image.base + s.offset: s.name for s in image.symbols}
    rows = list(disassemble(image.arch, code, base))
    places = {address: address - base for address, _, _, _ in rows} | {base + size: size}
    if image.source.prog.maps:
        places, count = {}, 0
        for address, _, mnemonic, _ in rows:
            places[address] = count
            count += mnemonic != "nop"
        places[base + size] = count
        rows = [row for row in rows if row[2] != "nop"]
    for _, _, mnemonic, operands in rows:
        match = _ADDRESS.search(operands) if mnemonic[0] in "bcj" else None
        shown = ""
        if match:
            address = int(match.group().lstrip("#"), 16)
            inside = base <= address < base + size
            shown = f"+{places.get(address, address - base):#x}" if inside else functions.get(address, f"{address:#x}")
        yield f"{mnemonic} {operands[: match.start()] if match else operands}{shown}".rstrip()


def _without_trampoline_stub(image: Image, offset: int, size: int) -> int:
    """The bytes of a function before what Linux puts behind it on arm64 for trampolines, which no program runs.

    It is `ldr x10, .+8; br x10` on a multiple of 8, after a `nop` where that is needed; the address stands behind it.
    """
    code = image.code[offset : offset + size]
    if image.arch != "arm64" or code[-8:] != _STUB:
        return size
    return size - (12 if code[-12:-8] == _NOP else 8)


def _diff(name: str, mine: Sequence[str], theirs: Sequence[str]) -> Part:
    if list(mine) == list(theirs):
        return Part(name, True, (f"{len(theirs)} insns",))
    lines = list(difflib.unified_diff(mine, theirs, "ours", "Linux", n=CONTEXT, lineterm=""))
    return Part(name, False, tuple(lines))


def _results(prog: Prog, outcome: Ran, reply: Accepted) -> Part:
    """Linux gives the low half of R0; a program that traces it does not run by itself."""
    if prog.traced is not None:
        return Part("results", True, ("Linux does not run it by itself",))
    retval = None if outcome.retval is None else outcome.retval & 0xFFFF_FFFF
    mine, theirs = _result(retval, outcome.memory), _result(reply.loaded.retval, reply.loaded.memory)
    return _pair("results", mine, theirs, same=mine == theirs)


def _result(retval: int | None, memory: bytes) -> str:
    shown = "nothing" if retval is None else f"{retval:#x}"
    return f"retval {shown} (32 bits)" + (f", memory {memory.hex(' ')}" if memory else "")
