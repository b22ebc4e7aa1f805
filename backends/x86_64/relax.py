"""Where the native code of each insn lies: passes over pieces whose jumps become as short as they can."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from backends.x86_64 import encode as x86
from backends.x86_64.encode import Cond
from backends.x86_64.tailcall import Direct

# Linux arch/x86/net/bpf_jit_comp.c, is_imm8_jmp_offset(): with 127 the length of one jump can alternate for ever.
SHORT_JUMP: Final = range(-128, 124)
FIRST_GUESS: Final = 64  # bytes per insn
SHRINKING_PASSES: Final = 15  # after them, a jump that could be shorter is padded instead. Linux, PADDING_PASSES
CALL_BYTES: Final = 5


@dataclass(frozen=True, slots=True)
class Jump:
    """`before` (a compare, or nothing), then a jump to an insn of the same subprog."""

    before: bytes
    cond: Cond | None
    target: int

    def size(self, distance: int) -> int:
        """Bytes of it; none at all for `goto +0`."""
        if distance in SHORT_JUMP:
            return len(self.before) + (0 if self.cond is None and distance == 0 else 2)
        return len(self.before) + (5 if self.cond is None else 6)

    def code(self, distance: int, size: int) -> bytes:
        """Its `size` bytes: what is too many are nops between compare and jump."""
        short = distance in SHORT_JUMP
        if self.cond is not None:
            jump = (x86.jcc_short if short else x86.jcc_near)(self.cond, distance)
        elif distance == 0:
            jump = b""
        else:
            jump = (x86.jmp_short if short else x86.jmp_near)(distance)
        return self.before + x86.NOPS[size - self.size(distance)] + jump


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a subprog by index or of an extern by name, between two runs of other insns."""

    target: int | str
    before: bytes = b""
    after: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of it."""
        return len(self.before) + CALL_BYTES + len(self.after)


Piece = bytes | Jump | Call | Direct  # one insn's native code; only a Jump's length depends on where things lie


def relax(prologue_bytes: int, pieces: Sequence[Piece]) -> tuple[int, ...]:
    """Where each piece starts, and the end, once every jump is as short as it can be.

    Linux arch/x86/net/bpf_jit_comp.c, bpf_int_jit_compile(): from long to short, pass by pass. A jump backwards sees
    this pass's offset of its target and the last pass's of itself.
    """
    at = list(range(FIRST_GUESS, FIRST_GUESS * (len(pieces) + 2), FIRST_GUESS))
    for passes in count():
        last = tuple(at)
        at[0] = prologue_bytes
        for i, piece in enumerate(pieces):
            floor = last[i + 1] - last[i] if passes >= SHRINKING_PASSES else 0
            at[i + 1] = at[i] + _size(piece, at, i, floor)
        if last == tuple(at):
            break
    return last


def _size(piece: Piece, at: Sequence[int], i: int, floor: int) -> int:
    match piece:
        case bytes():
            return len(piece)
        case Direct():
            return len(piece.code)
        case Call():
            return piece.size
        case Jump():
            return max(floor, piece.size(at[piece.target] - at[i + 1]))
