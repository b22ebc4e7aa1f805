"""Back ends that make an Image: compile, run in the emulator, judge with the probe."""

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from backends import emulator as emu
from backends.abi import LayoutError
from backends.abis import ARCHES
from backends.base import CTX_BASE, Job, Outcome, Ran, Unsupported, Violation
from backends.calls import Body
from backends.decode import Decoded, decode_image
from backends.image import Addresses, CompileError, Compiler, Image, Symbol
from backends.interp import FEATURES
from backends.maps import resolved
from backends.probe import BELOW_SP, Probe, landings
from backends.progs import NativeProgs
from harness.isa.calls import HELPERS
from harness.isa.verified import Verified

if TYPE_CHECKING:
    from backends.tracing import Tracer

# What a kernel's JIT calls on its own account: `may_goto` calls this after 65535 rounds, with a convention of its own.
KERNEL_ONLY: Final = ("arch_bpf_timed_may_goto",)
KERNEL_PADS, KFUNC_PADS = 256, 512  # the numbers of their landing pads; a helper's is its id


def pads_of(job: Job) -> dict[int, str]:
    """The address of every function outside the program that native code may call."""
    numbers = {helper.id: helper.name for helper in HELPERS.values()}
    numbers |= {KERNEL_PADS + i: name for i, name in enumerate(KERNEL_ONLY)}
    numbers |= {KFUNC_PADS + i: body.proto.name for i, body in enumerate(job.bodies)}
    return {emu.PADS_BASE + number * emu.PAD_STRIDE: name for number, name in numbers.items()}


def addresses_of(job: Job) -> Addresses:
    """Where a job's image has to lie, and where it finds the functions outside it."""
    return Addresses(emu.CODE_BASE, {name: address for address, name in pads_of(job).items()})


def native_code(compiler: Compiler, verified: Verified, job: Job) -> Image:
    """A program's image, beside the program as it was before maps had addresses. Raises CompileError."""
    return replace(compiler.compile(resolved(verified), addresses_of(job)), source=verified)


class NativeBackend:
    """A compiler and a bench."""

    makes_trampolines = True

    def __init__(self, name: str, compiler: Compiler, progs: type[NativeProgs] = NativeProgs) -> None:
        self.name, self._compiler = name, compiler
        self.features = FEATURES
        self._bench = Bench(progs)
        self._last: tuple[Verified, tuple[Body, ...], Image] | None = None

    @cached_property
    def tracer(self) -> "Tracer":
        """Trampolines of the same architecture."""
        from backends.tracing import Tracer  # most runs do without

        return Tracer(self._compiler.arch)

    def run(self, job: Job) -> Outcome:
        """Native code for an accepted program, run and judged."""
        assert job.verified is not None
        try:
            image = self._native_code(job, job.verified)
        except CompileError as error:
            return Unsupported(str(error))
        return self._bench.judge(job, image)

    def _native_code(self, job: Job, verified: Verified) -> Image:
        """Made once for all runs of a program that follow each other. Raises CompileError."""
        last = self._last
        if last is None or last[0] is not verified or last[1] != job.bodies:
            last = self._last = verified, job.bodies, native_code(self._compiler, verified, job)
        return last[2]


class Bench:
    """An emulated CPU with its probe. The engine is made at the first run and reused; all images are of one architecture."""

    def __init__(self, progs: type[NativeProgs] = NativeProgs, make_probe: type[Probe] = Probe) -> None:
        self._progs, self._make_probe = progs, make_probe
        self._parts: tuple[emu.Emulator, Probe] | None = None
        self._decoded: tuple[Image, Decoded] | None = None  # of the last image

    @property
    def probe(self) -> Probe:
        """Of the last run."""
        assert self._parts is not None
        return self._parts[1]

    def judge(self, job: Job, image: Image) -> Ran | Unsupported:
        """Runs an image from anywhere, made for `addresses_of` the job, under all checks."""
        if len(image.code) > emu.CODE_BYTES:
            return Unsupported(f"the image has {len(image.code)} bytes, more than {emu.CODE_BYTES}")
        try:
            return self._judge(job, image, pads_of(job))
        except LayoutError as error:
            return Unsupported(str(error))

    def _judge(self, job: Job, image: Image, pads: dict[int, str]) -> Ran:
        if self._parts is None:
            cpu = emu.Emulator(image.arch)
            self._parts = cpu, self._make_probe(cpu, *ARCHES[image.arch], self._progs)
        cpu, probe = self._parts
        if self._decoded is None or self._decoded[0] is not image:
            self._decoded = image, decode_image(image)
        decoded = self._decoded[1]
        entry = next(s for s in image.symbols if s.subprog == job.prog.mains[job.entry])
        watched = {image.base + symbol.offset for symbol in image.symbols if symbol is not entry}
        watched |= {image.base + offset for offset in landings(image)}
        watched |= {image.base + offset for offset in decoded.return_sites}
        watched |= {image.base + offset for offset in decoded.indirect} if image.landing_pads else set()
        cpu.map_values(job.prog.maps)
        cpu.load(image.code, sorted(watched), kernel_data=image.kernel_data)

        def once(spoils: frozenset[str] | None) -> Ran:
            probe.begin(job, image, decoded, pads, spoils)
            return self._once(job, image, entry, cpu, probe)

        outcome = once(None)
        if job.reference is None or _agree(outcome, job.reference) or not _agree(once(frozenset()), job.reference):
            return outcome
        relied = [what for what in probe.spoilable if not _agree(once(frozenset({what})), job.reference)]
        return replace(outcome, violations=(*_relied_on(relied, outcome, job.reference), *outcome.violations))

    def _once(self, job: Job, image: Image, entry: Symbol, cpu: emu.Emulator, probe: Probe) -> Ran:
        probe.set_up(entry)
        fault = cpu.run(image.base + entry.offset, probe.on_code, probe.on_memory)
        retval: int | None = None
        if fault is not None:
            probe.on_fault(fault)
        elif cpu.pc() == emu.STOP:
            retval = probe.finish()
        memory = cpu.read(CTX_BASE, len(job.ctx)) if job.ctx else b""
        maps = probe.maps.contents()
        updates = tuple(probe.maps.errnos)
        return Ran(
            retval, memory, probe.calls, maps, tuple(probe.violations), tuple(probe.frames), image, updates=updates
        )


def _agree(outcome: Ran, reference: Ran) -> bool:
    """Whether native code did what the interpreter did."""
    same = outcome.retval == reference.retval and outcome.memory == reference.memory
    same = same and outcome.maps == reference.maps
    return same and len(outcome.calls) == len(reference.calls) and not outcome.violations


def _relied_on(relied: list[str], outcome: Ran, reference: Ran) -> list[Violation]:
    """The run is right unless callees destroy what they may: native code relies on it."""
    insn = outcome.violations[0].insn if outcome.violations else None
    offset = outcome.violations[0].offset if outcome.violations else None
    found: list[Violation] = []
    for what in relied or ["something"]:
        text = f"after a call the program relies on {what}, which the callee may destroy"
        if outcome.retval != reference.retval and outcome.retval is not None and reference.retval is not None:
            text += f": retval {outcome.retval:#x}, not {reference.retval:#x}"
        found.append(Violation("ABI-STACK" if what == BELOW_SP else "ABI-SCRATCH", text, insn, offset))
    return found
