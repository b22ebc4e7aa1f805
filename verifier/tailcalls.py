"""Tail calls: with which maps and keys each is made, what a program with some may not do, and who hands the count on.

Linux kernel/bpf/verifier.c: record_func_map(), record_func_key(), check_max_stack_depth_subprog().
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from harness.isa.calls import TAIL_CALL
from harness.isa.ctypes import CInt
from harness.isa.insn import CallHelper, CallSubprog, Insn, Prog
from harness.isa.maps import Map
from harness.isa.verified import TailSite
from verifier import rules
from verifier.calls import Refuse
from verifier.scalar import Scalar
from verifier.state import MapPtr, RegState

MAX_CALLERS_BYTES: Final = 256  # of stack, below a function that tail calls
TO_ITSELF: Final = Insn(0x05, off=-1)  # goto -1
DEPTH_STEP: Final = 16  # what a JIT rounds frames to


@dataclass(slots=True)
class _Site:
    """What was seen of one tail call on the paths so far."""

    map: int
    several: bool = False
    key: int | None = None
    keys_seen: bool = False
    key_unknown: bool = False


def tail_callers(prog: Prog) -> list[bool]:
    """Which subprogs have a tail call, on whatever path."""
    found = [False] * len(prog.subprogs)
    for index, insn in enumerate(prog.ops):
        if isinstance(insn, CallHelper) and insn.id == TAIL_CALL:
            found[prog.subprog_of(index)] = True
    return found


@dataclass(slots=True)
class TailCalls:
    """The tail calls of one program."""

    prog: Prog
    refuse: Refuse
    callers: list[bool] = field(init=False)
    reachable: list[bool] = field(init=False)
    _sites: dict[int, _Site] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.callers = tail_callers(self.prog)
        self.reachable = list(self.callers)

    def check_types(self) -> None:
        """TC-22: a subprog that may be left for good gives what another program gives."""
        for index, subprog in enumerate(self.prog.subprogs):
            if not index or not self.callers[index]:
                continue
            if all(one.proto is None for one in self.prog.subprogs):
                raise self.refuse("tail-return", "tail_call is not allowed in subprogs without BTF", rules.EINVAL)
            if subprog.proto is not None and not isinstance(subprog.proto.result, CInt):
                text = "tail_call is only allowed in functions that return 'int'."
                raise self.refuse("tail-return", text, rules.EINVAL)

    def note(self, at: int, map_state: RegState, key: RegState) -> None:
        """One visit of a tail call. TC-30, TC-31: what was unknown once stays so."""
        assert isinstance(map_state, MapPtr), "the helper's rules come first"
        index = self.prog.maps.index(map_state.map)
        site = self._sites.setdefault(at, _Site(index))
        site.several = site.several or site.map != index
        site.map = index
        value = key.value if isinstance(key, Scalar) else None
        if value is None or not self.in_range(value, map_state.map):
            site.key_unknown = True
        elif not site.keys_seen:
            site.key, site.keys_seen = value, True
        elif site.key != value:
            site.key_unknown = True

    def in_range(self, key: int, map_: Map) -> bool:
        """Whether a known index is one of a slot."""
        return key < map_.max_entries

    def too_deep(self, above: int, _own: int) -> bool:
        """Whether the frames above a function that tail calls are too many bytes; its own do not count."""
        return above >= MAX_CALLERS_BYTES

    def without_dead(self) -> Prog:
        """The program with a jump to itself for each tail call on no path. Linux kernel/bpf/fixups.c, sanitize_dead_code()."""
        tails = {index for index, op in enumerate(self.prog.ops) if isinstance(op, CallHelper) and op.id == TAIL_CALL}
        if tails <= self._sites.keys():
            return self.prog
        insns = (TO_ITSELF if at in tails - self._sites.keys() else insn for at, insn in enumerate(self.prog.insns))
        return replace(self.prog, insns=tuple(insns))

    def sites(self, origin: Sequence[int]) -> dict[int, TailSite]:
        """By rewritten insn. A tail call on no path has none."""
        found: dict[int, TailSite] = {}
        for index, before in enumerate(origin):
            site = self._sites.get(before)
            if site is not None and isinstance(self.prog.ops[before], CallHelper):
                found[index] = TailSite(site.map, site.several, None if site.key_unknown else site.key)
        return found

    def check_depth(self, depths: Sequence[int], slots: Sequence[int]) -> None:
        """Down every chain of calls: TC-25, TC-26, TC-29. `slots`: stack arguments of a function, in and out together."""
        self._descend(0, [], depths, slots)

    def _descend(self, index: int, chain: list[int], depths: Sequence[int], slots: Sequence[int]) -> None:
        """Whoever is called by a function that tail calls, and does not itself, is no concern of the tail call."""
        above = sum((depths[caller] + DEPTH_STEP - 1) // DEPTH_STEP * DEPTH_STEP for caller in chain)
        if self.callers[index] and self.too_deep(above, depths[index]):
            text = f"tail_calls are not allowed when call stack of previous frames is {above} bytes. Too large"
            raise self.refuse("tail-stack", text, rules.EACCES)
        subprog = self.prog.subprogs[index]
        for at in range(subprog.start, subprog.end):
            insn = self.prog.ops[at]
            if isinstance(insn, CallSubprog):
                callee = self.prog.subprog_at(at + 1 + insn.off)
                assert callee is not None, "cfg.check() found every callee"
                self._descend(callee, [*chain, index], depths, slots)
        for caller in (*chain, index) if self.callers[index] else ():
            if slots[caller]:
                text = "tail_calls are not allowed in programs with stack args"
                raise self.refuse("tail-stack-args", text, rules.EINVAL)
            self.reachable[caller] = True
