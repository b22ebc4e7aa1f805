"""Broken tail calls: engines and updates with one thing wrong, named after the bug seed (BS-01 to BS-42) that they re-make."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from backends.arm64 import encode as a64
from backends.arm64 import tailcall as a64_tail
from backends.arm64.jit import Arm64Jit, Frame
from backends.arm64.jit import Options as Arm64Options
from backends.image import Image, Tail
from backends.progs import NativeProgs, Write
from backends.x86_64 import encode as x86
from backends.x86_64 import tailcall as x86_tail
from backends.x86_64.encode import Cond, Gpr
from backends.x86_64.jit import Func, Options, X8664Jit
from backends.x86_64.relax import Call, Piece
from harness.isa.insn import Prog
from harness.isa.verified import FuncFacts, Verified


class X86Double(X8664Jit):
    """One of the sequences wrong; `lowering` is where that shows."""

    lowering: ClassVar[Tail] = Tail.BASE
    sequences: ClassVar[type[x86_tail.TailCalls]] = x86_tail.TailCalls

    def __init__(self) -> None:
        super().__init__(Options(tail=self.lowering))

    def tail_calls(self) -> x86_tail.TailCalls:
        return self.sequences(self.options.tail, self.landing_offset())


class _Limit32(x86_tail.TailCalls):
    def compare_count(self) -> bytes:
        return bytes.fromhex("48833820")


class _Limit34(x86_tail.TailCalls):
    def compare_count(self) -> bytes:
        return bytes.fromhex("48833822")


class X86Limit32(X86Double):
    """BS-01: one tail call too few."""

    sequences = _Limit32


class X86Limit34(X86Double):
    """BS-01: one too many."""

    sequences = _Limit34


class X86CountByValue(X86Double):
    """BS-02: a subprog gets the count itself, a copy of its own."""

    def call_with_count(self, func: Func, target: int | str) -> Piece:
        return Call(target, before=self.tails.pointer(func.stack_bytes) + bytes.fromhex("488b00"))


class _OldJump(x86_tail.TailCalls):
    def limit(self, *, cached: bool, max_entries: int) -> tuple[bytes, Cond]:
        return super().limit(cached=cached, max_entries=max_entries)[0], Cond.BE


class X86OperandsSwapped(X86Double):
    """BS-05: index compared with limit, but the jump of limit compared with index."""

    lowering = Tail.DYNAMIC
    sequences = _OldJump


class _NotTruncated(x86_tail.TailCalls):
    def truncate(self) -> bytes:
        return b""


class X86NotTruncated(X86Double):
    """BS-06: compared with 32 bits, used with 64."""

    sequences = _NotTruncated


class _OnePast(x86_tail.TailCalls):
    def limit(self, *, cached: bool, max_entries: int) -> tuple[bytes, Cond]:
        compare, leave = super().limit(cached=cached, max_entries=max_entries)
        return compare, Cond.B if leave is Cond.BE else Cond.A


class X86OnePast(X86Double):
    """BS-07: an index that is the number of entries is in range."""

    sequences = _OnePast


class X86OnePastCached(X86OnePast):
    """BS-07: the same of the cached half."""

    lowering = Tail.STATIC


class X86Unrounded(X86Double):
    """BS-08: the pointer to the count is looked for below a stack that is not rounded."""

    def tail_call(self, prog: Prog, func: Func, at: int) -> Piece:
        site = func.tails[at]
        if site.key is not None and not site.several:
            return self.tails.direct(func.saved, func.facts.stack_depth, site.map, site.key)
        return self.tails.indirect(func.saved, func.facts.stack_depth, prog.maps[site.map].max_entries, cached=False)


class X86SeveralAsOne(X86Double):
    """BS-21: a tail call with several maps lowered as if it had one."""

    lowering = Tail.STATIC

    def compile(self, verified: Verified, addresses: object) -> Image:
        sites = {at: replace(site, several=False) for at, site in verified.tail_calls.items()}
        return super().compile(replace(verified, tail_calls=sites), addresses)  # type: ignore[arg-type]


class X86WrongMap(X86Double):
    """BS-23: the number of entries of another prog array."""

    lowering = Tail.STATIC

    def tail_call(self, prog: Prog, func: Func, at: int) -> Piece:
        site = func.tails[at]
        if site.key is not None and not site.several:
            return super().tail_call(prog, func, at)
        other = next(index for index, map_ in enumerate(prog.maps) if map_.has_progs)
        entries = prog.maps[other].max_entries
        return self.tails.indirect(func.saved, func.stack_bytes, entries, cached=not site.several)


class X86SharedLabel(X86Double):
    """BS-24: every branch of a program's tail calls is as long as the last one's."""

    lowering = Tail.STATIC

    def __init__(self) -> None:
        super().__init__()
        self._last = 0

    def tail_call(self, prog: Prog, func: Func, at: int) -> Piece:
        piece = super().tail_call(prog, func, at)
        if not isinstance(piece, bytes):
            return piece
        last, self._last = self._last or len(piece), len(piece)
        code = bytearray(piece)
        jump = piece.index(b"\x73")  # jae, out of range
        code[jump + 1] = (code[jump + 1] + last - len(piece)) & 0xFF
        return bytes(code)


class _JaePointer(x86_tail.TailCalls):
    def pointer_jump(self) -> int:
        return 0x73


class X86CountAsPointer(X86Double):
    """BS-28: a count of 33 taken for a pointer."""

    sequences = _JaePointer


class _PushOrder(x86_tail.TailCalls):
    def unwind(self, saved: Sequence[Gpr], stack_bytes: int) -> bytes:
        return super().unwind(saved[::-1], stack_bytes)


class X86PoppedInPushOrder(X86Double):
    """BS-29: callee-saved registers come back in the order in which they went."""

    sequences = _PushOrder


class _OnePop(x86_tail.TailCalls):
    def unwind(self, saved: Sequence[Gpr], stack_bytes: int) -> bytes:
        return super().unwind(saved, stack_bytes).replace(x86.pop_r(Gpr.RAX) * 2, x86.pop_r(Gpr.RAX), 1)


class X86OnePop(X86Double):
    """BS-30: the pointer is popped, the count is not."""

    sequences = _OnePop


class X86NotHandedOn(X86Double):
    """BS-40: rax is not loaded before a subprog is called."""

    def call_with_count(self, func: Func, target: int | str) -> Piece:
        return self.call(target)


class X86MainNotReachable(X86Double):
    """BS-34: a main prog that only tail calls itself, without a subprog that does, has no count."""

    def prologue(self, func: Func) -> bytes:
        facts: FuncFacts = replace(func.facts, tail_reachable=False) if func.is_main else func.facts
        return super().prologue(replace(func, facts=facts))


class X86WrongOffset(X86Double):
    """BS-20: targets are landed at without the landing offset, where they set up a count of their own."""

    sequences: ClassVar[type[x86_tail.TailCalls]] = x86_tail.TailCalls

    def tail_calls(self) -> x86_tail.TailCalls:
        return x86_tail.TailCalls(self.options.tail, 0)


# --- arm64


class Arm64Double(Arm64Jit):
    """One of the sequences wrong."""

    lowering: ClassVar[Tail] = Tail.BASE
    sequences: ClassVar[type[a64_tail.TailCalls]] = a64_tail.TailCalls

    def __init__(self) -> None:
        super().__init__(Arm64Options(tail=self.lowering))

    def tails(self) -> a64_tail.TailCalls:
        return self.sequences(self.landing_offset())


class _NotCharged(a64_tail.TailCalls):
    def charge(self) -> list[int]:
        return []


class Arm64NotCharged(Arm64Double):
    """BS-39: the count is not stored."""

    lowering = Tail.STATIC
    sequences = _NotCharged


class _ChargedEarly(a64_tail.TailCalls):
    def slot(self, max_entries: int, *, cached: bool) -> list[int]:
        return [*super().charge(), *super().slot(max_entries, cached=cached)]


class Arm64ChargedEarly(Arm64Double):
    """BS-31: an empty slot costs a tail call."""

    sequences = _ChargedEarly


class _Arm64OnePast(a64_tail.TailCalls):
    def out_of_range(self, distance: int) -> int:
        return a64.bcond_i(a64.HI, distance)


class Arm64OnePast(Arm64Double):
    """BS-07: an index that is the number of entries is in range."""

    sequences = _Arm64OnePast


class _Arm64OneWordOff(a64_tail.TailCalls):
    def __init__(self, landing: int) -> None:
        super().__init__(landing + 4)


class Arm64OneWordOff(Arm64Double):
    """BS-38: the landing offset forgets a landing pad."""

    sequences = _Arm64OneWordOff


class Arm64NoJumpPad(Arm64Double):
    """BS-38: no BTI J where tail calls land."""

    def prologue(self, frame: Frame) -> list[int]:
        return [a64.nop() if word == a64.bti_j() else word for word in super().prologue(frame)]


class Arm64SavedLost(Arm64Double):
    """BS-29: the frame is left without its callee-saved registers."""

    def tail_call(self, site: object) -> Sequence[object]:  # type: ignore[override]
        words = list(super().tail_call(site))  # type: ignore[arg-type]
        pops = [at for at, word in enumerate(words) if isinstance(word, int) and word & 0xFFC0_0000 == 0xA8C0_0000]
        for at in pops[:1]:
            words[at] = a64.add_rri[64](a64.SP, a64.SP, 16)
        return words


# --- updates


class TargetLast(NativeProgs):
    """BS-13: an empty slot's bypass is opened before the target is a jump."""

    def poked(self, bypass: int, target: int, old: int | None, new: int | None) -> list[Write]:
        found = super().poked(bypass, target, old, new)
        return found[::-1] if old is None else found


class TargetFirst(NativeProgs):
    """BS-14: a target is gone before the bypass is closed."""

    def poked(self, bypass: int, target: int, old: int | None, new: int | None) -> list[Write]:
        found = super().poked(bypass, target, old, new)
        return found[::-1] if new is None else found


class NotReplaced(NativeProgs):
    """BS-15: a jump that is there already is not changed."""

    def poked(self, bypass: int, target: int, old: int | None, new: int | None) -> list[Write]:
        return [] if old is not None and new is not None else super().poked(bypass, target, old, new)


class CacheNotReplaced(NativeProgs):
    """BS-16: the cached landing point stays the old program's."""

    def writes(self, index: int, key: int, old: int | None, new: int | None) -> list[Write]:
        found = super().writes(index, key, old, new)
        return [one for one in found if one.what != "cache"] if old is not None and new is not None else found


class CacheNotCleared(NativeProgs):
    """BS-17: the cached landing point outlives its program."""

    def writes(self, index: int, key: int, old: int | None, new: int | None) -> list[Write]:
        found = super().writes(index, key, old, new)
        return [one for one in found if one.what != "cache"] if new is None else found


class CacheWithPokesOnly(NativeProgs):
    """BS-18: the cache is kept only where some site is patched."""

    def writes(self, index: int, key: int, old: int | None, new: int | None) -> list[Write]:
        found = super().writes(index, key, old, new)
        return found if self.image.pokes else [one for one in found if one.what != "cache"]


class CacheWithoutOffset(NativeProgs):
    """BS-20: the cache has a program's entry."""

    def landing_of(self, number: int) -> int:
        return self.entry_of(self.image.source.prog.mains[number])
