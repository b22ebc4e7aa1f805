"""`callconv trampoline-sweep`: prototypes of every shape and random ones through trampolines, ours and a Linux's."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from backends.base import Backend, Died, Unsupported
from backends.linux.backend import LinuxBackend
from backends.linux.tracing import LinuxTracer
from backends.oracle.compilers import Compiler
from backends.oracle.traced import CompiledTracer
from backends.tracing import Traced, Tracer
from backends.trampoline import Mode, RefusedError, Target
from backends.trampoline_bench import Scenario
from backends.trampoline_grid import call_of

ARCHES: Final = ("x86_64", "arm64")
CHUNK: Final = 192  # calls that a kernel is asked for at a time
MAX_SHOWN: Final = 20

Say = Callable[[str], None]


@dataclass(slots=True)
class Swept:
    """What became of the calls on one architecture; `kernel` 0 where none was asked."""

    calls: int = 0
    refused: int = 0  # by `full`
    kernel: int = 0
    kernel_refused: int = 0
    broken: Counter[str] = field(default_factory=Counter)  # what the kernel's trampolines break
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Between:
    """What became of our trampolines between a compiler's callers and functions."""

    tracer: CompiledTracer
    calls: int = 0
    left_out: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, calls: Mapping[int, Scenario], made: Mapping[int, Traced]) -> None:
        """Calls for which `full` made trampolines."""
        pairs = self.tracer.pairs({seed: calls[seed] for seed in made})
        self.calls += len(made)
        self.left_out += len(made) - len(pairs)
        for seed, pair in pairs.items():
            head = f"seed {seed}, {self.tracer.compiler}: {calls[seed].proto}"
            found = self.tracer.judge(calls[seed], made[seed].code, pair).violations
            self.wrong += [f"{head}\n  {violation.check}: {violation.message}" for violation in found]

    def __str__(self) -> str:
        text = f"between callers and functions of {self.tracer.compiler}: {self.calls - self.left_out} calls"
        return text + (
            f"; {self.left_out} left out, which it does not compile by the document" if self.left_out else ""
        )


def sweep(
    first: int,
    last: int,
    backends: Sequence[Backend],
    say: Say,
    target: Target = Target.KERNEL,
    compilers: Sequence[Compiler] = (),
) -> bool:
    """Whether `full` is right everywhere, also between compiled code, and `linux` is what each kernel does; says what is not."""
    between = [Between(CompiledTracer(compiler)) for compiler in compilers]
    swept: dict[str, Swept] = {arch: Swept() for arch in ARCHES}
    linux = {b.arch: b.tracer for b in backends if isinstance(b, LinuxBackend) and b.makes_trampolines}
    names = {b.arch: b for b in backends if isinstance(b, LinuxBackend)}
    tracers = {arch: Tracer(arch) for arch in ARCHES}
    started = time.perf_counter()
    for at in range(first, last + 1, CHUNK):
        calls = [(seed, call_of(seed, target)) for seed in range(at, min(at + CHUNK, last + 1))]
        for tracer in linux.values():
            tracer.announce([call for _, call in calls])
        made: dict[str, dict[int, Traced]] = {arch: {} for arch in ARCHES}
        for seed, call in calls:
            for arch in ARCHES:
                full = _sweep_one(seed, call, tracers[arch], linux.get(arch), swept[arch])
                made[arch] |= {seed: full} if isinstance(full, Traced) else {}
        for compiled in between:
            compiled.add(dict(calls), made[compiled.tracer.compiler.arch])
    wrong = [text for found in swept.values() for text in found.wrong]
    wrong += [text for compiled in between for text in compiled.wrong]
    for text in wrong[:MAX_SHOWN]:
        say(text)
    if len(wrong) > MAX_SHOWN:
        say(f"... and {len(wrong) - MAX_SHOWN} more")
    for arch, one in swept.items():
        say(f"{arch}: {one.calls} calls through our trampolines, {one.calls - one.refused} made, {one.refused} refused")
        if one.kernel:
            broken = ", ".join(f"{check} {count}" for check, count in sorted(one.broken.items())) or "none"
            say(
                f"  {names[arch].describe()}: {one.kernel} asked for, {one.kernel_refused} refused; checks broken: {broken}"
            )
    for compiled in between:
        say(str(compiled))
    say(f"seeds {first}-{last}, {len(wrong)} differences; {time.perf_counter() - started:.1f} s")
    return not wrong


def _sweep_one(
    seed: int, call: Scenario, tracer: Tracer, linux: LinuxTracer | None, swept: Swept
) -> Traced | RefusedError:
    """What `full` makes."""
    swept.calls += 1
    head = f"seed {seed}, {tracer.arch}: {call.proto}; {', '.join(step.kind.value for step in call.steps)}"
    full = tracer.trace(call, Mode.FULL)
    if isinstance(full, RefusedError):
        swept.refused += 1
    else:
        swept.wrong += [f"{head}\n  {violation.check}: {violation.message}" for violation in full.outcome.violations]
    if linux is not None:
        _ask(head, call, tracer, linux, swept)
    return full


def _ask(head: str, call: Scenario, tracer: Tracer, linux: LinuxTracer, swept: Swept) -> None:
    """What a kernel makes, against `linux`."""
    swept.kernel += 1
    found = linux.theirs(call)
    if isinstance(found, Unsupported | Died):
        swept.wrong.append(f"{head}\n  {found.reason}")
        return
    if difference := linux.difference(call):
        swept.wrong.append("\n  ".join([head, *difference.split("\n")]))
    if isinstance(found, RefusedError):
        swept.kernel_refused += 1
        return
    broken = {violation.check for violation in found.outcome.violations}
    swept.broken.update(broken)
    ours = tracer.trace(call, Mode.LINUX)
    expected = {violation.check for violation in ours.outcome.violations} if isinstance(ours, Traced) else set[str]()
    if broken != expected:
        swept.wrong.append(f"{head}\n  ours breaks {sorted(expected)}, Linux's {sorted(broken)}")
