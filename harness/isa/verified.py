"""What a verifier hands to a compiler: the rewritten program and the facts about it. The hinge between the two."""

from dataclasses import dataclass

from harness.isa.insn import Prog


@dataclass(frozen=True, slots=True)
class FuncFacts:
    """Facts of one subprog.

    `stack_depth`: bytes of R10 stack in use, not rounded. `incoming_slots`: stack arguments it takes, 0-7.
    `outgoing_slots`: the largest number of stack arguments any of its calls needs, 0-7.
    """

    stack_depth: int
    incoming_slots: int
    outgoing_slots: int


@dataclass(frozen=True, slots=True)
class Verified:
    """An accepted program: `prog` holds the insns after the verifier's rewrites, `funcs` one row per subprog.

    `origin[i]` is the index, in the program as loaded, of the insn that rewritten insn `i` stems from.
    """

    prog: Prog
    funcs: tuple[FuncFacts, ...]
    origin: tuple[int, ...]
