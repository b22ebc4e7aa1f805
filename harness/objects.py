"""A compiler's object as cases: every program of it must be accepted, and do the same on every back end."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from backends.calls import Body
from harness.case import Case, CaseError, LoadedFile
from harness.expect import Expect
from harness.isa.asm import Assembled

if TYPE_CHECKING:
    from harness.isa.elf import ElfProgram

SUFFIX: Final = ".o"
CTX_BYTES: Final = 256  # of zeros, where nobody says what the context holds
KFUNC_RESULT: Final = 0  # of every kfunc that an object names
SECTIONS: Final = ("syscall", "syscall.s")  # the program types that there are


def read_object(path: Path) -> "list[ElfProgram]":
    """The programs of an object file. Raises ElfError for whatever keeps it from being read."""
    from harness.isa.elf import MAX_BYTES, ElfError, load_object  # a library, which cases can do without

    try:
        if not path.is_file():
            raise ElfError("cannot be read: " + ("it is not a file" if path.exists() else "there is no such file"))
        with path.open("rb") as stream:
            return load_object(stream.read(MAX_BYTES + 1))
    except ElfError:
        raise
    except (OSError, ValueError) as error:
        raise ElfError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def wrong_section(program: "ElfProgram") -> str | None:
    """Why a program cannot be run, where its section says of what type it is."""
    if program.section in SECTIONS:
        return None
    return (
        f"{program.name}: section {program.section!r} is of no program type that is known here: {', '.join(SECTIONS)}"
    )


def load_objects(path: Path, shown: str) -> LoadedFile:
    """The programs of one object file. Never raises for what the file holds."""
    from harness.isa.elf import ElfError

    try:
        programs = read_object(path)
    except ElfError as error:
        return LoadedFile((), (CaseError(shown, 1, 1, str(error)),))
    errors = tuple(CaseError(shown, 1, 1, why) for program in programs if (why := wrong_section(program)))
    cases = (
        Case(
            name=program.name, file=shown, line=1, about=f"Function {program.name} of section {program.section} is accepted.",
            spec=(f"{shown}, section {program.section}",), needs=(), type="syscall", ctx=bytes(CTX_BYTES),
            kfuncs=tuple(Body(proto, KFUNC_RESULT) for proto in program.prog.kfuncs),
            assembled=Assembled(program.prog, ()), expect=Expect("accept"), sources=(),
            lines={insn: str(line) for insn, line in program.lines.items()}, section=program.section,
        )
        for program in programs
        if program.section in SECTIONS
    )  # fmt: skip
    return LoadedFile(tuple(cases), errors)
