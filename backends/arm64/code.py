"""Native code while it grows: words, jumps whose distance is not known yet, and where everything begins."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from backends.arm64.encode import EncodeError, Insn
from backends.image import CompileError, Symbol
from harness.isa.insn import Prog

WORD_BYTES = 4


@dataclass(frozen=True, slots=True)
class InsnAt:
    """The native code of a rewritten insn."""

    index: int


@dataclass(frozen=True, slots=True)
class EntryOf:
    """The first native insn of a subprog."""

    subprog: int


@dataclass(frozen=True, slots=True)
class EpilogueOf:
    """The epilogue of a subprog."""

    subprog: int


@dataclass(frozen=True, slots=True)
class Jump:
    """A native insn whose last field is the distance in bytes to `target`."""

    insn: Insn
    values: tuple[int, ...]
    target: InsnAt | EntryOf | EpilogueOf


Words = Sequence[int | Jump]


@dataclass(slots=True)
class Code:
    """The functions of one program, one after the other; offsets are in bytes from the first."""

    words: list[int | Jump] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)  # per subprog
    epilogues: list[int] = field(default_factory=list)  # per subprog
    insns: list[int] = field(default_factory=list)  # per rewritten insn

    @property
    def here(self) -> int:
        """The offset of the next word."""
        return WORD_BYTES * len(self.words)

    def finish(self, prog: Prog) -> bytes:
        """The bytes, with every jump resolved. Raises CompileError for one that does not reach."""
        return b"".join(
            (word if isinstance(word, int) else self._resolve(prog, word, WORD_BYTES * at)).to_bytes(4, "little")
            for at, word in enumerate(self.words)
        )

    def symbols(self, prog: Prog) -> tuple[Symbol, ...]:
        """A symbol per subprog."""
        ends = [*self.entries[1:], self.here]
        return tuple(
            Symbol(subprog.name, start, end - start, number)
            for number, (subprog, start, end) in enumerate(zip(prog.subprogs, self.entries, ends, strict=True))
        )

    def _resolve(self, prog: Prog, jump: Jump, at: int) -> int:
        try:
            return jump.insn(*jump.values, self._offset(jump.target) - at)
        except EncodeError as error:
            raise CompileError(f"{prog.where(bisect_right(self.insns, at) - 1)}: {error}") from error

    def _offset(self, target: InsnAt | EntryOf | EpilogueOf) -> int:
        match target:
            case InsnAt(index):
                return self.insns[index]
            case EntryOf(subprog):
                return self.entries[subprog]
            case EpilogueOf(subprog):
                return self.epilogues[subprog]
