"""QEMU and C compilers: on PATH, or extracted in the cache by fetch.py."""

import functools
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

COMPILE_SECONDS: Final = 60.0
PROBE_SECONDS: Final = 20.0
# Nothing of a C library is there to be called, so nothing may be called that the source does not name.
FREESTANDING: Final = ("-ffreestanding", "-fno-stack-protector")
STATIC: Final = ("-nostdlib", "-static")


@dataclass(frozen=True, slots=True)
class Target:
    """One guest architecture, as QEMU, GNU triplets and ELF name it. System V gABI, e_machine."""

    qemu: str
    triplet: str
    elf_machine: int


TARGETS: Final = {
    "x86_64": Target("x86_64", "x86_64-linux-gnu", 62),
    "arm64": Target("aarch64", "aarch64-linux-gnu", 183),
}


class CompileError(Exception):
    """A compiler refuses a source; the text is the command and the compiler's message."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program with its leading arguments, and the environment that it needs besides the present one."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    def environ(self) -> dict[str, str]:
        """The whole environment to start it with."""
        return {**os.environ, **self.env}


def find_qemu(cache: Path, arch: str, given: str | None = None) -> Tool | None:
    """The emulator of a whole machine: the given one and no other, else the one on PATH, else the one in the cache."""
    if given is not None:
        path = shutil.which(given)
        return None if path is None else Tool((path,))
    path = shutil.which(f"qemu-system-{TARGETS[arch].qemu}")
    return Tool((path,)) if path is not None else extracted_qemu(cache / "qemu" / arch, arch)


def extracted_qemu(root: Path, arch: str) -> Tool | None:
    """The emulator in a tree of extracted packages; its firmware and modules are found only when it is told where."""
    program = root / "usr/bin" / f"qemu-system-{TARGETS[arch].qemu}"
    if not os.access(program, os.X_OK):
        return None
    firmware = [root / "usr/share" / name for name in ("qemu", "seabios")] + [root / "usr/lib/ipxe/qemu"]
    env = _library_path(root)
    modules = next(root.glob("usr/lib/*-linux-gnu*/qemu"), None)
    if modules is not None:
        env["QEMU_MODULE_DIR"] = str(modules)
    return Tool((str(program), *(word for path in firmware if path.is_dir() for word in ("-L", str(path)))), env)


def _library_path(root: Path) -> dict[str, str]:
    """LD_LIBRARY_PATH for a tree of extracted packages: every folder of its /lib and /usr/lib that has shared objects."""
    found = {path.parent for top in ("usr/lib", "lib") for path in (root / top).rglob("lib*.so*")}
    # Subfolders too: packages keep private libraries there and name them by absolute paths, which do not hold here.
    # The shortest path goes first, so that no variant in a subfolder hides the library itself.
    folders = [str(path) for path in sorted(found, key=lambda path: (len(path.parts), path))]
    present = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": ":".join([*folders, *([present] if present else [])])} if folders else {}


@functools.cache
def find_compiler(cache: Path, arch: str) -> Tool | None:
    """A C compiler that really makes static freestanding executables for `arch`; looked for once a process."""
    return next((tool for tool in _compilers(cache, arch) if not why_unfit(tool, arch)), None)


def _compilers(cache: Path, arch: str) -> Iterator[Tool]:
    """What may be such a compiler, the user's own choice first, the extracted one last."""
    triplet = TARGETS[arch].triplet
    for words in (shlex.split(os.environ.get("CC", "")), ["gcc"], ["cc"]):
        path = shutil.which(words[0]) if words else None
        if path is not None and _targets(own := Tool((path, *words[1:])), arch):
            yield own
    path = shutil.which(f"{triplet}-gcc")
    if path is not None:
        yield Tool((path,))
    path = shutil.which("clang")
    if path is not None and shutil.which("ld.lld") is not None:
        yield Tool((path, f"--target={triplet}", "-fuse-ld=lld", "-Wno-unused-command-line-argument"))
    extracted = extracted_compiler(cache / "gcc" / arch, arch)
    if extracted is not None:
        yield extracted


def extracted_compiler(root: Path, arch: str) -> Tool | None:
    """The compiler in a tree of extracted packages; -B names its assembler and linker, by their two names."""
    program = root / "usr/bin" / f"{TARGETS[arch].triplet}-gcc"
    if not os.access(program, os.X_OK):
        return None
    return Tool((str(program), f"-B{str(program).removesuffix('gcc')}", f"-B{program.parent}/"), _library_path(root))


def _targets(tool: Tool, arch: str) -> bool:
    """True if the compiler says that it makes Linux code for `arch`."""
    try:
        done = _run(tool, ["-dumpmachine"], "", PROBE_SECONDS)
    except CompileError:
        return False
    machine = TARGETS[arch].triplet.partition("-")[0]
    return re.match(rf"{machine}-(\w+-)?linux", done) is not None


def why_unfit(tool: Tool, arch: str) -> str:
    """Empty if an empty program compiles, links, and is a 64-bit ELF file for `arch`; else what is wrong."""
    try:
        image = link_static(tool, "void _start(void){}\n", ())
    except CompileError as error:
        return str(error)
    if image[:5] != b"\x7fELF\x02" or int.from_bytes(image[18:20], "little") != TARGETS[arch].elf_machine:
        return f"`{tool.argv[0]}` makes no 64-bit ELF file for {arch}"
    return ""


def compile_object(tool: Tool, source: str, flags: Sequence[str]) -> bytes:
    """The relocatable object of a freestanding C source. Raises CompileError."""
    return _build(tool, source, (*FREESTANDING, "-c", *flags))


def link_static(tool: Tool, source: str, flags: Sequence[str]) -> bytes:
    """The static executable of a C source that brings its own `_start` and uses no library. Raises CompileError."""
    return _build(tool, source, (*FREESTANDING, *STATIC, *flags))


def _build(tool: Tool, source: str, flags: Sequence[str]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="callconv-cc-") as folder:
        out = Path(folder) / "out"
        # Link options such as -lgcc count only after the source.
        _run(tool, ["-x", "c", "-", "-x", "none", *flags, "-o", str(out)], source, COMPILE_SECONDS)
        try:
            return out.read_bytes()
        except OSError as error:
            raise CompileError(f"`{tool.argv[0]}` succeeds and writes no output: {error.strerror}") from error


def _run(tool: Tool, arguments: Sequence[str], source: str, seconds: float) -> str:
    argv = [*tool.argv, *arguments]
    command = shlex.join(argv)
    try:
        done = subprocess.run(
            argv, input=source, env=tool.environ(), capture_output=True, text=True, timeout=seconds, check=False,
            errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise CompileError(f"`{command}` cannot start: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"`{command}` is not done after {seconds:g} s") from error
    if done.returncode != 0:
        raise CompileError(f"`{command}` exits with {done.returncode}:\n{done.stderr.strip() or 'no message'}")
    return done.stdout
