"""The back ends of a real Linux: a reply from wherever it comes, its native code judged like everybody's."""

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol, assert_never

from backends.base import Died, Difference, Job, Loaded, Outcome, Ran, Refused, Unsupported
from backends.calls import Body
from backends.image import Image
from backends.linux.ask import Answer, AttachTo, KfuncIds, NativeFunc, ask
from backends.linux.attach import Made, NoTrampolines, Request
from backends.linux.differs import Differences, version_of
from backends.linux.image import ImageError, called, image_of
from backends.linux.modules import UnavailableError
from backends.linux.syscalls import Kernel, KernelGoneError, release_of
from backends.linux.tracing import Asked, LinuxTracer
from backends.maps import MAP_HELPERS
from backends.native import KERNEL_ONLY, Bench, addresses_of
from harness.isa.asm import Source as Text
from harness.isa.asm import assemble
from harness.isa.calls import HELPERS, TAIL_CALL
from harness.isa.insn import MAY_GOTO, Insn, Prog, Subprog
from harness.isa.maps import Map
from harness.isa.proto import Proto
from harness.isa.slots import callee_slots
from harness.isa.verified import TailSite

FEATURES: Final = frozenset({"stack_args", "kfuncs", "subprogs", "global_funcs", "tail_calls"})
MAX_BOOTS: Final = 40  # of one run; programs that kill more guests than that are told as such
CALL, EXIT, ST_ARG = 0x85, 0x95, 0x7A  # RFC 9669: CALL, EXIT, ST with MEM and DW


@dataclass(frozen=True, slots=True)
class Accepted:
    """A program that the kernel accepted, and its native code for `addresses_of` the job."""

    loaded: Loaded
    image: Image


Reply = Accepted | Refused | Unsupported | Died


class Source(Protocol):
    """Where replies come from: a running kernel, or a record of one."""

    @property
    def release(self) -> str | None:
        """The kernel's release; None where it cannot be told."""
        ...

    def announce(self, bodies: Iterable[Body]) -> None:
        """The kfuncs to come."""
        ...

    def reply(self, job: Job) -> Reply:
        """What the kernel says of a program."""
        ...

    def close(self) -> None:
        """Ends what it started."""
        ...


class LinuxBackend:
    """One kernel of one architecture."""

    features = FEATURES

    def __init__(
        self, name: str, arch: str, source: Source, differences: Differences, *, recorded: bool = False
    ) -> None:
        self.name, self.arch, self.source = name, arch, source
        self._differences, self._recorded = differences, recorded
        self._bench = Bench()
        self._tracer: LinuxTracer | None = None

    @property
    def makes_trampolines(self) -> bool:
        """A running kernel does; a record has none."""
        return isinstance(self.source, Asked)

    @property
    def tracer(self) -> LinuxTracer:
        """Its trampolines, where it makes some."""
        assert isinstance(self.source, Asked)
        self._tracer = self._tracer or LinuxTracer(self.arch, self.source)
        return self._tracer

    def announce(self, bodies: Iterable[Body]) -> None:
        """Kfuncs are made all at once."""
        self.source.announce(bodies)

    def describe(self) -> str:
        """`Linux 7.2.13`, or what stands for it."""
        release = self.source.release
        if release is None:
            return "no Linux answered"
        return f"the record of Linux {release}" if self._recorded else f"Linux {release}"

    def difference(self, case: str) -> Difference | None:
        """As backends/linux/differs.yaml states it for this kernel."""
        return self._differences.find(case, self.arch, self.source.release)

    def run(self, job: Job) -> Outcome:
        """The kernel's verdict and its own run; its native code under all checks."""
        reply = self.source.reply(job)
        match reply:
            case Refused() | Unsupported() | Died():
                return reply
            case Accepted(loaded, image):
                if _unseen(job, image):
                    return Unsupported(
                        "the kernel inlines the call during which an update comes, so that nobody sees it"
                    )
                judged = self._bench.judge(job, image)
                return replace(judged, loaded=loaded, updates=loaded.updates) if isinstance(judged, Ran) else judged
            case _:
                assert_never(reply)


class Trampolines(Protocol):
    """Makes trampolines in one running kernel."""

    def made(self, request: Request) -> Made:
        """A trampoline, or the kernel's refusal. Raises UnavailableError where it cannot be asked."""
        ...

    def target(self, proto: Proto) -> AttachTo:
        """A function that programs can trace. Raises UnavailableError."""
        ...


class Kfuncs(Protocol):
    """Makes kfuncs callable in one running kernel."""

    def ids(self, bodies: Iterable[Body]) -> KfuncIds:
        """How a program calls them. Raises UnavailableError where they cannot be had."""
        ...

    def addresses(self, bodies: Iterable[Body]) -> Mapping[int, str]:
        """The name of each, by its address."""
        ...

    def plain(self, text: str, bodies: Iterable[Body]) -> str:
        """A log with the kfuncs' own names in it."""
        ...


@dataclass(slots=True)
class _Running:
    """A kernel that answers, and what has to be known of it."""

    kernel: Kernel
    release: str
    stack_args: bool
    helpers: Mapping[int, str]
    kfuncs: Kfuncs
    trampolines: Trampolines


class Live:
    """A running kernel; booted when it is first asked, and again when it died."""

    def __init__(
        self,
        arch: str,
        boot: Callable[[], Kernel],
        kfuncs: Callable[[Kernel, str, Iterable[Body]], Kfuncs],
        *,
        trampolines: Callable[[Kernel, Iterable[Request]], Trampolines] = lambda *_: NoTrampolines(),
        spare: Callable[[str], str | None] = lambda case: None,
    ) -> None:
        self.arch = arch
        self._boot, self._make_kfuncs, self._make_trampolines, self._spare = boot, kfuncs, trampolines, spare
        self._running: _Running | None = None
        self._refusal: Unsupported | Died | None = None  # what every reply is, once there can be no other
        self._bodies: dict[Body, None] = {}
        self._requests: dict[Request, None] = {}
        self._release: str | None = None
        self._boots = 0

    @property
    def release(self) -> str | None:
        """Known once it ran."""
        return self._release

    def announce(self, bodies: Iterable[Body]) -> None:
        """Kept for the module that the first case with kfuncs needs."""
        self._bodies.update(dict.fromkeys(bodies))

    def reply(self, job: Job) -> Reply:
        """Asks the kernel; one that dies of it is booted again for the next program."""
        running = self._up()
        if not isinstance(running, _Running):
            return running
        if (old := too_old(job, running.release)) is not None:
            return old
        if (why := self._spare(job.case)) is not None:
            return Unsupported(why)
        if not running.stack_args and needs_stack_args(job.prog):
            return Unsupported(f"Linux {running.release} has no stack arguments")
        try:
            kfuncs = running.kfuncs.ids(job.bodies) if job.bodies else None
            traced = job.prog.traced
            attach = None if traced is None else running.trampolines.target(traced.proto)
            answer = ask(running.kernel, job, kfuncs, attach)
            names = {**running.helpers, **(running.kfuncs.addresses(job.bodies) if job.bodies else {})}
        except KernelGoneError as error:
            self.close()
            return Died(str(error))
        except UnavailableError as error:
            return Unsupported(str(error))
        answer = replace(answer, log=running.kfuncs.plain(answer.log, job.bodies)) if job.bodies else answer
        return reply_of(self.arch, job, answer, names)

    def announce_trampolines(self, requests: Iterable[Request]) -> None:
        """Kept for the module that the first trampoline needs."""
        self._requests.update(dict.fromkeys(requests))

    def trampoline(self, request: Request) -> Made | Unsupported | Died:
        """Asks the kernel. One that dies while it makes many is booted again, and asked for them one by one."""
        running = self._up()
        if not isinstance(running, _Running):
            return running
        try:
            return running.trampolines.made(request)
        except UnavailableError as error:
            return Unsupported(str(error))
        except KernelGoneError as error:
            self.close()
            if self._requests:
                self._requests.clear()
                return self.trampoline(request)
            return Died(str(error))

    def _up(self) -> "_Running | Unsupported | Died":
        if self._running is None and self._refusal is None:
            self._start()
        assert self._running or self._refusal
        return self._running or self._refusal  # type: ignore[return-value]

    def _start(self) -> None:
        self._boots += 1
        if self._boots > MAX_BOOTS:
            self._refusal = Died(f"the kernel died {MAX_BOOTS} times; it is not started again")
            return
        kernel: Kernel | None = None
        try:
            kernel = self._boot()
            self._release = release = release_of(kernel)
            kfuncs = self._make_kfuncs(kernel, release, self._bodies)
            trampolines = self._make_trampolines(kernel, self._requests)
            stack_args, helpers = has_stack_args(kernel), helper_addresses(kernel)
            self._running = _Running(kernel, release, stack_args, helpers, kfuncs, trampolines)
        except UnavailableError as error:
            self._refusal = Unsupported(str(error))
        except KernelGoneError as error:
            self._refusal = Died(f"the kernel does not come up: {error}")
        finally:
            if self._running is None and kernel is not None:
                _end(kernel)

    def close(self) -> None:
        """Ends the guest."""
        running, self._running = self._running, None
        if running is not None:
            _end(running.kernel)


def _end(kernel: Kernel) -> None:
    closing = getattr(kernel, "close", None)
    if closing is not None:
        closing()


def too_old(job: Job, release: str) -> Unsupported | None:
    """What a kernel says that is older than the case's `since`."""
    wanted, found = version_of(job.since), version_of(release)
    if wanted is None or found is None or found >= wanted:
        return None
    return Unsupported(f"Linux {release} is older than {job.since}, the first that the case is about", told=True)


def needs_stack_args(prog: Prog) -> bool:
    """Whether an insn names R11, or a subprog takes more than five slots."""
    named = any(11 in (insn.dst, insn.src) for insn in prog.insns)
    return named or any(s.proto is not None and len(callee_slots(s.proto)) > 5 for s in prog.subprogs)


def reply_of(arch: str, job: Job, answer: Answer, names: Mapping[int, str]) -> Reply:
    """An answer as a reply: the native code moved to where the emulator runs it."""
    if answer.missing:
        return Unsupported(f"its native code cannot be judged: {answer.missing}")
    if answer.errno:
        return Refused(answer.message, answer.errno, answer.insn, answer.log, answer.processed)
    try:
        image = image_of(arch, job.prog, answer, names, addresses_of(job), _tail_sites(job))
    except ImageError as error:
        return Unsupported(f"its native code cannot be judged: {error}")
    loaded = Loaded(
        answer.log,
        answer.processed,
        answer.stack_depths,
        answer.xlated,
        answer.run_errno,
        answer.retval,
        answer.memory,
        answer.maps,
        answer.updates,
    )
    return Accepted(loaded, image)


def _unseen(job: Job, image: Image) -> bool:
    """Whether an update is to come while a helper runs that the kernel's code does not call."""
    calls = [call for call in job.reference.calls if not call.is_subprog] if job.reference else []
    return any(number < len(calls) and calls[number].insn in image.inlined for number, _ in job.during)


def _tail_sites(job: Job) -> dict[int, TailSite]:
    """By insn as loaded."""
    if job.verified is None:
        return {}
    return {job.verified.origin[at]: site for at, site in job.verified.tail_calls.items()}


_WITH_MAP: Final = """
r6 = 0
*(u64 *)(r10 - 8) = r6
*(u64 *)(r10 - 16) = r6
r1 = m ll
r2 = r10
r2 += -8
r3 = r10
r3 += -16
r4 = 0
call {name}
r0 = 0
exit
"""


def _map_helper_addresses(kernel: Kernel) -> dict[int, str]:
    """Each type of map has functions of its own, which a kernel calls where it knows the map."""
    found: dict[int, str] = {}
    for type_ in ("hash", "array"):
        for name in MAP_HELPERS:
            map_ = Map("m", type_, 4, 8, 1)
            prog = assemble([Text("main", _WITH_MAP.format(name=name))], (), [map_]).prog
            for func in ask(kernel, Job(prog, None, b"", ())).funcs:
                found |= dict.fromkeys(called(kernel.arch, func), name)
    return found


def _tiny(*insns: Insn) -> Job:
    prog = Prog(insns, (Subprog("main", 0, len(insns), None),), ())
    return Job(prog, None, b"", ())


def has_stack_args(kernel: Kernel) -> bool:
    """Whether R11 is known: a kernel without it refuses the insn itself, one with it the missing R0.

    Raises UnavailableError where bpf(2) is not to be had at all.
    """
    answer = ask(kernel, _tiny(Insn(ST_ARG, 11, 0, -8, 5), Insn(EXIT)))
    if answer.errno in (errno.EPERM, errno.ENOSYS):
        raise UnavailableError(f"the kernel does not let programs be loaded: {os.strerror(answer.errno)}")
    return "R11 is invalid" not in answer.log


def helper_addresses(kernel: Kernel) -> dict[int, str]:
    """Where the kernel has each helper: the only call that a program of one call makes; inlined ones have none."""
    found: dict[int, str] = {}
    for number, helper in HELPERS.items():
        if helper.name in MAP_HELPERS or number == TAIL_CALL:
            continue
        answer = ask(kernel, _tiny(Insn(CALL, 0, 0, 0, number), Insn(0xB7), Insn(EXIT)))
        for func in answer.funcs:
            found |= dict.fromkeys(called(kernel.arch, NativeFunc(func.address, func.code)), helper.name)
    found |= _map_helper_addresses(kernel)
    answer = ask(kernel, _tiny(Insn(MAY_GOTO, off=1), Insn(0xB7, 1), Insn(0xB7), Insn(EXIT)))
    for func in answer.funcs:
        found |= dict.fromkeys(called(kernel.arch, func), KERNEL_ONLY[0])
    return found
