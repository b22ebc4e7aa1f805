"""Programs that tail call each other: their steps, each run of them, and its judgement."""

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from backends.base import Backend, Job, Outcome, Ran, Update
from harness.check import Mismatch
from harness.expect import Expect, hex_bytes
from harness.isa.insn import Prog
from harness.isa.opcodes import MASK64
from harness.params import Notes
from harness.schema import suggestion
from harness.yamldoc import Path, quoted

WORDS: Final = {name: getattr(errno, name) for name in ("E2BIG", "ENOENT", "EINVAL")}


@dataclass(frozen=True, slots=True)
class Scene:
    """One run: which program, after which updates, and what it has to come to. `label` names it in messages.

    `ran`: the programs that tail calls started, in order; `between`: results while the last update is being written.
    """

    label: str
    number: int  # of the step, from 1; 0 where there are no steps
    entry: int
    updates: tuple[Update, ...]
    during: tuple[tuple[int, Update], ...]
    expect: Expect
    ran: tuple[str, ...] | None = None
    between: tuple[int, ...] = ()

    def job(self, job: Job) -> Job:
        """The job of this run, of one of the case's first program."""
        name = f"{job.case}#{self.number}" if self.number else job.case
        return replace(job, entry=self.entry, updates=self.updates, during=self.during, case=name)


@dataclass(slots=True)
class _Script:
    """The steps of a case, read in order."""

    notes: Notes
    prog: Prog
    updates: list[Update] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)

    @property
    def programs(self) -> list[str]:
        return [self.prog.subprogs[main].name for main in self.prog.mains]

    def scenes(self, steps: list[Any], expect: Expect) -> Iterator[Scene]:
        changed = False
        for number, step in enumerate(steps):
            path: Path = ("steps", number)
            if "run" not in step:
                change = self.change(path, step)
                self.updates += [change] if change else []
                changed = True
                continue
            if "between" in step and not changed:
                self.notes.at((*path, "between"), "between goes with an update just before", key=True)
            yield self.run(path, number, step, expect)
            changed = False

    def run(self, path: Path, number: int, step: Mapping[str, Any], expect: Expect) -> Scene:
        """One run."""
        entry = self.named(path, "run", step["run"], self.programs)
        memory = hex_bytes(self.notes, (*path, "memory"), step["memory"]) if "memory" in step else None
        during: list[tuple[int, Update]] = []
        for call, data in step.get("during", {}).items():
            change = self.change((*path, "during", call), data)
            if not str(call).isdigit():
                self.notes.at((*path, "during", call), f"expected the number of a call, found {quoted(call)}", key=True)
            elif change is not None and change.close:
                self.notes.at((*path, "during", call, "close"), "close goes with steps, not with a run", key=True)
            elif change is not None:
                during.append((int(call), change))
        for prog in step.get("ran", ()):
            self.named(path, "ran", prog, self.programs)
        wanted = replace(
            expect, retval=step["retval"] & MASK64 if "retval" in step else None, memory=memory, maps={}, calls=None
        )
        ran = tuple(step["ran"]) if "ran" in step else None
        between = tuple(value & MASK64 for value in step.get("between", ()))
        label = f"step {number + 1} (run {step['run']})"
        return Scene(label, number + 1, entry, tuple(self.updates), tuple(during), wanted, ran, between)

    def change(self, path: Path, step: Mapping[str, Any]) -> Update | None:
        """An update or a delete."""
        arrays = {map_.name: index for index, map_ in enumerate(self.prog.maps) if map_.has_progs}
        word = next(one for one in ("update", "delete", "close") if one in step)
        name = step[word]
        if name not in arrays:
            self.notes.at((*path, word), f"there is no prog array {quoted(name)}{suggestion(name, list(arrays))}")
            return None
        if name in self.closed:
            self.notes.at((*path, word), f"{name} is closed")
        if word == "close":
            self.closed.add(name)
            return Update(arrays[name], 0, None, close=True)
        prog = self.named(path, "prog", step["prog"], self.programs) if word == "update" else None
        return Update(arrays[name], step["slot"], prog, WORDS[step["errno"]] if "errno" in step else 0)

    def named(self, path: Path, key: str, name: str, known: list[str]) -> int:
        """The number of a program."""
        if name not in known:
            self.notes.at((*path, key), f"there is no program {quoted(name)}{suggestion(name, known)}")
            return 0
        return known.index(name)


def build_scenes(notes: Notes, data: Mapping[str, Any], expect: Expect, prog: Prog) -> tuple[Scene, ...]:
    """The runs of a case; without steps, the one of its first program."""
    if "steps" not in data:
        return (Scene("", 0, 0, (), (), expect),)
    for key in ("retval", "memory", "maps", "calls"):
        if key in data["expect"]:
            notes.at(("expect", key), f"{key} goes with each run of steps", key=True)
    if expect.verdict == "reject":
        notes.at(("steps",), "a case that is rejected has no steps", key=True)
    scenes = tuple(_Script(notes, prog).scenes(data["steps"], expect))
    if not scenes:
        notes.at(("steps",), "expected a run among the steps", key=True)
    return scenes


# --- judgement


def scene_mismatches(scene: Scene, prog: Prog, outcome: Outcome) -> list[Mismatch]:
    """Which programs ran, and what the updates before gave."""
    if not isinstance(outcome, Ran):
        return []
    found: list[Mismatch] = []
    for number, (update, got) in enumerate(zip(scene.updates, outcome.updates, strict=False), 1):
        if got != update.errno:
            found.append(Mismatch("update", f"change {number} gives {update.errno}", f"change {number} gives {got}"))
    ran = _ran(prog, outcome)
    if scene.ran is not None and ran != scene.ran:
        found.append(
            Mismatch("ran", f"ran = {', '.join(scene.ran) or 'nothing'}", f"ran = {', '.join(ran) or 'nothing'}")
        )
    return found


def _ran(prog: Prog, outcome: Ran) -> tuple[str, ...]:
    """The programs that tail calls started."""
    mains = {prog.subprogs[main].name for main in prog.mains}
    return tuple(call.callee for call in outcome.calls if call.is_subprog and call.callee in mains)


def scene_text(scene: Scene, prog: Prog, outcome: Outcome) -> str:
    """What a run came to, as a line."""
    if not isinstance(outcome, Ran):
        return f"{scene.label}: no run"
    ran = ", ".join(_ran(prog, outcome)) or "nothing else"
    return f"{scene.label}: retval = {'nothing' if outcome.retval is None else outcome.retval}; ran {ran}"


def _writes(scene: Scene, job: Job) -> int:
    """How many writes the last update has at the most: the slot, its cache, and two for each tail call with that slot alone."""
    update = scene.updates[-1]
    sites = job.verified.tail_calls.values() if job.verified else ()
    return 2 + 2 * sum((site.map, site.key) == (update.map, update.key) for site in sites)


def between_mismatches(scene: Scene, job: Job, backend: Backend, ends: tuple[Ran, Ran]) -> list[Mismatch]:
    """What another CPU sees after each of the writes of the last update: what was before, or what comes after, and no fault."""
    for writes in range(_writes(scene, job)):
        seen: list[str] = []
        for end in ends:
            outcome = backend.run(replace(job, reference=end, writes=writes))
            if not isinstance(outcome, Ran):
                return []
            if outcome.violations:
                seen.append(outcome.violations[0].message)
            elif outcome.retval not in scene.between or outcome.retval != end.retval:
                seen.append(f"retval = {outcome.retval}")
            else:
                break
        else:
            wanted = " or ".join(str(value) for value in scene.between)
            return [Mismatch("between", f"retval = {wanted} after {writes} writes", "; ".join(seen))]
    return []
