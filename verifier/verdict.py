"""What a verifier answers."""

from dataclasses import dataclass

from harness.isa.verified import Verified


@dataclass(frozen=True, slots=True)
class Stats:
    """Cost and size: insns walked, and bytes of R10 stack per subprog, in whole slots of 8, as Linux counts them."""

    processed_insns: int
    stack_depths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The program is safe; `verified` is what a compiler needs."""

    verified: Verified
    log: str
    stats: Stats


@dataclass(frozen=True, slots=True)
class Rejected:
    """The program is refused at `insn` (None: as a whole); `errno` is positive."""

    rule: str
    message: str
    insn: int | None
    errno: int
    log: str
    stats: Stats


Verdict = Accepted | Rejected


class Refusal(Exception):  # noqa: N818
    """A rule does not hold. Never leaves the package."""

    def __init__(self, rule: str, message: str, errno: int, insn: int | None = None) -> None:
        super().__init__(message)
        self.rule, self.message, self.errno, self.insn = rule, message, errno, insn
