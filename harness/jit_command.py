"""`callconv jit`: the native code of a program beside its insns; nothing is run."""

import argparse
from collections.abc import Callable, Sequence

from backends.arm64.jit import Arm64Jit
from backends.arm64.jit import Options as Arm64Options
from backends.base import Job
from backends.image import CompileError, Compiler, Image
from backends.native import native_code
from backends.x86_64.jit import Options as X8664Options
from backends.x86_64.jit import X8664Jit
from harness.case import Case
from harness.check import where_of
from harness.listing import Form, listing_lines, native_rows
from verifier.verdict import Rejected
from verifier.verify import Verifier


def compilers(options: argparse.Namespace) -> list[Compiler]:
    """Those that the options ask for."""
    x86_64 = X8664Jit(X8664Options(ibt=not options.no_ibt, bmi2=not options.no_bmi2))
    arm64 = Arm64Jit(Arm64Options(bti=not options.no_bti, pac=not options.no_pac, lse=not options.no_lse))
    return [made for made in (x86_64, arm64) if made.arch in (options.arch or (made.arch,))]


def show_native(
    case: Case, chosen: Sequence[Compiler], say: Callable[[str], None], form: Form, *, as_hex: bool
) -> bool:
    """Prints the native code of a program for each compiler; whether there was some for all."""
    verdict = Verifier().verify(case.assembled.prog)
    if isinstance(verdict, Rejected):
        say(f"rejected ({verdict.rule}): {verdict.message}")
        say(f"  where   {where_of(case.assembled.prog, verdict.insn) or 'the whole program'}")
        return False
    job = Job(case.assembled.prog, verdict.verified, case.ctx, case.kfuncs)
    right = True
    for compiler in chosen:
        try:
            image = native_code(compiler, verdict.verified, job)
        except CompileError as error:
            say(f"{compiler.arch}: {error}")
            right = False
            continue
        if as_hex:
            say(image.code.hex())
        else:
            _show(image, case, say, form)
    return right


def _show(image: Image, case: Case, say: Callable[[str], None], form: Form) -> None:
    say(f"{case.file}::{case.name} ({image.arch}, {len(image.code)} bytes at {image.base:#x})")
    for symbol in image.symbols:
        say(f"  {symbol.offset:6x}  {symbol.size:6d} bytes  {symbol.name}")
    for line in listing_lines(native_rows(image, case.lines, form)):
        say(line)
