"""Counts what tail calls read while they run: of prog arrays, of programs' objects, of the count on the stack."""

from dataclasses import dataclass
from typing import Final

from backends import emulator as emu
from backends.base import Job, Ran
from backends.decode import Decoded
from backends.image import Image
from backends.maps import MAPS_BASE
from backends.native import Bench
from backends.probe import Probe
from backends.progs import Part
from harness.isa.calls import TAIL_CALL
from harness.isa.insn import CallHelper

COUNT: Final = "count"


@dataclass(frozen=True, slots=True)
class Access:
    """One access by a tail call's own insns; `number` tail calls were made before. `part`: a Part's value, or `count`."""

    number: int
    part: str
    is_write: bool


class TailMeter(Probe):
    """A probe that notes what tail calls access. What it takes for the count is all of the stack: saved registers, too."""

    accesses: list[Access]
    _spans: list[range]

    def begin(
        self, job: Job, image: Image, decoded: Decoded, pads: dict[int, str], spoils: frozenset[str] | None = None
    ) -> None:
        """Another run."""
        super().begin(job, image, decoded, pads, spoils)
        self.accesses = []
        ops = image.source.prog.ops
        ends = [*image.insn_offsets[1:], len(image.code)]
        self._spans = [
            range(image.base + start, image.base + end)
            for op, start, end in zip(ops, image.insn_offsets, ends, strict=True)
            if isinstance(op, CallHelper) and op.id == TAIL_CALL
        ]
        self._pc = self._cpu.regs(["pc" if image.arch == "arm64" else "rip"])

    def on_memory(self, is_write: bool, address: int, size: int) -> None:
        """An access, noted where a tail call makes it."""
        pc = self._pc.read()[0]
        if any(pc in span for span in self._spans) and (part := self._part(address, size)) is not None:
            self.accesses.append(Access(self.tail_calls, part, is_write))
        super().on_memory(is_write, address, size)

    def _part(self, address: int, size: int) -> str | None:
        if emu.STACK_BASE <= address < emu.STACK_BASE + emu.STACK_BYTES:
            return COUNT
        part: Part | None = None
        if address >= MAPS_BASE and self.progs is not None:
            part = self.progs.read_of(address, size)
        return None if part is None else part.value


def measure(job: Job, image: Image) -> tuple[Ran, list[Access]]:
    """One run of native code for `addresses_of` the job, and what its tail calls accessed."""
    bench = Bench(make_probe=TailMeter)
    outcome = bench.judge(job, image)
    probe = bench.probe
    assert isinstance(outcome, Ran)
    assert isinstance(probe, TailMeter)
    return outcome, probe.accesses
