"""`python examples/dpdk/verdict.py`: every case on DPDK's JITs; writes docs/dpdk.md. Exits with 1 on a finding that no row here explains."""

import os
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backends.base import Ran
from backends.decode import disassemble
from backends.external import ImagePlugin
from harness.case import Case, find_files, load_file
from harness.isa.disasm import insn_text
from harness.isa.insn import Hole
from harness.suite import Result, Suite

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PAGE: Final = ROOT / "docs" / "dpdk.md"
ARCHES: Final = ("x86_64", "arm64")
PSABI_ALIGN: Final = (
    16  # of SP at a call in user space. psABI, 3.2.2 "The Stack Frame"; the suite checks the kernel's 8
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect: the failed cases that it explains, and why it is one, read off the native code."""

    title: str
    arches: tuple[str, ...]
    case: str  # regular expression
    got: str  # regular expression
    why: str
    source: str

    def explains(self, result: Result, arch: str) -> bool:
        """Whether every mismatch of this result is this defect."""
        fits = arch in self.arches and re.search(self.case, result.case.id) is not None
        return fits and all(re.search(self.got, mismatch.got) for mismatch in result.mismatches)


FINDINGS: Final = (
    Finding(
        "x29 is not preserved in a program without calls that uses its stack", ("arm64",), "", r"^main returns with x29 = ",
        "Without calls R10 is x29 itself: the prologue is `mov x29, sp`, and neither is the caller's x29 saved before it nor "
        "put back before `ret`. With calls it is saved and R10 is x25. A caller that reaches its own frame through x29, as "
        "functions with `alloca` do, goes on with a wrong one.",
        "AAPCS64, General-purpose Registers: a subroutine invocation must preserve the contents of r19-r29 and SP",
    ),
    Finding(
        "be32 leaves the upper half", ("arm64",), r"=be32$", r"^retval = 0x4433221188776655$",
        "`rev32` in its 64-bit form swaps the bytes of both halves; nothing clears the upper one afterwards.",
        "RFC 9669, 4.2 Byte Swap Instructions: the result is the 32-bit conversion, zero-extended",
    ),
    Finding(
        "The program ends where a divisor is 0", ("x86_64", "arm64"), r"::register@what=mod by 0 keeps 32 bits$", r"^retval = 0$",
        "A divisor of 0 jumps to the epilogue with R0 = 0.",
        "RFC 9669, 4.1 Arithmetic Instructions: x / 0 is 0 and x % 0 is x, and the program goes on",
    ),
    Finding(
        "Division of R3 or R0 by itself divides by a scratch register that is not set", ("x86_64",),
        r"::division@insn=(r3 %= r3|r0 [/%]= r0)$", r"^retval = ",
        "The divisor is taken from the copy of rdx in r10 (R3), or of rax in r11 (R0); the copy is left out where that "
        "register is the destination too. So the divisor is what r10 or r11 happen to hold; if that is 0, `div` traps.",
        "RFC 9669, 4.1 Arithmetic Instructions",
    ),
    Finding(
        "A register shifted by itself stays, and R4 is shifted", ("x86_64",), r"::shift@insn=(r\d) (<<|>>|s>>)= \1$", r"^retval = ",
        "`xchg rsi, rcx; shl rsi, cl; xchg rsi, rcx`: after the first exchange the value to shift is in rcx, and R4's is in "
        "rsi. R2 stays as it was, and R4 (rcx) is shifted.",
        "RFC 9669, 4.1 Arithmetic Instructions",
    ),
    Finding(
        "`if r & imm` with an immediate from -128 to 127 is encoded a wrong length", ("x86_64",),
        r"jmp64.yaml::immediate@op=&", r"^(retval|`)",
        "`test r64, imm32` (REX.W F7 /0) gets one byte of immediate, where it has four: the jump and the insn after it "
        "become its constant.",
        "Intel SDM, TEST: F7 /0 id; there is no form with a byte for a 64-bit operand",
    ),
    Finding(
        "The least number divided by -1 kills the process that loads it", ("x86_64",),
        r"::operation@what=div of min by -1$", r"^the plugin was killed by SIGFPE$",
        "Not native code: rte_bpf_load() works out the quotient of two known operands with a signed `idiv` of its own, "
        "which traps. On arm64 that division does not trap.",
        "RFC 9669, 4.1 Arithmetic Instructions: DIV is unsigned",
    ),
)  # fmt: skip


@dataclass(slots=True)
class Verdict:
    """What one architecture's JIT did with the cases that the built-in verifier accepts."""

    arch: str
    version: str
    passed: list[Result] = field(default_factory=list)
    failed: list[Result] = field(default_factory=list)
    unsupported: list[Result] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """How many cases were asked about."""
        return len(self.passed) + len(self.failed) + len(self.unsupported)


def judge(arch: str, command: str, cases: Iterable[Case]) -> Verdict:
    """Every case on the plugin."""
    plugin, suite = ImagePlugin(f"dpdk-{arch}", [command]), Suite(detail=True)
    results = [suite.judge(case, plugin) for case in cases]
    verdict = Verdict(arch, plugin.describe())
    plugin.close()
    lists = {"passed": verdict.passed, "failed": verdict.failed, "skipped": verdict.unsupported}
    for result in results:
        if result.status == "error":
            raise SystemExit(f"{result.case.id}: {result.reason}")
        if result.outcome is not None:
            lists[result.status].append(result)
    return verdict


# Why DPDK does not take a program

_AT: Final = re.compile(r"rte_bpf_load: .*?: (\w+: .*) at pc: (\d+)$")
_WORDS: Final = {
    "StoreArg": "stack arguments (R11)", "LoadArg": "stack arguments (R11)", "CallSubprog": "calls of subprogs",
    "Branch": "32-bit compares (JMP32)", "Goto": "`gotol`", "MayGoto": "`may_goto`", "Swap": "`bswap`",
    "Atomic": "atomics other than a 32- or 64-bit add without fetch", "LoadAcquire": "`load_acquire`",
    "StoreRelease": "`store_release`",
}  # fmt: skip


def reason_of(result: Result) -> tuple[str, str]:
    """(what is not taken, in whose words) of a program that is not supported."""
    match = _AT.search(result.reason)
    if match is None:
        about = re.sub(r"^the function `.*`: ", "", result.reason)
        return about, "the plugin"
    said, op = match[1], result.case.assembled.prog.ops[int(match[2])]
    kind = type(op).__name__
    if said.startswith("evaluate"):
        word = {
            "evaluate: undefined value on the stack": "a load that joins bytes of several stores to the stack",
            "evaluate: memory boundary violation": "a stack offset that is not a constant",
            "evaluate: division by 0": "a divisor that is known to be 0",
        }.get(said, kind)
    elif kind == "Alu":
        word = "32-bit `s>>=`" if "opcode" in said else "`s/=`, `s%=` and sign-extending moves"
    elif kind == "Load":
        word = "sign-extending loads"
    else:
        word = _WORDS.get(kind, kind)
    return word, f"`{said}`"


def unsupported_rows(verdicts: Sequence[Verdict]) -> list[str]:
    """A table row per reason, with its counts."""
    counts = [Counter(reason_of(result) for result in verdict.unsupported) for verdict in verdicts]
    keys = sorted({key for count in counts for key in count}, key=lambda key: (-counts[0][key], key))
    return [f"| {what} | {said} | {' | '.join(str(count[what, said]) for count in counts)} |" for what, said in keys]


# The findings


def listing(result: Result) -> list[str]:
    """A failed case's insns and its native code."""
    prog = result.case.assembled.prog
    lines = [f"{i:4}  {insn_text(prog, i)}" for i in range(len(prog.insns)) if not isinstance(prog.ops[i], Hole)]
    if isinstance(result.outcome, Ran) and result.outcome.image is not None:
        image = result.outcome.image
        rows = disassemble(image.arch, image.code, 0)
        lines += ["", *(f"{at:4x}  {mnemonic} {operands}".rstrip() for at, _, mnemonic, operands in rows)]
    return lines


def finding_lines(finding: Finding, results: Sequence[Result]) -> list[str]:
    """One defect as a section; the shortest of its cases is the example."""
    shown = min(results, key=lambda result: (len(result.case.assembled.prog.insns), result.case.id))
    cases = list(dict.fromkeys(f"`{result.case.id}`" for result in results))
    more = f" and {len(cases) - 4} more" if len(cases) > 4 else ""
    return [
        f"### {', '.join(finding.arches)}: {finding.title}", "",
        *textwrap.wrap(finding.why, 140), "",
        f"- source: {finding.source}",
        f"- cases ({len(cases)}): {', '.join(cases[:4])}{more}",
        f"- seen: {shown.mismatches[0].got}" + (f" (`{shown.case.id}`)" if len(cases) > 1 else ""), "",
        "```", *listing(shown), "```", "",
    ]  # fmt: skip


def sort_failures(verdicts: Sequence[Verdict]) -> tuple[dict[Finding, list[Result]], list[tuple[str, Result]]]:
    """The failed cases by what explains them, and those that nothing explains."""
    explained: dict[Finding, list[Result]] = {finding: [] for finding in FINDINGS}
    left: list[tuple[str, Result]] = []
    for verdict in verdicts:
        for result in verdict.failed:
            found = next((f for f in FINDINGS if f.explains(result, verdict.arch)), None)
            if found is None:
                left.append((verdict.arch, result))
            else:
                explained[found].append(result)
    return {finding: results for finding, results in explained.items() if results}, left


def misaligned(verdict: Verdict) -> tuple[int, int]:
    """How many passing cases call a function, and in how many of them SP is no multiple of 16 at some call."""
    frames = [r.outcome.frames for r in verdict.passed if isinstance(r.outcome, Ran) and r.outcome.frames]
    odd = [views for views in frames if any(view.regs[0][1] % PSABI_ALIGN for view in views)]
    return len(frames), len(odd)


def page(verdicts: Sequence[Verdict], explained: dict[Finding, list[Result]]) -> str:
    """The whole page."""
    calling, odd = misaligned(verdicts[0])
    versions = sorted({verdict.version for verdict in verdicts})
    lines = [
        "# The verdict on DPDK's BPF library", "",
        f"{', '.join(versions)} (Debian's package), through [the plugin in examples/dpdk](../examples/dpdk/README.md):",
        "each program that the built-in verifier accepts is loaded by `rte_bpf_load`, and the code that `rte_bpf_get_jit` gives is run in",
        "the emulator under all checks. The arm64 library runs under QEMU's user-mode emulation. This page is written by",
        "`examples/dpdk/verdict.py`, which fails on a finding that it does not explain.", "",
        "| | " + " | ".join(verdict.arch for verdict in verdicts) + " |",
        "|---|" + "---|" * len(verdicts),
    ]  # fmt: skip
    rows = (("programs", "asked"), ("passed", "passed"), ("failed", "failed"), ("unsupported", "unsupported"))
    for title, name in rows:
        values = (getattr(verdict, name) for verdict in verdicts)
        lines.append(f"| {title} | {' | '.join(str(v if isinstance(v, int) else len(v)) for v in values)} |")
    lines += ["", "## Findings", ""]
    for finding, results in explained.items():
        lines += finding_lines(finding, results)
    lines += [
        "## Beside the verdict", "",
        f"On x86-64 SP is no multiple of {PSABI_ALIGN} at a call in {odd} of the {calling} passing cases that call a function. ABI-SP asks for",
        "8 bytes there, the kernel's rule; in user space psABI 3.2.2 asks for 16, and a callee that keeps SSE registers on its stack may",
        "rely on it. DPDK's JIT does not align SP.", "",
        "## Unsupported", "",
        "What DPDK does not load, by reason: its own message, or the plugin's where DPDK's interface has no words for a function. DPDK's",
        "functions outside a program are `uint64_t f(uint64_t, ...)` with 5 arguments at most; one with a narrower result is not declared as",
        "such, since the bits above the result would be undefined.", "",
        "| not taken | said by | " + " | ".join(verdict.arch for verdict in verdicts) + " |",
        "|---|---|" + "---|" * len(verdicts),
        *unsupported_rows(verdicts), "",
    ]  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)


def main(arguments: Sequence[str]) -> int:
    """Writes the page. Arguments: the two plugins' commands, x86-64's first; those of build.sh where there are none."""
    commands = list(arguments) or [str(ROOT / ".cache" / "dpdk" / f"plugin-{arch}") for arch in ARCHES]
    os.chdir(ROOT)  # so that a case has the name that it has everywhere
    cases = [case for path in find_files([Path("cases")]) for case in load_file(path).cases]
    verdicts = [judge(arch, command, cases) for arch, command in zip(ARCHES, commands, strict=True)]
    explained, left = sort_failures(verdicts)
    for arch, result in left:
        got = "; ".join(f"{m.check}: {m.got}" for m in result.mismatches)
        sys.stderr.write(f"not explained: {arch}: {result.case.id}: {got}\n")
    if left:
        return 1
    PAGE.write_text(page(verdicts, explained), encoding="utf-8")
    for verdict in verdicts:
        counts = f"{len(verdict.passed)} passed, {len(verdict.failed)} failed, {len(verdict.unsupported)} unsupported"
        sys.stdout.write(f"{verdict.version} {verdict.arch}: {verdict.asked} programs: {counts}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
