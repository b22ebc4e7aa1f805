"""One case on one back end: verify, run, check. What the command line and pytest share."""

import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

from backends.base import Backend, Died, Job, Outcome, Ran, Referee, Refused, Unsupported
from backends.interp import Interpreter
from harness.case import Case
from harness.check import (
    Mismatch,
    difference_mismatches,
    referee_mismatches,
    run_mismatches,
    verdict_mismatches,
)
from harness.graph import Scene, between_mismatches, scene_mismatches, scene_text
from verifier.verdict import Accepted, Rejected, Verdict
from verifier.verify import Verifier

Status = Literal["passed", "differs", "failed", "skipped", "error"]


@dataclass(frozen=True, slots=True)
class Result:
    """What one case did on one back end. `seconds` is wall-clock time, verification included where it was done here.

    `verdict` is the built-in verifier's; a back end with its own gives that as its outcome. `differs`: the back end is not
    as the case says, and that is stated with it; `reason` says why.
    """

    case: Case
    backend: str
    status: Status
    verdict: Verdict | None
    outcome: Outcome | None = None
    reference: Ran | None = None
    mismatches: tuple[Mismatch, ...] = ()
    reason: str = ""  # why it was skipped or differs, or the traceback of an error
    seconds: float = 0.0
    listing: tuple[str, ...] = ()  # of a trampoline that failed
    arch: str = ""  # of a trampoline
    steps: tuple[str, ...] = ()  # what each run of a case with steps came to

    @property
    def told(self) -> bool:
        """Whether it was skipped because the case itself says so."""
        return isinstance(self.outcome, Unsupported) and self.outcome.told

    @property
    def verdict_word(self) -> str | None:
        """`accept`, `reject`, or None where there was no verdict."""
        if isinstance(self.outcome, Refused):
            return "reject"
        if isinstance(self.outcome, Ran) and (self.outcome.loaded is not None or self.case.traced is not None):
            return "accept"
        match self.verdict:
            case Accepted():
                return "accept"
            case Rejected():
                return None if isinstance(self.outcome, Died) else "reject"  # the kernel that died gave none
            case None:
                return None
            case _:
                assert_never(self.verdict)


@dataclass(slots=True)
class Suite:
    """Runs cases. The verdict and the interpreter's run of a case are made once, however many back ends follow."""

    verifier: Verifier = field(default_factory=Verifier)
    detail: bool = False
    _last: tuple[Case, Verdict, Ran | None] | None = None
    _last_scene: tuple[Case, Scene, Ran | None] | None = None

    def judge(self, case: Case, backend: Backend) -> Result:
        """One case on one back end; never raises for a fault of the case, the back end or our own code."""
        started = time.perf_counter()
        try:
            result = self._judge(case, backend)
        # The boundary that keeps one case's defect, ours included, from losing the others: it is reported as an error.
        except Exception:  # noqa: BLE001
            result = Result(case, backend.name, "error", None, reason=traceback.format_exc())
        return replace(result, seconds=time.perf_counter() - started)

    def _judge(self, case: Case, backend: Backend) -> Result:
        if case.traced is not None:
            return self._traced(case, backend)
        needs = (*case.needs, "tail_calls") if case.scenes else case.needs
        missing = [word for word in needs if word not in backend.features]
        if missing:
            return Result(case, backend.name, "skipped", None, reason=f"{backend.name} lacks {', '.join(missing)}")
        if case.scenes:
            return self._graph(case, backend)
        verdict, reference = self._verdict(case)
        if isinstance(backend, Referee):
            return self._refereed(case, backend, verdict, reference)
        wrong = verdict_mismatches(case, verdict)
        if wrong or not isinstance(verdict, Accepted):
            return Result(case, backend.name, "failed" if wrong else "passed", verdict, mismatches=tuple(wrong))
        own = isinstance(backend, Interpreter) and reference is not None and not self.detail
        outcome = reference if own else backend.run(self._job(case, verdict, reference))
        assert outcome is not None
        if isinstance(outcome, Unsupported):
            return Result(case, backend.name, "skipped", verdict, outcome, reference, reason=outcome.reason)
        mismatches = tuple(run_mismatches(case, outcome, reference))
        status: Status = "failed" if mismatches else "passed"
        if mismatches and not own and not self.detail:
            outcome = backend.run(
                replace(self._job(case, verdict, reference), detail=True)
            )  # once more, for the report
        return Result(case, backend.name, status, verdict, outcome, reference, mismatches)

    def _graph(self, case: Case, backend: Backend) -> Result:
        """Programs that tail call each other: every run of their steps."""
        verdict, _ = self._verdict(case)
        wrong = [] if isinstance(backend, Referee) else verdict_mismatches(case, verdict)
        if not isinstance(backend, Referee) and (wrong or not isinstance(verdict, Accepted)):
            return Result(case, backend.name, "failed" if wrong else "passed", verdict, mismatches=tuple(wrong))
        outcome: Outcome | None = None
        reference: Ran | None = None
        steps: list[str] = []
        for scene in case.scenes:
            outcome, reference, found = self._scene(case, scene, verdict, backend)
            steps += [scene_text(scene, case.assembled.prog, outcome)] if scene.label else []
            if isinstance(outcome, Unsupported):
                return Result(case, backend.name, "skipped", verdict, outcome, reference, reason=outcome.reason)
            if found:
                named = tuple(replace(m, got=f"{scene.label}: {m.got}" if scene.label else m.got) for m in found)
                return Result(case, backend.name, "failed", verdict, outcome, reference, named, steps=tuple(steps))
        return Result(case, backend.name, "passed", verdict, outcome, reference, steps=tuple(steps))

    def _scene(
        self, case: Case, scene: Scene, verdict: Verdict, backend: Backend
    ) -> tuple[Outcome, Ran | None, list[Mismatch]]:
        """One run: what came of it, what the interpreter makes of it, and what is wrong."""
        whole = replace(case, expect=scene.expect)
        job = scene.job(self._job(case, verdict, None))
        reference = self.reference(case, scene, verdict)
        if isinstance(backend, Referee):
            outcome = backend.run(replace(job, reference=reference))
            found = referee_mismatches(whole, outcome, verdict, reference)
            return outcome, reference, found or scene_mismatches(scene, whole.assembled.prog, outcome)
        assert reference is not None
        own_engine = isinstance(backend, Interpreter) and not self.detail
        outcome = reference if own_engine else backend.run(replace(job, reference=reference))
        found = run_mismatches(whole, outcome, reference) or scene_mismatches(scene, whole.assembled.prog, outcome)
        if scene.between and not found and not isinstance(backend, Interpreter):
            before = Interpreter().run(replace(job, updates=scene.updates[:-1]))
            assert isinstance(before, Ran)
            found = between_mismatches(scene, job, backend, (before, reference))
        return outcome, reference, found

    def verdict(self, case: Case) -> Verdict:
        """The built-in verifier's."""
        return self._verdict(case)[0]

    def reference(self, case: Case, scene: Scene, verdict: Verdict) -> Ran | None:
        """The interpreter's run of a scene; None where the program is refused."""
        last = self._last_scene
        if last is None or last[0].assembled is not case.assembled or last[1] is not scene:
            job = scene.job(self._job(case, verdict, None))
            own = Interpreter().run(job) if isinstance(verdict, Accepted) else None
            self._last_scene = last = case, scene, own if isinstance(own, Ran) else None
        return last[2]

    def _traced(self, case: Case, backend: Backend) -> Result:
        """A trampoline, by back ends that make some."""
        tracer = getattr(backend, "tracer", None) if makes_trampolines(backend) else None
        if tracer is None:
            return Result(case, backend.name, "skipped", None, reason=f"{backend.name} makes no trampolines")
        from harness.traced import judge_theirs, judge_traced, listing

        assert case.traced is not None
        if isinstance(backend, Referee):
            return judge_theirs(case, case.traced, backend.name, tracer)
        outcome, found = judge_traced(case.traced, case.expect, tracer)
        lines = tuple(listing(case.traced, tracer)) if found else ()
        status: Status = "failed" if found else "passed"
        return Result(
            case, backend.name, status, None, outcome, mismatches=tuple(found), listing=lines, arch=tracer.arch
        )

    def _refereed(self, case: Case, backend: Referee, verdict: Verdict, reference: Ran | None) -> Result:
        """A back end that judges for itself."""
        outcome = backend.run(self._job(case, verdict, reference))
        if isinstance(outcome, Unsupported):
            return Result(case, backend.name, "skipped", verdict, outcome, reference, reason=outcome.reason)
        found = referee_mismatches(case, outcome, verdict, reference)
        stated = backend.difference(case.id)
        if stated is not None and not (left := difference_mismatches(found, stated)):
            return Result(case, backend.name, "differs", verdict, outcome, reference, tuple(found), stated.why)
        found = left if stated is not None else found
        if found and isinstance(outcome, Ran) and not self.detail:
            outcome = backend.run(
                replace(self._job(case, verdict, reference), detail=True)
            )  # once more, for the report
        return Result(case, backend.name, "failed" if found else "passed", verdict, outcome, reference, tuple(found))

    def announce(self, cases: Sequence[Case], backends: Sequence[Backend]) -> None:
        """Tells the back ends what is to come."""
        for backend in backends:
            if isinstance(backend, Referee):
                backend.announce([body for case in cases for body in case.kfuncs])
                calls = [case.traced.call for case in cases if case.traced is not None]
                if calls and makes_trampolines(backend):
                    backend.tracer.announce(calls)  # type: ignore[attr-defined]

    def _verdict(self, case: Case) -> tuple[Verdict, Ran | None]:
        if self._last is None or self._last[0] is not case:
            verdict, reference = self.verifier.verify(case.assembled.prog), None
            if isinstance(verdict, Accepted) and not case.scenes:
                outcome = Interpreter().run(self._job(case, verdict, None))
                reference = outcome if isinstance(outcome, Ran) else None
            self._last = case, verdict, reference
        return self._last[1], self._last[2]

    def _job(self, case: Case, verdict: Verdict, reference: Ran | None) -> Job:
        verified = verdict.verified if isinstance(verdict, Accepted) else None
        place = case.expect.place
        prog, since = case.assembled.prog, case.since
        return Job(prog, verified, case.ctx, case.kfuncs, place, reference, self.detail, case.id, since=since)


def makes_trampolines(backend: Backend) -> bool:
    """Whether a back end judges cases of trampolines."""
    return bool(getattr(backend, "makes_trampolines", False))


def pairs(cases: Sequence[Case], backends: Sequence[Backend]) -> Iterator[tuple[Case, Backend]]:
    """What is to be judged: every case on every back end, trampolines where they are made.

    Where nobody makes some they are left out, unless there is nothing else: then they are skipped.
    """
    makers = [backend for backend in backends if makes_trampolines(backend)]
    makers = makers or ([] if any(case.traced is None for case in cases) else list(backends))
    for case in cases:
        for backend in backends if case.traced is None else makers:
            yield case, backend


def unexecuted(results: Sequence[Result]) -> bool:
    """Whether a run made no result that says anything: it must not look green."""
    return not any(result.status in ("passed", "differs", "failed", "error") for result in results)
