"""Trampolines as a back end offers them: made, run in the emulator and judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from backends.arm64 import trampoline as arm64
from backends.trampoline import Maker, Mode, Plan, Planner, RefusedError
from backends.trampoline_bench import Outcome, Scenario, TrampolineBench, places
from backends.x86_64 import trampoline as x86_64

PLANS: Final[Mapping[str, Planner]] = {"arm64": arm64.plan, "x86_64": x86_64.plan}
MAKERS: Final[Mapping[str, type[Maker]]] = {"arm64": arm64.Arm64Trampoline, "x86_64": x86_64.X8664Trampoline}


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
            kinds = [step.kind for step in call.steps]
            plan = self._plan(call.proto, kinds, mode, call.target, tail_call=call.tail_call)
        except RefusedError as refusal:
            return refusal
        code = self._maker().make(plan, call.attached, places(self.arch, call.target))
        self._bench = self._bench or TrampolineBench(self.arch)
        return Traced(self._bench.run(call, code), plan, code)
