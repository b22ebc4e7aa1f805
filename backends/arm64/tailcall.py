"""Tail calls on arm64: the count is where X26 points to, which every function keeps.

Linux arch/arm64/net/bpf_jit_comp.c, emit_bpf_tail_call(); TC-92 to TC-99.
"""

from collections.abc import Callable, Sequence

from backends.arm64 import encode as a64
from backends.arm64 import lower
from backends.progs import BPF_FUNC_AT, MAX_ENTRIES_AT, PTRS_AT
from harness.isa.maps import MAX_TAIL_CALLS

MAP, INDEX = 1, 2  # R2 and R3
FIRST, SECOND, COUNT, COUNTER = 10, 11, 12, 26


class TailCalls:
    """The sequence. Each method is one decision, so that a test can make one wrong."""

    def __init__(self, landing: int) -> None:
        self.landing = landing

    def words(self, unwind: Sequence[int], max_entries: int, *, cached: bool) -> list[int]:
        """A tail call. `unwind` leaves the frame but for its record and the count; `cached`: the slot holds where to go."""
        words: list[int] = []
        leaves: list[tuple[int, Callable[[int], int]]] = []

        def leave(make: Callable[[int], int]) -> None:
            leaves.append((len(words), make))
            words.append(0)

        words += self.limit(max_entries, cached=cached)
        words += [a64.mov_rr[32](INDEX, INDEX), a64.cmp_rr[32](INDEX, FIRST)]
        leave(self.out_of_range)
        words += [*lower.mov_imm64(FIRST, MAX_TAIL_CALLS), a64.ldr_rm(COUNT, COUNTER, 0), a64.cmp_rr[64](COUNT, FIRST)]
        leave(lambda distance: a64.bcond_i(a64.CS, distance))
        words.append(a64.add_rri[64](COUNT, COUNT, 1))
        words += self.slot(max_entries, cached=cached)
        leave(lambda distance: a64.cbz_ri[64](SECOND, distance))
        words += [*self.charge(), *unwind, *self.jump(cached=cached)]
        for at, make in leaves:
            words[at] = make(4 * (len(words) - at))
        return words

    def limit(self, max_entries: int, *, cached: bool) -> list[int]:
        """The number of entries."""
        if cached:
            return [*lower.mov_imm64(FIRST, max_entries)]
        return [*lower.mov_imm64(FIRST, MAX_ENTRIES_AT), a64.ldrw_rx(FIRST, MAP, FIRST)]

    def out_of_range(self, distance: int) -> int:
        """Leaves where the index is not below it."""
        return a64.bcond_i(a64.CS, distance)

    def slot(self, max_entries: int, *, cached: bool) -> list[int]:
        """What the slot holds."""
        shift = a64.ubfm_rrii[64](SECOND, INDEX, 61, 60)  # lsl #3
        if cached:
            at = lower.mov_imm64(FIRST, PTRS_AT + 8 * max_entries)
            return [*at, shift, a64.add_rrr[64](SECOND, SECOND, FIRST), a64.ldr_rx(SECOND, MAP, SECOND)]
        words = [*lower.mov_imm64(FIRST, PTRS_AT), a64.add_rrr[64](FIRST, MAP, FIRST), shift]
        return [*words, a64.ldr_rx(SECOND, FIRST, SECOND)]

    def charge(self) -> list[int]:
        """One tail call more; a miss is none."""
        return [a64.str_rm(COUNT, COUNTER, 0)]

    def jump(self, *, cached: bool) -> list[int]:
        """To the landing point."""
        if cached:
            return [a64.br_r(SECOND)]
        words = [*lower.mov_imm64(FIRST, BPF_FUNC_AT), a64.ldr_rx(FIRST, SECOND, FIRST)]
        return [*words, a64.add_rri[64](FIRST, FIRST, self.landing), a64.br_r(FIRST)]
