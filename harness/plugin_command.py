"""`callconv plugin`: this suite as a plugin of bpf_conformance. Imports little, because it starts once per program."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from backends.base import Job, Ran
from backends.interp import Interpreter
from harness.dialect import prog_of
from harness.isa.insn import Undefined, insns_from_bytes
from harness.unverified import unverified

USAGE: Final = "usage: callconv plugin [--backend NAME] [MEMORY]; the program is hex digits on standard input"
MAX_INPUT: Final = 64 << 20


class PluginInputError(ValueError):
    """What was given is no program or no memory."""


def main(arguments: Sequence[str]) -> int:
    """R0 as hex digits and 0, or an error's text and 1."""
    try:
        backend, memory = _arguments(arguments)
        print(f"{result_of(sys.stdin.read(MAX_INPUT), memory, backend):x}")  # noqa: T201
    except (PluginInputError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _arguments(arguments: Sequence[str]) -> tuple[str, bytes]:
    backend, rest = "interp", list(arguments)
    if rest[:1] == ["--backend"] and len(rest) > 1:
        backend, rest = rest[1], rest[2:]
    if len(rest) > 1 or (rest and rest[0].startswith("-")):
        raise PluginInputError(USAGE)
    return backend, _bytes(rest[0], "the memory") if rest else b""


def _bytes(text: str, what: str) -> bytes:
    """Hex digits, with spaces or without."""
    digits = re.sub(r"\s+", "", text)
    if re.search(r"[^0-9a-fA-F]", digits) or len(digits) % 2:
        raise PluginInputError(f"{what} is no bytes in hex digits")
    return bytes.fromhex(digits)


def result_of(program: str, memory: bytes, backend: str) -> int:
    """R0 of a program. Raises PluginInputError or ValueError where it does not come to a right end."""
    prog = prog_of(insns_from_bytes(_bytes(program, "the program")))
    if not prog.insns:
        raise PluginInputError("the program has no insn")
    unknown = next((i for i, insn in enumerate(prog.ops) if isinstance(insn, Undefined)), None)
    if unknown is not None:
        raise PluginInputError(f"insn {unknown} is none: {prog.insns[unknown].to_bytes().hex(' ')}")
    job = Job(prog, unverified(prog), memory, (), length_in_r2=True)
    ran = Interpreter().run(job)
    assert isinstance(ran, Ran)
    if not ran.violations and backend != "interp":
        from harness.plugins import make_backends

        (chosen,) = make_backends([backend])
        outcome = chosen.run(replace(job, reference=ran))
        if not isinstance(outcome, Ran):
            raise PluginInputError(getattr(outcome, "reason", "no result"))
        ran = outcome
    if ran.violations or ran.retval is None:
        text = "; ".join(f"{violation.check}: {violation.message}" for violation in ran.violations)
        raise PluginInputError(text or "it did not return")
    return ran.retval
