"""A kernel's own trampolines, run in the emulator under the same checks as ours, and beside ours."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol, runtime_checkable

from backends.base import Died, Unsupported
from backends.decode import disassemble
from backends.linux.attach import Made, Request
from backends.linux.natives import MoveError, Native, moved, uses_of
from backends.tracing import MAKERS, linux_plan
from backends.trampoline import Attached, Program, RefusedError
from backends.trampoline_bench import Outcome, Scenario, TrampolineBench, places


@runtime_checkable
class Asked(Protocol):
    """What makes trampolines: a running kernel."""

    def announce_trampolines(self, requests: Iterable[Request]) -> None:
        """Those to come, to be made at once."""
        ...

    def trampoline(self, request: Request) -> Made | Unsupported | Died:
        """What the kernel makes."""
        ...


@dataclass(frozen=True, slots=True)
class Theirs:
    """What happened in a kernel's trampoline, and its native code as it was moved to the bench."""

    outcome: Outcome
    code: bytes


def request_of(call: Scenario) -> Request:
    """What a kernel is asked for."""
    cookies = tuple(step.cookie for step in call.steps)
    kinds = tuple(step.kind for step in call.steps)
    return Request(call.proto, kinds, call.func_ip, call.target, call.tail_call, cookies if any(cookies) else ())


@dataclass(slots=True)
class LinuxTracer:
    """One kernel's trampolines. The engine is made at the first call and reused."""

    arch: str
    asked: Asked
    _bench: TrampolineBench | None = field(default=None, init=False)

    def announce(self, calls: Iterable[Scenario]) -> None:
        """The calls to come."""
        self.asked.announce_trampolines([request_of(call) for call in calls])

    def theirs(self, call: Scenario) -> Theirs | RefusedError | Unsupported | Died:
        """One call of a traced function, through the kernel's trampoline."""
        made = self.asked.trampoline(request_of(call))
        if not isinstance(made, Native):
            return made
        try:
            code = moved(self.arch, made, places(self.arch, call.target))
        except MoveError as error:
            return Unsupported(f"its trampoline cannot be judged: {error}")
        self._bench = self._bench or TrampolineBench(self.arch)
        return Theirs(self._bench.run(call, code), code)

    def difference(self, call: Scenario) -> str:
        """How the kernel's answer differs from our `linux` mode."""
        return difference(self.arch, self.asked.trampoline(request_of(call)), call)


def difference(arch: str, made: Made | Unsupported | Died, call: Scenario) -> str:
    """How a kernel's answer differs from our `linux` mode: the first insn or the refusal; empty where it does not."""
    try:
        plan = linux_plan(arch, call)
    except RefusedError as refusal:
        answer = made if isinstance(made, RefusedError) else "it is accepted"
        return "" if made == refusal else f"ours   {refusal}\nLinux  {answer}"
    if not isinstance(made, Native):
        return f"ours   it is accepted\nLinux  {made.reason if isinstance(made, Unsupported | Died) else made}"
    try:
        uses = uses_of(arch, made)
    except MoveError as error:
        return f"Linux  {error}"
    programs = tuple(
        Program(step.kind, address, uses.objects.get(number, 0), step.cookie)
        for number, (step, address) in enumerate(zip(call.steps, made.programs, strict=True))
    )
    code = MAKERS[arch]().make(plan, Attached(programs, call.func_ip, call.tail_call), uses.places(arch, made))
    if code == made.code:
        return ""
    rows = (_texts(arch, one, made.address) for one in (code, made.code))
    at, ours, theirs = next((at, a, b) for at, (a, b) in enumerate(zip_longest(*rows, fillvalue="no more")) if a != b)
    return f"insn {at} differs first\nours   {ours}\nLinux  {theirs}"


def _texts(arch: str, code: bytes, base: int) -> list[str]:
    return [
        f"{code[address - base : address - base + size].hex()} {mnemonic} {text}"
        for address, size, mnemonic, text in disassemble(arch, code, base)
    ]
