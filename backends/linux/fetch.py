"""Linux kernels, QEMU and cross compilers out of Debian's packages: downloaded and extracted in a cache, never installed.

Apt runs in a private state inside the cache, with the addresses and keys of the machine's own package sources.
"""

import contextlib
import fcntl
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from backends.linux.apt import (
    QUERY_SECONDS,
    Apt,
    FetchError,
    Package,
    apt_path,
    machine_sources,
    order,
    rank,
    run,
    sha256,
    spell,
)
from backends.linux.tools import (
    TARGETS,
    Tool,
    extracted_compiler,
    extracted_qemu,
    find_compiler,
    find_qemu,
    why_unfit,
)

OLDEST: Final = "7.2"  # the first Linux with stack arguments
DEBIAN_ARCH: Final = {"x86_64": "amd64", "arm64": "arm64"}
QEMU_PACKAGES: Final = {"x86_64": ("qemu-system-x86", "seabios"), "arm64": ("qemu-system-arm",)}
LOCK_SECONDS: Final = 600.0
_TEMPORARY: Final = ".new-"
_SUITE: Final = re.compile(r"[a-z][a-z0-9.+-]*")

Say = Callable[[str], None]


class _DoesNotRunError(Exception):
    """What was extracted does not run here."""


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A kernel in the cache: `sha256` is the package's, as apt verified it; `image_sha256` that of the file at `path`."""

    arch: str
    package: str
    version: str
    suite: str
    sha256: str
    path: Path
    image_sha256: str


def _quiet(text: str) -> None:
    pass


@contextlib.contextmanager
def _locked(cache: Path, say: Say) -> Iterator[int]:
    """Holds the lock of the cache, and removes what interrupted runs have left."""
    end = time.monotonic() + LOCK_SECONDS
    with (cache / "lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if end - time.monotonic() > LOCK_SECONDS - 0.1:
                    say(f"waiting for another fetch into {cache}")
                if time.monotonic() > end:
                    raise FetchError(f"another fetch holds {cache / 'lock'} for more than {LOCK_SECONDS:g} s") from None
                time.sleep(0.2)
        for path in cache.glob(f"*/{_TEMPORARY}*"):
            shutil.rmtree(path)
        yield file.fileno()


@contextlib.contextmanager
def _new(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` if the block ends well, and vanishes if not; never half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=target.parent) as name:
        made = Path(name) / "made"
        made.mkdir()
        yield made
        if target.exists():
            target.rename(Path(name) / "old")
        made.rename(target)


# Kernels


def kernels(cache: Path) -> list[KernelImage]:
    """The kernels in the cache, the newest first for each architecture; incomplete and damaged entries are left out."""
    found = [
        image for path in (cache / "kernels").glob("[0-9a-f]*/kernel.json") if (image := _cached(path)) is not None
    ]
    found.sort(key=lambda image: order(image.version), reverse=True)
    return sorted(found, key=lambda image: list(TARGETS).index(image.arch))


def _cached(record: Path) -> KernelImage | None:
    try:
        fields = json.loads(record.read_text(encoding="utf-8"))
        size = fields.pop("image_size")
        image = KernelImage(**{**fields, "path": record.parent / Path(fields["path"]).name})
        whole = all(isinstance(value, str) for value in fields.values()) and image.arch in TARGETS
        whole = whole and record.parent.name == image.sha256[:16] and image.path.stat().st_size == size
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return image if whole else None


def verify(image: KernelImage) -> bool:
    """True if the image in the cache is still the one that was fetched, to the last bit."""
    try:
        return sha256(image.path) == image.image_sha256
    except OSError:
        return False


def choose(packages: Iterable[Package], arch: str) -> Package | None:
    """The newest cloud kernel for `arch` that is not older than OLDEST."""
    name = re.compile(rf"linux-binary-[0-9].*-cloud-{DEBIAN_ARCH[arch]}")
    fit = [
        p
        for p in packages
        if p.arch == DEBIAN_ARCH[arch] and name.fullmatch(p.name) and order(p.version) >= order(OLDEST)
    ]
    return max(fit, key=lambda package: order(package.version), default=None)


def _newest(cache: Path, suite: str, arches: Sequence[str], lock: int) -> tuple[Apt, list[Package]]:
    """The package to fetch for each architecture, and the apt that has it in its lists."""
    apt = Apt(cache / "apt/kernels", lock)
    sources = machine_sources()
    archives = [source for source in sources if rank(source) != 1] or sources
    problems: list[str] = []
    for source in archives[:2]:
        debian = [DEBIAN_ARCH[arch] for arch in arches]
        apt.set_up(spell(source, [suite], debian), debian)
        try:
            apt.update()
        except FetchError as error:
            problems.append(str(error))
            continue
        pattern = "^linux-binary-.*-cloud-(amd64|arm64)$"
        there = apt.show(
            line.split()[0] for line in apt.run("apt-cache", "search", "--names-only", pattern).splitlines()
        )
        chosen = {arch: choose(there, arch) for arch in arches}
        if all(chosen.values()):
            return apt, [package for package in chosen.values() if package is not None]
        lacking = ", ".join(arch for arch, package in chosen.items() if package is None)
        best = ", ".join(sorted({package.version for package in there}, key=order)[-2:]) or "none at all"
        problems.append(f"no cloud kernel {OLDEST} or newer for {lacking}; the newest there: {best}")
    raise FetchError(f"no kernels from the suite {suite!r} at this machine's package sources:\n" + "\n".join(problems))


def _kernels(cache: Path, suite: str, arches: Sequence[str], lock: int, say: Say) -> list[KernelImage]:
    """The newest kernel of the suite for each architecture; what is in the cache, if the suite cannot be asked."""
    say(f"looking for kernels in {suite}")
    try:
        apt, packages = _newest(cache, suite, arches, lock)
    except FetchError as error:
        have = {image.arch: image for image in reversed(kernels(cache)) if image.suite == suite and verify(image)}
        if not all(arch in have for arch in arches):
            raise
        say(f"{error}\nkeeping to the kernels that were fetched before")
        return [have[arch] for arch in arches]
    return [_kernel(cache, suite, arch, apt, package, say) for arch, package in zip(arches, packages, strict=True)]


def _kernel(cache: Path, suite: str, arch: str, apt: Apt, package: Package, say: Say) -> KernelImage:
    for image in kernels(cache):
        if image.sha256 == package.sha256 and verify(image):
            say(f"{package.name} {package.version}: already there")
            return image
    say(f"{package.name} {package.version}: downloading {package.size / 1e6:.0f} MB")
    target = cache / "kernels" / package.sha256[:16]
    with _new(target) as made:
        (deb,) = apt.download([package], made.parent)
        unpacked = made.parent / "unpacked"
        run(("dpkg", "-x", str(deb), str(unpacked)), QUERY_SECONDS, lock=apt.lock)
        found = [path for path in unpacked.rglob("vmlinuz*") if path.is_file() and not path.is_symlink()]
        if len(found) != 1:
            raise FetchError(f"{package.name} {package.version} has {len(found)} files vmlinuz*, 1 expected")
        path = found[0].rename(made / "vmlinuz")
        path.chmod(0o644)
        image = KernelImage(
            arch, package.name, package.version, suite, package.sha256, target / path.name, sha256(path)
        )
        record = {**asdict(image), "path": path.name, "image_size": path.stat().st_size}
        (made / "kernel.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return image


# QEMU and compilers


def _tools_apt(cache: Path, arch: str, lock: int) -> Apt:
    """Apt with the machine's own release, whose programs run with the machine's own C library."""
    apt = Apt(cache / "apt/tools", lock)
    apt.set_up("".join(spell(source, source.suites, [arch]) for source in machine_sources()), [arch])
    apt.update()
    return apt


def _tool(apt: Apt, wanted: Sequence[str], target: Path, why_not: Callable[[Path], str], say: Say) -> None:
    """Fetches packages with what they need into `target`: what the machine lacks, or all of it if that does not work."""
    problems: list[str] = []
    for status in (apt_path("Dir::State::status/f"), apt.root / "none"):
        packages = apt.plan(wanted, status) if status.is_file() else []
        version = next((package.version for package in packages if package.name == wanted[0]), None)
        if version is None:
            problems.append(f"{wanted[0]} is not among the packages to get")
            continue
        say(f"{wanted[0]} and what it needs: downloading {sum(p.size for p in packages) / 1e6:.0f} MB")
        with contextlib.suppress(_DoesNotRunError), _new(target) as made:
            for deb in apt.download(packages, made.parent):
                run(("dpkg", "-x", str(deb), str(made)), QUERY_SECONDS, lock=apt.lock)
                deb.unlink()
            for name in ("doc", "man", "locale"):
                shutil.rmtree(made / "usr/share" / name, ignore_errors=True)
            problem = why_not(made)
            if not problem:
                return
            problems.append(f"{wanted[0]} {version} does not run when extracted: {problem}")
            raise _DoesNotRunError
    raise FetchError(f"{wanted[0]} cannot be used from the cache: {'; '.join(problems)}")


def _emulator_fault(root: Path, arch: str) -> str:
    """Empty if the extracted emulator runs and can emulate; else what is wrong."""
    tool = extracted_qemu(root, arch)
    if tool is None:
        return "its packages have no emulator"
    try:
        out = run((*tool.argv, "-accel", "help"), QUERY_SECONDS, env=tool.env)
    except FetchError as error:
        return str(error)
    return "" if "tcg" in out else f"it lacks the accelerator tcg: {out.strip()}"


def _compiler_fault(root: Path, arch: str) -> str:
    """Empty if the extracted compiler makes executables; else what is wrong."""
    tool = extracted_compiler(root, arch)
    return "its packages have no compiler" if tool is None else why_unfit(tool, arch)


def _tools(cache: Path, arches: Sequence[str], lock: int, say: Say) -> None:
    """Fetches the emulators and compilers that neither the machine nor the cache has."""
    native = run(("dpkg", "--print-architecture"), QUERY_SECONDS).strip()
    lacking: list[tuple[Sequence[str], Path, Callable[[Path], str]]] = []
    for arch in arches:
        qemu = find_qemu(cache, arch)
        say(f"QEMU for {arch}: {_where(qemu)}")
        if qemu is None:
            lacking.append((QEMU_PACKAGES[arch], cache / "qemu" / arch, partial(_emulator_fault, arch=arch)))
    for arch in arches:
        compiler = find_compiler(cache, arch)
        say(f"C compiler for {arch}: {_where(compiler)}")
        if compiler is None:
            cross = f"gcc-{TARGETS[arch].triplet.replace('_', '-')}"
            name = "gcc" if DEBIAN_ARCH[arch] == native else cross
            lacking.append(((name,), cache / "gcc" / arch, partial(_compiler_fault, arch=arch)))
    if lacking:
        apt = _tools_apt(cache, native, lock)
        for wanted, target, why_not in lacking:
            _tool(apt, wanted, target, why_not, say)
        find_compiler.cache_clear()


def _where(tool: Tool | None) -> str:
    return "none here" if tool is None else tool.argv[0]


def fetch(
    cache: Path, suite: str = "sid", arches: Sequence[str] = ("x86_64", "arm64"), say: Say = _quiet
) -> list[KernelImage]:
    """Fills the cache with the newest kernel of the suite for each architecture and with the tools to run it."""
    unknown = [arch for arch in arches if arch not in TARGETS]
    if unknown:
        raise FetchError(f"architecture {unknown[0]!r}; expected {' or '.join(TARGETS)}")
    if _SUITE.fullmatch(suite) is None:
        raise FetchError(f"suite {suite!r}; expected a name such as sid, forky, trixie-backports or experimental")
    try:
        cache = cache.resolve()
        if re.search(r'["\n]', str(cache)):
            raise FetchError(f"cache {str(cache)!r}: apt cannot work in a folder with such a name")
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache, say) as lock:
            images = _kernels(cache, suite, arches, lock, say)
            _tools(cache, arches, lock, say)
    except OSError as error:
        raise FetchError(f"cache {cache}: {error.filename or ''}: {error.strerror}") from error
    return images
