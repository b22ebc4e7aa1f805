"""`callconv abi-sweep`: random prototypes through the C compilers that are there, against the argument layouts."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Final

from backends.oracle.compilers import Compiler, CompilerError, find_compilers
from backends.oracle.generate import generate
from backends.oracle.judge import Finding, Judged, judge
from backends.oracle.quirks import QUIRKS

CHUNK: Final = 250  # prototypes in a file
MAX_SHOWN: Final = 20
ARCHES: Final = ("arm64", "x86_64")
FAMILIES: Final = ("clang", "gcc")

Say = Callable[[str], None]


@dataclass(slots=True)
class Total:
    """What one compiler did with all prototypes."""

    prototypes: int = 0
    left_out: int = 0
    recorded: set[int] = field(default_factory=set)  # seeds
    by_quirk: Counter[str] = field(default_factory=Counter)
    unexplained: list[Finding] = field(default_factory=list)

    def add(self, judged: Judged) -> None:
        """The results of one file."""
        self.prototypes += judged.prototypes
        self.left_out += judged.left_out
        self.unexplained += [found for found in judged.findings if not found.quirks]
        explained = [found for found in judged.findings if found.quirks]
        self.recorded |= {found.seed for found in explained}
        self.by_quirk.update(
            quirk for _, quirk in {(found.seed, quirk) for found in explained for quirk in found.quirks}
        )

    def __str__(self) -> str:
        wrong = {found.seed for found in self.unexplained}
        text = f"{self.prototypes} prototypes, {self.prototypes - len(self.recorded | wrong)} agree"
        quirks = ", ".join(f"{name} {count}" for name, count in sorted(self.by_quirk.items()))
        text += f", {len(self.recorded)} differ as recorded ({quirks})" if self.recorded else ""
        text += f", {len(wrong)} differ" if wrong else ""
        return text + (f"; {self.left_out} left out, with types it does not know" if self.left_out else "")


def _file(first: int, last: int, compilers: Sequence[Compiler]) -> list[Judged]:
    """One file's worth of prototypes through every compiler."""
    made = [generate(seed) for seed in range(first, last + 1)]
    return [judge(compiler, made) for compiler in compilers]


def _files(first: int, last: int, compilers: Sequence[Compiler], jobs: int) -> Iterator[list[Judged]]:
    parts = [(at, min(at + CHUNK - 1, last)) for at in range(first, last + 1, CHUNK)]
    if jobs == 1 or len(parts) == 1:
        yield from (_file(*part, compilers) for part in parts)
        return
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        waiting = [pool.submit(_file, *part, compilers) for part in parts]
        try:
            yield from (done.result() for done in as_completed(waiting))
        finally:
            pool.shutdown(cancel_futures=True)


def abi_sweep(first: int, last: int, commands: Sequence[str], jobs: int | None, say: Say) -> bool:
    """Whether everything agrees or is recorded. Raises CompilerError where there is no compiler, or one fails."""
    compilers = find_compilers(commands)
    if not compilers:
        raise CompilerError(
            f"no C compiler for {' or '.join(ARCHES)} is here" + (f": {', '.join(commands)}" if commands else "")
        )
    totals = {compiler: Total() for compiler in compilers}
    started = time.perf_counter()
    for judged in _files(first, last, compilers, jobs or os.cpu_count() or 1):
        for one in judged:
            totals[one.compiler].add(one)
    seconds = time.perf_counter() - started
    unexplained = [found for total in totals.values() for found in total.unexplained]
    for found in unexplained[:MAX_SHOWN]:
        say("\n".join(finding_lines(found)))
    if len(unexplained) > MAX_SHOWN:
        say(f"... and {len(unexplained) - MAX_SHOWN} more")
    for compiler, total in totals.items():
        say(f"{compiler}: {total}")
    for family, arch in missing(compilers):
        say(f"skipped: no {family} for {arch} is here")
    for quirk in QUIRKS:
        if any(total.by_quirk[quirk.id] for compiler, total in totals.items() if quirk.is_of(compiler)):
            say(f"{quirk.id} ({quirk.family}, {quirk.arch}): {quirk.what}")
            say(f"  right: {quirk.right}; seen with {quirk.family} {quirk.seen}")
    count = last - first + 1
    say(
        f"{count} prototypes, seeds {first}-{last}, {len(compilers)} compilers, {len(unexplained)} differences; {seconds:.1f} s"
    )
    return not unexplained


def missing(compilers: Sequence[Compiler]) -> list[tuple[str, str]]:
    """Which of gcc and clang for both architectures there is not."""
    have = {(compiler.family, compiler.arch) for compiler in compilers}
    return [(family, arch) for family in FAMILIES for arch in ARCHES if (family, arch) not in have]


def finding_lines(found: Finding) -> Iterator[str]:
    """A difference that nothing recorded explains."""
    yield f"seed {found.seed}, {found.compiler}, {found.side}"
    yield from (f"  {line}" for line in found.text.splitlines())
    yield from (f"  {text}" for text in found.mismatches)
    yield f"  again   callconv abi-sweep {found.seed}"
