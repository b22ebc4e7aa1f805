"""`callconv tail-sweep`: random graphs of programs that tail call each other, alike on every engine and in every lowering."""

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

from backends.base import Backend, Ran, Referee
from harness.case import Case
from harness.expect import Expect
from harness.graph import Scene
from harness.isa.maps import MAX_TAIL_CALLS
from harness.isa.verified import TailSite, Verified
from harness.plugins import TAILS, make_backends
from harness.report import failure_lines, record_of
from harness.suite import Result, Suite
from harness.tail_graphs import BAD_AT, KFUNC, WIDE_KFUNC, graph_of
from verifier.verdict import Accepted, Rejected, Verdict

ENGINES: Final = (
    "interp", "jit-x86_64", "jit-arm64", *(f"jit-{arch}-{tail}" for arch in ("x86_64", "arm64") for tail in TAILS),
)  # fmt: skip
CHUNK: Final = 100  # graphs that a process makes at a time
MAX_SHOWN: Final = 20
FORMS: Final = ("direct", "of one map", "of several maps")

Say = Callable[[str], None]


def case_of(seed: int) -> Case:
    """The graph of one seed as a case of one run, from its first program on; its verdict is the built-in verifier's."""
    graph = graph_of(seed)
    expect = Expect("accept")
    scene = Scene("", 0, 0, graph.updates, graph.during, expect)
    return Case(
        name=f"seed-{seed}", file="tail-sweep", line=1, about="random programs", spec=("random",), needs=(),
        type="syscall", ctx=graph.ctx, kfuncs=graph.kfuncs, assembled=graph.assembled(), expect=expect, sources=(),
        scenes=(scene,),
    )  # fmt: skip


@dataclass(slots=True)
class Swept:
    """What came of some graphs. `calls`: tail calls made, by their form, in one run of each graph; `wrong` in words."""

    graphs: int = 0
    accepted: int = 0
    runs: int = 0
    tail_calls: int = 0  # all runs together
    at_limit: int = 0  # graphs that make as many as there may be
    calls: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # by rule
    wrong: list[str] = field(default_factory=list)
    judges: tuple[str, ...] = ()

    def add(self, other: "Swept") -> None:
        """The same of other graphs."""
        self.graphs += other.graphs
        self.accepted += other.accepted
        self.runs += other.runs
        self.tail_calls += other.tail_calls
        self.at_limit += other.at_limit
        self.calls += other.calls
        self.refused += other.refused
        self.wrong += other.wrong
        self.judges = other.judges or self.judges


def form_of(site: TailSite) -> str:
    """How a tail call is made, as far as a verifier decides it. TC-36."""
    if site.several:
        return FORMS[2]
    return FORMS[0] if site.key is not None else FORMS[1]


def made(verified: Verified, outcome: Ran) -> list[str]:
    """The tail calls of a run, by their form."""
    forms = {verified.origin[insn]: form_of(site) for insn, site in verified.tail_calls.items()}
    return [forms[call.insn] for call in outcome.calls if call.insn in forms]


def for_kernel(case: Case, suite: Suite) -> Case:
    """The case with what the built-in engines say, against which a kernel's own verdict and run are held.

    Nothing is updated in the middle: a kernel inlines helpers, and its own run cannot be stopped in one.
    """
    case = _expecting(case, case.expect)
    verdict = suite.verdict(case)
    if isinstance(verdict, Rejected):
        return _expecting(case, Expect("reject", rule=verdict.rule))
    own = suite.reference(case, case.scenes[0], verdict)
    return case if own is None else _expecting(case, Expect("accept", retval=own.retval, memory=own.memory))


def _expecting(case: Case, expect: Expect) -> Case:
    scenes = tuple(replace(scene, expect=expect, during=()) for scene in case.scenes)
    return replace(case, expect=expect, scenes=scenes)


def sweep_some(first: int, last: int, backends: Sequence[Backend], suite: Suite | None = None) -> Swept:
    """The graphs of some seeds on back ends."""
    suite, swept = suite or Suite(), Swept()
    for backend in backends:
        if isinstance(backend, Referee):
            backend.announce([KFUNC, WIDE_KFUNC])
    for seed in range(first, last + 1):
        _sweep_one(seed, backends, suite, swept)
    swept.judges = tuple(f"{b.name}: {b.describe()}" for b in backends if isinstance(b, Referee))
    return swept


def _sweep_one(seed: int, backends: Sequence[Backend], suite: Suite, swept: Swept) -> None:
    case = case_of(seed)
    verdict = suite.verdict(case)
    swept.graphs += 1
    accepted = isinstance(verdict, Accepted)
    swept.accepted += accepted
    if isinstance(verdict, Rejected):
        swept.refused[verdict.rule] += 1
    for backend in backends:
        if not accepted and not isinstance(backend, Referee):
            continue
        result = suite.judge(for_kernel(case, suite) if isinstance(backend, Referee) else case, backend)
        _count(case, verdict, result, swept, first=backend is backends[0])


def _count(case: Case, verdict: Verdict, result: Result, swept: Swept, *, first: bool) -> None:
    forms: list[str] = []
    if isinstance(result.outcome, Ran) and isinstance(verdict, Accepted):
        forms = made(verdict.verified, result.outcome)
        swept.runs += 1
        swept.tail_calls += len(forms)
        swept.calls.update(forms if first else ())
        swept.at_limit += first and len(forms) == MAX_TAIL_CALLS
    if wrong := _wrong(case, result, len(forms)):
        again = f"  again   callconv tail-sweep {case.name.removeprefix('seed-')} --backend {result.backend}"
        swept.wrong.append("\n".join([*wrong, again]))


def _wrong(case: Case, result: Result, tail_calls: int) -> list[str]:
    """What is wrong with a result: what the suite says, then what holds whatever the interpreter does."""
    if result.mismatches or result.status == "error":
        return failure_lines(record_of(result)) if result.status != "differs" else []
    if result.status != "passed":
        return [f"{case.name} ({result.backend}): {result.reason}"]
    outcome, reference = result.outcome, result.reference
    if not isinstance(outcome, Ran) or reference is None:
        return []
    said: list[str] = []
    if outcome.calls != reference.calls:
        said.append("other calls than the interpreter makes")
    if tail_calls > MAX_TAIL_CALLS:
        said.append(f"{tail_calls} tail calls are made, more than {MAX_TAIL_CALLS}")
    if outcome.memory[BAD_AT]:
        said.append("what a function keeps in R6-R9 or on its stack is lost")
    return [f"{case.name} ({result.backend}): {text}" for text in said]


@cache
def _engines(names: tuple[str, ...]) -> list[Backend]:
    """Of this process: an emulator is not made again and again."""
    found = make_backends(names)
    gc.freeze()  # what is loaded by now stays
    return found


def _chunk(first: int, last: int, names: tuple[str, ...]) -> Swept:
    """In a process of its own."""
    return sweep_some(first, last, _engines(names))


def _parts(first: int, last: int, backends: Sequence[Backend], jobs: int) -> Iterator[Swept]:
    parts = [(at, min(at + CHUNK - 1, last)) for at in range(first, last + 1, CHUNK)]
    if jobs == 1 or len(parts) == 1:
        yield from (sweep_some(*part, backends) for part in parts)
        return
    names = tuple(backend.name for backend in backends)
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        waiting = [pool.submit(_chunk, *part, names) for part in parts]
        try:
            yield from (done.result() for done in as_completed(waiting))
        finally:
            pool.shutdown(cancel_futures=True)


def tail_sweep(first: int, last: int, backends: Sequence[Backend], jobs: int | None, say: Say) -> bool:
    """Whether nothing differs. Kernels are asked in this process; the other engines run in `jobs` of them."""
    started, total = time.perf_counter(), Swept()
    jobs = 1 if any(isinstance(backend, Referee) for backend in backends) else jobs or os.cpu_count() or 1
    for swept in _parts(first, last, backends, jobs):
        for text in swept.wrong[: max(MAX_SHOWN - len(total.wrong), 0)]:
            say(text)
        total.add(swept)
    if len(total.wrong) > MAX_SHOWN:
        say(f"... and {len(total.wrong) - MAX_SHOWN} more")
    for line in total.judges:
        say(line)
    for line in report_lines(total, time.perf_counter() - started):
        say(line)
    return not total.wrong


def report_lines(total: Swept, seconds: float) -> Iterator[str]:
    """The figures."""
    refused = ", ".join(f"{rule} {count}" for rule, count in sorted(total.refused.items()))
    yield f"{total.graphs} graphs, {total.accepted} accepted ({100 * total.accepted / total.graphs:.1f} %)" + (
        f"; refused: {refused}" if refused else ""
    )
    forms = ", ".join(f"{form} {total.calls[form]}" for form in FORMS)
    yield f"{total.runs} runs, {total.tail_calls} tail calls made; in one run of each graph {forms}; {total.at_limit} graphs come to the limit"
    yield f"{len(total.wrong)} differences; {seconds:.1f} s, {total.graphs / seconds:.0f} graphs/s"
