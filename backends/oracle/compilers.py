"""C compilers that are there, and objects they make: code at a fixed place, constants by name."""

import importlib.util
import os
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

TRIPLETS: Final = {"x86_64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
# Position-independent without anything to patch but calls within the file. -O1 keeps the copies, and compiles fast.
FLAGS: Final = (
    "-std=gnu11", "-O1", "-w", "-c", "-ffreestanding", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector", "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables", "-fomit-frame-pointer", "-Wno-psabi",
)  # fmt: skip
CLANGS: Final = ("clang", *(f"clang-{number}" for number in range(30, 13, -1)))
ASK_SECONDS: Final = 60
COMPILE_SECONDS: Final = 600
SHF_ALLOC: Final = 2
_LOW_12: Final = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}  # ADD and LDST8 to LDST128 _ABS_LO12_NC: the scale


class CompilerError(Exception):
    """A compiler refuses a source, or gives an object that cannot be used; the text is why."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """One compiler for one architecture."""

    family: str  # gcc or clang
    version: tuple[int, ...]
    arch: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.family} {'.'.join(map(str, self.version))} for {self.arch}"

    def compile(self, source: str, flags: Sequence[str] = ()) -> "Object":
        """With more flags than all have. Raises CompilerError."""
        with tempfile.TemporaryDirectory(prefix="callconv-") as folder:
            path, made = Path(folder, "a.c"), Path(folder, "a.o")
            path.write_text(source, encoding="ascii")
            caches = dict.fromkeys(("TMPDIR", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), folder)
            command = [*self.argv, *FLAGS, *flags, str(path), "-o", str(made)]
            try:
                done = subprocess.run(
                    command,
                    env={**os.environ, **caches},
                    capture_output=True,
                    text=True,
                    timeout=COMPILE_SECONDS,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise CompilerError(f"{shlex.join(self.argv)}: {error}") from error
            if done.returncode or not made.exists():
                raise CompilerError(f"{shlex.join(self.argv)}: {done.stderr.strip()[:2000] or done.returncode}")
            return read_object(made, self.arch)


@dataclass(frozen=True, slots=True)
class Object:
    """`image`: code and constants, to lie at a page's start; `functions`: byte offsets in it; `constants`: their bytes."""

    image: bytes
    functions: Mapping[str, int]
    constants: Mapping[str, bytes]


def read_object(path: Path, arch: str) -> Object:
    """An object file, linked. Raises CompilerError where it needs more than itself."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        image = bytearray()
        starts: dict[int, int] = {}
        for number, section in enumerate(elf.iter_sections()):
            if section["sh_flags"] & SHF_ALLOC and section["sh_type"] == "SHT_PROGBITS":
                image += bytes(-len(image) % max(16, section["sh_addralign"]))
                starts[number] = len(image)
                image += section.data()
        table = elf.get_section_by_name(".symtab")
        relocations = elf.get_section_by_name(".rela.text")
        text_at = elf.get_section_index(".text")
        assert isinstance(table, SymbolTableSection)
        assert text_at is not None
        symbols = [
            (symbol.name, symbol["st_shndx"], symbol["st_value"], symbol["st_size"]) for symbol in table.iter_symbols()
        ]
        for row in relocations.iter_relocations() if isinstance(relocations, RelocationSection) else ():
            name, section, value, _ = symbols[row["r_info_sym"]]
            place = starts[text_at] + row["r_offset"]
            if section not in starts:
                raise CompilerError(f"its code needs {name or section!r}")
            _patch(image, arch, row["r_info_type"], place, starts[section] + value + row["r_addend"])
    placed = {name: starts[section] + value for name, section, value, _ in symbols if section in starts}
    constants = {
        name: bytes(image[placed[name] : placed[name] + size])
        for name, section, _, size in symbols
        if section in starts
    }
    return Object(bytes(image), placed, constants)


def _patch(image: bytearray, arch: str, kind: int, place: int, target: int) -> None:
    """One relocation. psABI table 4.9; AAELF64, "Static AArch64 relocations"."""
    if arch == "x86_64" and kind in (2, 4):  # PC32, PLT32
        struct.pack_into("<i", image, place, target - place)
        return
    insn = struct.unpack_from("<I", image, place)[0]
    if arch == "arm64" and kind in (282, 283):  # JUMP26, CALL26
        insn = insn & 0xFC00_0000 | (target - place) >> 2 & 0x03FF_FFFF
    elif arch == "arm64" and kind == 275:  # ADR_PREL_PG_HI21
        pages = (target >> 12) - (place >> 12)
        insn = insn & 0x9F00_001F | (pages & 3) << 29 | (pages >> 2 & 0x7_FFFF) << 5
    elif arch == "arm64" and kind in _LOW_12:
        insn = insn & 0xFFC0_03FF | ((target & 0xFFF) >> _LOW_12[kind]) << 10
    else:
        raise CompilerError(f"its code has a relocation of type {kind}")
    struct.pack_into("<I", image, place, insn)


def find_compilers(commands: Sequence[str] = ()) -> list[Compiler]:
    """Those named, for each architecture that they have; or gcc and the newest clang that are installed, zig's among them.

    Raises CompilerError where one that is named does not compile.
    """
    if commands:
        named = [made for command in commands for made in asked(shlex.split(command))]
        for made in named:
            made.compile(_SMALLEST)
        return named
    found: dict[tuple[str, str], Compiler] = {}
    for argv in _likely():
        for made in asked(argv):
            known = found.get((made.family, made.arch))
            if (known is None or (made.family == "clang" and made.version > known.version)) and _compiles(made):
                found[made.family, made.arch] = made
    return sorted(found.values(), key=lambda made: (made.family, made.arch))


_SMALLEST: Final = "int f(void) { return 0; }\n"


def _compiles(compiler: Compiler) -> bool:
    try:
        compiler.compile(_SMALLEST)
    except CompilerError:
        return False
    return True


def _likely() -> Iterator[list[str]]:
    for name in ("gcc", *(f"{triplet}-gcc" for triplet in TRIPLETS.values()), *CLANGS):
        path = shutil.which(name)
        if path is not None:
            yield [path]
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.origin is not None:
        yield [str(Path(spec.origin).with_name("zig")), "cc"]


def asked(argv: Sequence[str]) -> list[Compiler]:
    """What a command is; nothing where it is no compiler for Linux on one of the architectures."""
    version = _answer([*argv, "--version"])
    if match := re.search(r"clang version (\d+)\.(\d+)\.(\d+)", version):
        numbers = tuple(map(int, match.groups()))
        if Path(argv[0]).name.startswith("zig"):
            return [
                Compiler("clang", numbers, arch, (*argv, "-target", triplet, "-fno-sanitize=all"))
                for arch, triplet in TRIPLETS.items()
            ]
        return [Compiler("clang", numbers, arch, (*argv, f"--target={triplet}")) for arch, triplet in TRIPLETS.items()]
    if "Free Software Foundation" not in version:
        return []
    machine, number = _answer([*argv, "-dumpmachine"]), _answer([*argv, "-dumpfullversion"])
    for arch, triplet in TRIPLETS.items():
        if machine.startswith(triplet.split("-", maxsplit=1)[0]) and "linux" in machine:
            return [Compiler("gcc", tuple(map(int, number.strip().split("."))), arch, tuple(argv))]
    return []


def _answer(argv: Sequence[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=ASK_SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
