"""`callconv stats`: how often a tail call reads memory, counted while it runs, in every lowering and form."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from backends.arm64.jit import Arm64Jit
from backends.arm64.jit import Options as Arm64Options
from backends.base import Job, Ran, Refused
from backends.image import Compiler, Image, Tail
from backends.interp import Interpreter
from backends.linux.backend import Accepted as Loaded
from backends.linux.backend import LinuxBackend
from backends.native import native_code
from backends.progs import Part
from backends.tail_meter import COUNT, Access, measure
from backends.x86_64.jit import Options as X8664Options
from backends.x86_64.jit import X8664Jit
from harness.isa.asm import Source
from harness.isa.maps import MAX_TAIL_CALLS, Map
from harness.tail_graphs import Graph
from verifier.verdict import Accepted
from verifier.verify import Verifier

LEGEND: Final = (
    "reads by one tail call: of the prog array + of the program's object + of the count, which lies on the stack\n"
    "arm64 has no direct form: its line is a known index all the same"
)
ARCHES: Final = ("x86_64", "arm64")
OUTCOMES: Final = ("made", "out of range", "empty slot", "at the limit")
_CALL: Final = "call bpf_tail_call\nr0 = 7\nexit\n"
# How a verifier knows map and key, and so which form there is. TC-36.
FORMS: Final[Mapping[str, str]] = {
    "direct": f"r2 = jmp ll\nr3 = 1\n{_CALL}",
    "indirect, one map": f"r2 = jmp ll\nr3 = *(u64 *)(r1 + 0)\n{_CALL}",
    "indirect, several maps": "r3 = *(u64 *)(r1 + 0)\nr4 = *(u64 *)(r1 + 8)\nr2 = jmp ll\nif r4 == 0 goto joined\n"
    f"r2 = other ll\njoined:\n{_CALL}",
}


class RefusedError(Exception):
    """A kernel that has no native code for a program; the message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """The reads of one tail call, made or not, and the writes of the count."""

    arch: str
    lowering: str
    form: str
    outcome: str
    max_entries: int
    slot: int
    cache: int
    program: int
    count_reads: int
    count_writes: int

    @property
    def array(self) -> int:
        """All reads of a prog array."""
        return self.max_entries + self.slot + self.cache


def compiler_of(arch: str, tail: Tail) -> Compiler:
    """Our JIT for a lowering."""
    return X8664Jit(X8664Options(tail=tail)) if arch == "x86_64" else Arm64Jit(Arm64Options(tail=tail))


def job_of(form: str, outcome: str) -> Job:
    """The shortest program for a form and what is to come of it: slot 1 of 2 is tried, or one that is not there.

    It has no registers to restore, so that every access to the stack is one to the count.
    """
    slot = {"made": 1, "empty slot": None, "out of range": 1, "at the limit": 0}[outcome]  # the number of a program
    key = 2 if outcome == "out of range" else 1
    content = () if slot is None else (((1).to_bytes(4, "little"), slot.to_bytes(4, "little")),)
    arrays = tuple(Map(name, "prog_array", 4, 4, 2, content=content) for name in ("jmp", "other"))
    programs = (Source("main", FORMS[form]),), (Source("main", "r0 = 42\nexit\n"),)
    graph = Graph(programs, arrays, (), key.to_bytes(8, "little") + bytes(8), (), ())
    prog = graph.assembled().prog
    verdict = Verifier().verify(prog)
    assert isinstance(verdict, Accepted)
    job = Job(prog, verdict.verified, graph.ctx, ())
    reference = Interpreter().run(job)
    assert isinstance(reference, Ran)
    return replace(job, reference=reference)


def reads(accesses: list[Access], number: int) -> tuple[Counter[str], int]:
    """Of the tail call after `number` others: reads by what is read, and writes."""
    own = [access for access in accesses if access.number == number]
    return Counter(a.part for a in own if not a.is_write), sum(a.is_write for a in own)


def row_of(arch: str, tail: Tail, form: str, outcome: str) -> Row:
    """One count, of our JIT's code."""
    job = job_of(form, outcome)
    assert job.verified is not None
    return _counted(arch, tail.value, form, outcome, job, native_code(compiler_of(arch, tail), job.verified, job))


def kernel_row(backend: LinuxBackend, form: str, outcome: str) -> Row:
    """One count, of a kernel's code. Raises RefusedError where there is none."""
    job = job_of(form, outcome)
    reply = backend.source.reply(job)
    if not isinstance(reply, Loaded):
        raise RefusedError(f"{backend.name}: {reply.message if isinstance(reply, Refused) else reply.reason}")
    return _counted(backend.arch, backend.describe(), form, outcome, job, reply.image)


def _counted(arch: str, lowering: str, form: str, outcome: str, job: Job, image: Image) -> Row:
    ran, accesses = measure(job, image)
    assert not ran.violations, ran.violations[0].message
    counts, writes = reads(accesses, MAX_TAIL_CALLS if outcome == "at the limit" else 0)
    return Row(
        arch, lowering, form, outcome,
        max_entries=counts[Part.LIMIT.value], slot=counts[Part.SLOT.value], cache=counts[Part.CACHE.value],
        program=counts[Part.PROGRAM.value], count_reads=counts[COUNT], count_writes=writes,
    )  # fmt: skip


def table(found: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells: a line for each lowering and form, a cell for each outcome."""
    by_line: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in found:
        by_line.setdefault((row.arch, row.lowering, row.form), {})[row.outcome] = row
    lines = [
        [*line, *(cell(by_outcome[outcome]) if outcome in by_outcome else "-" for outcome in OUTCOMES)]
        for line, by_outcome in by_line.items()
    ]
    return ["target", "lowering", "form", *OUTCOMES], lines


def cell(row: Row) -> str:
    """Reads of array, program and count."""
    return f"{row.array} + {row.program} + {row.count_reads}"


def as_json(found: Sequence[Row]) -> str:
    """The same as data, every part of an array by itself."""
    return json.dumps([asdict(row) for row in found], indent=1)


def tried() -> Iterator[tuple[str, str]]:
    """Forms and outcomes. A known key is in range, or the form is another one."""
    for form in FORMS:
        for outcome in OUTCOMES:
            if (form, outcome) != ("direct", "out of range"):
                yield form, outcome


def rows(kernels: Sequence[LinuxBackend] = ()) -> Iterator[Row]:
    """All of ours, and of some kernels."""
    for arch in ARCHES:
        for tail in Tail:
            yield from (row_of(arch, tail, *one) for one in tried())
    for kernel in kernels:
        yield from (kernel_row(kernel, *one) for one in tried())
