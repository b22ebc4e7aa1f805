"""Native code from anywhere: the hinge between whatever compiles and the emulator that judges it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from harness.isa.verified import Verified


@dataclass(frozen=True, slots=True)
class Symbol:
    """One native function: `offset` and `size` in bytes from the image's base; `subprog` is its index in the Prog."""

    name: str
    offset: int
    size: int
    subprog: int


class Tail(Enum):
    """How tail calls become native code. The series of January 2026 has both forms beside each other; one switch each here."""

    BASE = "base"  # Linux: the target is read through its program
    STATIC = "static"  # the series: limit and target of a single map are known or cached
    DYNAMIC = "dynamic"  # the series, where a map is not known


@dataclass(frozen=True, slots=True)
class Poke:
    """A tail call whose target is patched into it: sites of 5 bytes, by their offset from the image's base. TC-40."""

    bypass: int
    target: int
    map: int
    key: int


@dataclass(frozen=True, slots=True)
class Image:
    """Native code, ready to run at `base`. The first symbol is the main prog.

    `insn_offsets[i]` is the byte offset of the first native insn of insn `i` of `source`; the second slot of an
    LD_IMM64 has the offset of the insn after it. `landing_pads`: the code was built for BTI (arm64) or IBT (x86-64).
    `inlined`: helper calls, by their insns as loaded, that the compiler replaced by insns of its own; `kernel_data`: those
    read memory of the kernel. `landing`: from a main prog's entry to where tail calls land, `landing_frame`: by how much SP
    is then below that at the entry; both in bytes.
    """

    arch: str
    base: int
    code: bytes
    symbols: tuple[Symbol, ...]
    insn_offsets: tuple[int, ...]
    landing_pads: bool
    source: Verified
    inlined: frozenset[int] = frozenset()
    kernel_data: bool = False
    landing: int = 0
    landing_frame: int = 0
    pokes: tuple[Poke, ...] = ()
    tail: Tail = Tail.BASE

    def insn_at(self, offset: int) -> int | None:
        """The insn of `source` whose native code covers `offset`, or None in a prologue, an epilogue or outside."""
        best: int | None = None
        for index, start in enumerate(self.insn_offsets):
            if start <= offset and (best is None or start >= self.insn_offsets[best]):
                best = index
        inside = any(s.offset <= offset < s.offset + s.size for s in self.symbols)
        return best if inside else None


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where an image will lie, and where the functions outside it are: helpers and kfuncs by name."""

    base: int
    externs: Mapping[str, int]


class CompileError(Exception):
    """A program that this compiler cannot translate; the message says which insn and why."""


class Compiler(Protocol):
    """Anything that turns a verified program into an Image."""

    @property
    def arch(self) -> str:
        """`arm64` or `x86_64`."""
        ...

    def compile(self, verified: Verified, addresses: Addresses) -> Image:
        """Native code for `addresses`. Raises CompileError."""
        ...
