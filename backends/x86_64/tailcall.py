"""Tail calls on x86-64: the count that goes with them, the indirect forms, and the one whose target is patched in.

Linux arch/x86/net/bpf_jit_comp.c, emit_bpf_tail_call_indirect(), emit_bpf_tail_call_direct(); TC-70 to TC-85.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backends.image import Tail
from backends.progs import BPF_FUNC_AT, MAX_ENTRIES_AT, PTRS_AT
from backends.x86_64 import encode as x86
from backends.x86_64.encode import Cond, Gpr
from harness.isa.maps import MAX_TAIL_CALLS

CLEAR_COUNT: Final = bytes.fromhex("4831c0")  # xor rax, rax
COUNTER_BYTES: Final = 16  # below the BPF stack: the count or a copy of the pointer, then the pointer to it
_CMP_COUNT: Final = bytes.fromhex("488338") + bytes([MAX_TAIL_CALLS])  # cmp qword [rax], 33
_ADD_COUNT: Final = bytes.fromhex("48830001")  # add qword [rax], 1
_ABOVE: Final = 0x77


@dataclass(frozen=True, slots=True)
class Direct:
    """A tail call with a patched target: its code before any patch, and where the two sites are in it."""

    code: bytes
    bypass: int
    target: int
    map: int
    key: int


class TailCalls:
    """The sequences. Each method is one decision, so that a test can make one wrong."""

    def __init__(self, tail: Tail, landing: int) -> None:
        self.tail, self.landing = tail, landing

    def counter(self, *, is_main: bool) -> bytes:
        """Makes room for the count, whose pointer a subprog gets in rax; a main prog gets either there. TC-72, TC-73."""
        push = x86.push_r(Gpr.RAX)
        if not is_main:
            return push + push
        own = push + x86.mov_rr(Gpr.RAX, Gpr.RSP, bits=64)
        skip = x86.jmp_short(len(push))
        compare = x86.cmp_ri8(Gpr.RAX, MAX_TAIL_CALLS, bits=64)
        return compare + bytes([self.pointer_jump(), len(own) + len(skip)]) + own + skip + push + push

    def pointer_jump(self) -> int:
        """The jump taken where rax is a pointer: above, as a count of 33 is still one."""
        return _ABOVE

    def pointer(self, stack_bytes: int) -> bytes:
        """`mov rax, [rbp - 16 - stack]`, always with four bytes of displacement. TC-74."""
        return bytes.fromhex("488b85") + struct.pack("<i", -COUNTER_BYTES - stack_bytes)

    def unwind(self, saved: Sequence[Gpr], stack_bytes: int) -> bytes:
        """The frame is gone but for rbp and the return address; rax has the count or the pointer to it. TC-78."""
        code = b"".join(x86.pop_r(reg) for reg in reversed(saved)) + x86.pop_r(Gpr.RAX) * 2
        return code + (x86.add_ri(Gpr.RSP, stack_bytes, bits=64) if stack_bytes else b"")

    def limit(self, *, cached: bool, max_entries: int) -> tuple[bytes, Cond]:
        """Compares the index with the number of entries, and which jump leaves. TC-77."""
        if self.tail is Tail.BASE:
            return bytes.fromhex("39 56") + bytes([MAX_ENTRIES_AT]), Cond.BE
        if cached:
            return bytes.fromhex("81fa") + struct.pack("<I", max_entries), Cond.AE
        return bytes.fromhex("3b56") + bytes([MAX_ENTRIES_AT]), Cond.AE

    def indirect(self, saved: Sequence[Gpr], stack_bytes: int, max_entries: int, *, cached: bool) -> bytes:
        """Index, count, slot, then the jump. `cached`: the slot holds where to go, else a program."""
        compare, leave = self.limit(cached=cached, max_entries=max_entries)
        at = PTRS_AT + (8 * max_entries if cached else 0)
        find = b"" if cached else self.target()
        tail = self.charge() + self.unwind(saved, stack_bytes) + find + bytes.fromhex("ffe1") + x86.int3()
        empty = x86.jcc_short(Cond.E, len(tail))
        load = bytes.fromhex("488b8cd6") + struct.pack("<i", at) + bytes.fromhex("4885c9") + empty + tail
        rest = self.pointer(stack_bytes) + self.compare_count() + x86.jcc_short(Cond.AE, len(load)) + load
        return self.truncate() + compare + x86.jcc_short(leave, len(rest)) + rest

    def truncate(self) -> bytes:
        """The index has 32 bits: `mov edx, edx`."""
        return bytes.fromhex("89d2")

    def compare_count(self) -> bytes:
        """`cmp qword [rax], 33`."""
        return _CMP_COUNT

    def charge(self) -> bytes:
        """One tail call more; a miss is none."""
        return _ADD_COUNT

    def target(self) -> bytes:
        """From a program to where it is landed at: `mov rcx, [rcx + bpf_func]; add rcx, landing`."""
        return bytes.fromhex("488b49") + bytes([BPF_FUNC_AT]) + x86.add_ri8(Gpr.RCX, self.landing, bits=64)

    def direct(self, saved: Sequence[Gpr], stack_bytes: int, map_: int, key: int) -> Direct:
        """Closed until a program is in the slot. TC-82."""
        unwind = self.unwind(saved, stack_bytes)
        rest = self.charge() + unwind + x86.NOPS[5]
        bypass = x86.jmp_near(len(rest))
        head = self.pointer(stack_bytes) + self.compare_count()
        head += x86.jcc_short(Cond.AE, len(bypass) + len(rest))
        code = head + bypass + rest
        return Direct(code, len(head), len(code) - 5, map_, key)
