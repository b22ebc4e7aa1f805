"""Trampolines as a back end offers them: made, run in the emulator and judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from backends.arm64 import trampoline as arm64
from backends.trampoline import PAGE_BYTES, Kind, Maker, Mode, Plan, Planner, RefusedError
from backends.trampoline_bench import Outcome, Scenario, TrampolineBench, places
from backends.trampoline_plan import E2BIG
from backends.x86_64 import trampoline as x86_64

PLANS: Final[Mapping[str, Planner]] = {"arm64": arm64.plan, "x86_64": x86_64.plan}
MAKERS: Final[Mapping[str, type[Maker]]] = {"arm64": arm64.Arm64Trampoline, "x86_64": x86_64.X8664Trampoline}


# Linux 7.2.13, measured: what runs in one trampoline, a session on both sides. include/linux/bpf.h, BPF_MAX_TRAMP_LINKS. TR-54
MOST_RUNS: Final = {"arm64": 37, "x86_64": 36}
_FEW: Final = 25  # runs that always fit


def linux_plan(arch: str, call: Scenario) -> Plan:
    """What Linux 7.2's trampoline has to know. Raises RefusedError, also for the first program that has no room."""
    kinds = [step.kind for step in call.steps]

    def planned(count: int) -> Plan:
        plan = PLANS[arch](call.proto, kinds[:count], Mode.LINUX, call.target, tail_call=call.tail_call)
        _check_room(arch, plan, call, count)
        return plan

    if _runs(kinds) > _FEW:
        for count in range(1, len(kinds)):
            planned(count)
    return planned(len(kinds))


def _runs(kinds: Sequence[Kind]) -> int:
    return sum(2 if kind is Kind.FSESSION else 1 for kind in kinds)


def _check_room(arch: str, plan: Plan, call: Scenario, count: int) -> None:
    runs = _runs([step.kind for step in call.steps[:count]])
    if runs <= _FEW:
        return
    if runs <= MOST_RUNS[arch]:
        attached = replace(call.attached, programs=call.attached.programs[:count])
        if MAKERS[arch]().page_bytes(plan, attached) <= PAGE_BYTES:
            return
    raise RefusedError("attach", E2BIG, "")


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced call: what happened, the trampoline's plan and its native code."""

    outcome: Outcome
    plan: Plan
    code: bytes


class Tracer:
    """One architecture's trampolines. The engine is made at the first call and reused."""

    def __init__(self, arch: str, maker: type[Maker] | None = None, plan: Planner | None = None) -> None:
        """The suite's own, where no other is given."""
        self.arch = arch
        self._maker, self._plan = maker or MAKERS[arch], plan or PLANS[arch]
        self._bench: TrampolineBench | None = None

    def trace(self, call: Scenario, mode: Mode) -> Traced | RefusedError:
        """One call of a traced function."""
        try:
            plan = linux_plan(self.arch, call) if mode is Mode.LINUX else self._full_plan(call)
        except RefusedError as refusal:
            return refusal
        code = self._maker().make(plan, call.attached, places(self.arch, call.target))
        self._bench = self._bench or TrampolineBench(self.arch)
        return Traced(self._bench.run(call, code), plan, code)

    def _full_plan(self, call: Scenario) -> Plan:
        kinds = [step.kind for step in call.steps]
        return self._plan(call.proto, kinds, Mode.FULL, call.target, tail_call=call.tail_call)
