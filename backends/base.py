"""What every back end takes and gives: a Job in, an Outcome out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from backends.calls import Body
from backends.image import Image
from harness.isa.insn import Prog
from harness.isa.verified import Verified

CTX_BASE: Final = 0x2000_0000  # where every engine of the suite puts the context, so that pointers to it compare equal


@dataclass(frozen=True, slots=True)
class StackRef:
    """A pointer into a BPF stack, free of engine addresses: `off` bytes from R10 of the `activation`-th call (0 is main)."""

    activation: int
    off: int

    def __str__(self) -> str:
        return f"r10{self.off:+} of call {self.activation}" if self.activation else f"r10{self.off:+} of main"


class OwnFileError(Exception):
    """A file of the suite's own that cannot be used; the message names it and says why."""


Value = int | StackRef
Entries = tuple[tuple[bytes, bytes], ...]  # of a map: (key, value), sorted by key


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it was made: the insn (of the program as loaded), the callee, and its arguments as 64-bit values.

    For a callee without a prototype the arguments are R1-R5 as far as it reads them; None marks one it does not read.
    """

    insn: int
    callee: str
    is_subprog: bool
    args: tuple[Value | None, ...]


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule: `check` is its id; `insn` is of the program as loaded; `offset` is in bytes from the image's base."""

    check: str
    message: str
    insn: int | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class FrameView:
    """Registers and outgoing stack at one call, for reports: (name, value) pairs, and (offset from SP, value) pairs."""

    call: int
    callee: str
    regs: tuple[tuple[str, int], ...]
    stack: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a back end with a verifier of its own says of a program that it accepted, and of running it itself.

    `xlated`: the insns after its rewrites; `stack_depths`: bytes per subprog; `run_errno` 0: it ran it, with the low 32
    bits of R0 in `retval`, the context afterwards in `memory`, and each map in `maps`; `retval` None and no error: it was
    not run. `updates`: what each of the job's updates gave, 0 or an errno.
    """

    log: str
    processed_insns: int
    stack_depths: tuple[int, ...]
    xlated: bytes
    run_errno: int
    retval: int | None
    memory: bytes
    maps: tuple[Entries, ...] = ()
    updates: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A back end's own verifier refused the program: at `insn` as loaded, or as a whole (None); `errno` is positive."""

    message: str
    errno: int
    insn: int | None
    log: str
    processed_insns: int


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that was made. `retval` is None where it did not return; `memory` is the context afterwards, `maps` each map."""

    retval: int | None
    memory: bytes
    calls: tuple[Call, ...]
    maps: tuple[Entries, ...] = ()
    violations: tuple[Violation, ...] = ()
    frames: tuple[FrameView, ...] = ()
    image: Image | None = None
    loaded: Loaded | None = None
    updates: tuple[int, ...] = ()  # what each update of the job gave: 0 or an errno


@dataclass(frozen=True, slots=True)
class Unsupported:
    """The back end says that it cannot run this program, and why. `told`: the case itself says so, so that none is missing."""

    reason: str
    told: bool = False


@dataclass(frozen=True, slots=True)
class Died:
    """The back end failed at its own work: it crashed, hung, or gave what cannot be read. `told`: it said so itself."""

    reason: str
    told: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """A runtime that gives R0, unsigned 64 bits, and nothing else."""

    retval: int


Outcome = Ran | Answered | Refused | Unsupported | Died


@dataclass(frozen=True, slots=True)
class ExpectedPlace:
    """A place typed by hand in a case: argument `param` of `callee` is at `where` on `arch`."""

    arch: str
    callee: str
    param: str
    where: str


@dataclass(frozen=True, slots=True)
class Update:
    """A slot of a prog array gets the program of this number, or is emptied (None). `errno` is what that has to give, or 0.

    `close`: user space gives the whole array up, which empties it. TC-13.
    """

    map: int
    key: int
    prog: int | None
    errno: int = 0
    close: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One program to run. `reference` is what the interpreter made of it; None for the interpreter itself.

    `verified` is None where the built-in verifier refuses the program: only back ends with their own see such a job.
    """

    prog: Prog
    verified: Verified | None
    ctx: bytes
    bodies: tuple[Body, ...]
    places: tuple[ExpectedPlace, ...] = ()
    reference: Ran | None = None
    detail: bool = False  # keep registers and stack at every call
    case: str = ""  # FILE::NAME
    length_in_r2: bool = False  # the main prog gets the size of the context as its second argument
    entry: int = 0  # the number of the program that is run
    updates: tuple[Update, ...] = ()  # of prog arrays, before the run
    writes: int | None = None  # how many writes of the last update are made; None is all
    during: tuple[
        tuple[int, Update], ...
    ] = ()  # updates while the n-th call of a helper or kfunc goes on, counted from 0
    verbose: bool = False  # a log that tells every insn, from a back end that has one
    since: str = ""  # the first Linux that has what the program needs

    def body(self, name: str) -> Body:
        """The kfunc of this name."""
        return next(body for body in self.bodies if body.proto.name == name)


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference from the suite that stands with a back end: what it does (a regular expression), and why that is."""

    got: str
    why: str
    source: str  # where it is stated


class Backend(Protocol):
    """Whatever runs programs. `features` are the words a case's `needs` may ask for."""

    name: str
    features: frozenset[str]

    def run(self, job: Job) -> Outcome:
        """Runs an accepted program."""
        ...


@runtime_checkable
class Referee(Backend, Protocol):
    """A back end with a verifier of its own: `run` takes every program, whether the built-in verifier accepts it or not."""

    def announce(self, bodies: Iterable[Body]) -> None:
        """The kfuncs of the jobs to come, to be made ready at once."""
        ...

    def describe(self) -> str:
        """What judges, with its version, as far as it is known by now."""
        ...

    def difference(self, case: str) -> Difference | None:
        """The difference that is stated for a case (`FILE::NAME`)."""
        ...
