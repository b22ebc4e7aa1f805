"""Programs that run without a verdict: the input of a test file or of a plugin, whose author vouches for them."""

from harness.isa.insn import LoadArg, Prog, StoreArg
from harness.isa.verified import FuncFacts, Verified
from verifier.cfg import ranges
from verifier.fixups import rewrite

STACK_BYTES = 512  # of each function: nobody has walked it, so that it gets all there is


def unverified(prog: Prog) -> Verified:
    """What a compiler needs of a program that no verifier has seen: its rewrites, and the largest frame it may need.

    Raises ValueError where a jump or call goes nowhere.
    """
    flaw = ranges(prog)
    if flaw is not None:
        raise ValueError(flaw.message)
    rewritten, origin, extra = rewrite(prog, [STACK_BYTES] * len(prog.subprogs))
    facts = (_facts(prog, s.start, s.end, more) for s, more in zip(prog.subprogs, extra, strict=True))
    return Verified(rewritten, tuple(facts), origin)


def _facts(prog: Prog, start: int, end: int, more: int) -> FuncFacts:
    ops = prog.ops[start:end]
    incoming = max((insn.slot + 1 for insn in ops if isinstance(insn, LoadArg)), default=0)
    outgoing = max((insn.slot + 1 for insn in ops if isinstance(insn, StoreArg)), default=0)
    return FuncFacts(STACK_BYTES + more, incoming, outgoing)
