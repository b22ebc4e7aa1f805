"""What a verifier hands to a compiler: the rewritten program and the facts about it. The hinge between the two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.isa.insn import Prog, joined


@dataclass(frozen=True, slots=True)
class FuncFacts:
    """Facts of one subprog.

    `stack_depth`: bytes of R10 stack in use, not rounded. `incoming_slots`: stack arguments it takes, 0-7.
    `outgoing_slots`: the largest number of stack arguments any of its calls needs, 0-7. `tail_reachable`: it tail calls, or
    may have on its chain of calls a function that does, so that the count of tail calls is handed on.
    """

    stack_depth: int
    incoming_slots: int
    outgoing_slots: int
    tail_reachable: bool = False


@dataclass(frozen=True, slots=True)
class TailSite:
    """What a verifier knows of one tail call: `map` is some map that it is made with, the only one unless `several`.

    `key` is the index where there is but one, and it is in range.
    """

    map: int
    several: bool
    key: int | None


@dataclass(frozen=True, slots=True)
class Verified:
    """An accepted program: `prog` holds the insns after the verifier's rewrites, `funcs` one row per subprog.

    `origin[i]` is the index, in the program as loaded, of the insn that rewritten insn `i` stems from.
    """

    prog: Prog
    funcs: tuple[FuncFacts, ...]
    origin: tuple[int, ...]
    tail_calls: Mapping[int, TailSite] = field(default_factory=dict)  # by rewritten insn


def joined_verified(parts: Sequence[Verified], loaded: Sequence[Prog]) -> Verified:
    """Several programs as one; `loaded` are the same before the rewrites."""
    origin: list[int] = []
    sites: dict[int, TailSite] = {}
    before = 0
    for part, prog in zip(parts, loaded, strict=True):
        sites |= {len(origin) + at: site for at, site in part.tail_calls.items()}
        origin += [before + at for at in part.origin]
        before += len(prog.insns)
    funcs = tuple(func for part in parts for func in part.funcs)
    return Verified(joined([part.prog for part in parts]), funcs, tuple(origin), sites)
