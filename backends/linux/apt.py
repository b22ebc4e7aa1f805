"""Debian's packages through apt's own programs, in a private state, from the machine's own package sources."""

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

QUERY_SECONDS: Final = 60.0
UPDATE_SECONDS: Final = 120.0
DOWNLOAD_SECONDS: Final = 300.0
LISTS_BYTES: Final = 160_000_000  # the package lists of one suite and two architectures, twice while they are replaced
UNPACKED: Final = 6  # times the size of a package: itself, its files, and room for their being moved
# The machine's own C library stays in use: a program must run with the library that its dynamic loader belongs to.
LEFT_OUT: Final = ("libc6", "libc-bin")
LAST_WORDS: Final = 6  # lines of a failed program's output that a message quotes
# On the command line, since files of the machine's configuration come after the one that APT_CONFIG names. apt.conf(5).
_APT_OPTIONS: Final = (
    "Acquire::Languages=none",
    "Acquire::Retries=1",
    "Acquire::http::Timeout=15",
    "Acquire::https::Timeout=15",
    "Acquire::AllowInsecureRepositories=false",
    "Acquire::AllowDowngradeToInsecureRepositories=false",
    "APT::Get::AllowUnauthenticated=false",
    "APT::Update::Error-Mode=any",  # a list that cannot be had is an error, not a reason to use an old one
    "Dir::Cache::pkgcache=",
    "Dir::Cache::srcpkgcache=",
)
_DEBIAN_TAILS: Final = {"debian", "debian-security", "debian.list", "debian-security.list"}


class FetchError(Exception):
    """Something cannot be fetched; the text says what was tried and the tool's last words."""


@dataclass(frozen=True, slots=True)
class Source:
    """Binary packages of an apt source that is switched on. sources.list(5)."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: Mapping[str, str]  # lower-case names of deb822 fields


@dataclass(frozen=True, slots=True)
class Package:
    """A package as apt's lists have it; sizes in bytes."""

    name: str
    version: str
    arch: str
    size: int
    sha256: str


# Sources


def parse_deb822(text: str) -> list[Source]:
    """The sources of a *.sources file."""
    lines = (line.rstrip() for line in text.splitlines() if not line.startswith("#"))
    return [source for block in re.split(r"\n{2,}", "\n".join(lines)) if (source := _stanza(block)) is not None]


def _stanza(block: str) -> Source | None:
    fields = {
        match[1].lower(): match[2].strip()
        for match in re.finditer(r"^([^\s:]+):(.*(?:\n[ \t].*)*)", block, re.MULTILINE)
    }
    off = fields.get("enabled", "yes").lower() in ("no", "false", "0", "off", "without", "disable")
    if off or "deb" not in fields.get("types", "").split():
        return None
    uris, suites, components = (tuple(fields.get(key, "").split()) for key in ("uris", "suites", "components"))
    return Source(uris, suites, components, fields)


def parse_list(text: str) -> list[Source]:
    """The sources of a sources.list file, one a line."""
    form = re.compile(r"deb\s+(?:\[([^]]*)]\s+)?([^\s[]+)\s+(\S+)((?:\s+[^\s#]+)*)\s*(?:#.*)?")
    matches = (form.fullmatch(line.strip()) for line in text.splitlines())
    return [
        Source((m[2],), (m[3],), tuple(m[4].split()), dict(_option(word) for word in (m[1] or "").split()))
        for m in matches
        if m is not None
    ]


def _option(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name.rstrip("+-").lower(), value.replace(",", " ")


def apt_path(name: str) -> Path:
    """A path out of the machine's own apt configuration."""
    out = shlex.split(run(("apt-config", "shell", "P", name), QUERY_SECONDS))
    return Path(out[0].partition("=")[2]) if out else Path("/dev/null")


def machine_sources() -> list[Source]:
    """The machine's sources of Debian's own packages, the likeliest first."""
    main, parts = apt_path("Dir::Etc::sourcelist/f"), apt_path("Dir::Etc::sourceparts/d")
    sources: list[Source] = []
    for path in [main, *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]:
        with contextlib.suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
            sources += parse_deb822(text) if path.suffix == ".sources" else parse_list(text)
    sources = [source for source in sources if "main" in source.components]
    if not sources:
        raise FetchError(f"no Debian package source: neither {main} nor {parts} has one with the component main")
    return sorted((s for s in sources if rank(s) < 2), key=rank) or sources


def rank(source: Source) -> int:
    """0: surely Debian's archive; 1: another archive of Debian, such as the one for security; 2: others."""
    tails = {urlsplit(uri).path.rstrip("/").rpartition("/")[2] for uri in source.uris}
    if "debian-archive-keyring" not in source.options.get("signed-by", "") and not tails & _DEBIAN_TAILS:
        return 2
    return int(any("security" in suite or "/" in suite for suite in source.suites))


def spell(source: Source, suites: Sequence[str], arches: Sequence[str]) -> str:
    """A stanza of a *.sources file for the same addresses and keys."""
    kept = [(name, source.options[name]) for name in ("signed-by", "check-valid-until") if name in source.options]
    fields = [
        ("Types", "deb"),
        ("URIs", " ".join(source.uris)),
        ("Suites", " ".join(suites)),
        ("Components", "main"),
        ("Architectures", " ".join(arches)),
        ("Targets", "Packages"),
        *kept,
    ]
    return "".join(f"{name}: {value}\n" for name, value in fields) + "\n"


# Programs


def run(
    argv: Sequence[str],
    seconds: float,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    lock: int = -1,
) -> str:
    """A program's standard output. Raises FetchError unless it exits with 0 in time; nothing of it runs on after that."""
    what = shlex.join(argv[:3]) + (" ..." if len(argv) > 3 else "")
    try:
        # A program that outlives us keeps the lock, so that nobody else works beside it.
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            env={**os.environ, "LC_ALL": "C", **(env or {})}, cwd=cwd, start_new_session=True,
            pass_fds=() if lock < 0 else (lock,),
        )  # fmt: skip
    except OSError as error:
        need = "; kernels are fetched with the apt and dpkg of a Debian machine" if error.errno == 2 else ""
        raise FetchError(f"`{what}` cannot start: {error.strerror}{need}") from error
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"`{what}` is not done after {seconds:g} s") from error
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode != 0:
        raise FetchError(f"`{what}` exits with {child.returncode}:\n{last_words(err or out)}")
    return out


def last_words(text: str) -> str:
    """The end of what a program said, its errors if it marks them as apt does, without passwords."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if re.match(r"(E|W|dpkg.*error)\b", line)] or lines
    return "\n".join(f"  {re.sub(r'//[^/@ ]+@', '//', line)}" for line in lines[-LAST_WORDS:]) or "  (no message)"


def order(version: str) -> tuple[object, ...]:
    """A key that sorts Debian versions as dpkg does. deb-version(7), "Sorting algorithm"."""
    epoch, colon, rest = version.partition(":")
    upstream, dash, revision = (rest if colon else version).rpartition("-")
    if not dash:
        upstream, revision = revision, "0"
    return int(epoch) if colon and epoch.isdigit() else 0, _pieces(upstream), _pieces(revision)


def _pieces(text: str) -> list[tuple[list[int], int]]:
    """Text and number in turn; `~` sorts before the end, letters before everything else."""
    return [
        ([-1 if c == "~" else ord(c) if c.isalpha() else ord(c) + 256 for c in letters] + [0], int(digits or 0))
        for letters, digits in re.findall(r"([^0-9]*)([0-9]*)", text)
    ]


# Apt


@dataclass(frozen=True, slots=True)
class Apt:
    """Apt with a state of its own in the folder `root`; `lock` is the descriptor that its programs hold on to."""

    root: Path
    lock: int

    def set_up(self, sources: str, arches: Sequence[str]) -> None:
        """Writes apt.conf and the sources; what the machine says of proxies and certificates stays in force."""
        for name in ("sources", "pins", "state/lists/partial", "cache/archives/partial"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "none").write_bytes(b"")
        (self.root / "sources/callconv.sources").write_text(sources, encoding="utf-8")
        paths = {
            "Etc::sourcelist": "none", "Etc::sourceparts": "sources", "Etc::preferences": "none",
            "Etc::preferencesparts": "pins", "State": "state", "Cache": "cache",
        }  # fmt: skip
        lines = [f'Dir::{name} "{self.root / path}";' for name, path in paths.items()]
        lines += [f'APT::Architectures:: "{arch}";' for arch in arches]
        (self.root / "apt.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def run(self, *argv: str, seconds: float = QUERY_SECONDS, cwd: Path | None = None) -> str:
        """One of apt's programs, in this state."""
        argv += tuple(word for option in _APT_OPTIONS for word in ("-o", option))
        return run(argv, seconds, env={"APT_CONFIG": str(self.root / "apt.conf")}, cwd=cwd, lock=self.lock)

    def update(self) -> None:
        """Gets the package lists, signatures checked."""
        room(self.root, LISTS_BYTES, "package lists")
        self.run("apt-get", "-q", "update", seconds=UPDATE_SECONDS)

    def show(self, names: Iterable[str]) -> list[Package]:
        """What the lists have under these names, every version."""
        names = tuple(names)
        text = self.run("apt-cache", "show", *names) if names else ""
        return [package for block in text.split("\n\n") if (package := _package(block)) is not None]

    def download(self, packages: Sequence[Package], folder: Path) -> list[Path]:
        """Gets packages into `folder`, checked by apt and once more here."""
        room(folder, UNPACKED * sum(package.size for package in packages), "packages")
        names = [f"{package.name}:{package.arch}={package.version}" for package in packages]
        self.run("apt-get", "-q", "download", *names, seconds=DOWNLOAD_SECONDS, cwd=folder)
        found = {sha256(path): path for path in folder.glob("*.deb")}
        missing = [package.name for package in packages if package.sha256 not in found]
        if missing:
            raise FetchError(f"`apt-get download` leaves no file with the listed SHA-256 for {', '.join(missing)}")
        return [found[package.sha256] for package in packages]

    def plan(self, wanted: Sequence[str], status: Path) -> list[Package]:
        """The packages that installing the wanted ones would add to a machine whose dpkg status is this."""
        options = ("-o", f"Dir::State::status={status}", "--no-install-recommends")
        out = self.run("apt-get", "-s", *options, "install", *wanted)
        found = re.findall(r"^Inst (\S+) (?:\[\S*] )?\((\S+) .*\[(\w+)]\)", out, re.MULTILINE)
        names = [f"{name.partition(':')[0]}:{arch}={version}" for name, version, arch in found if name not in LEFT_OUT]
        return self.show(names)


def _package(block: str) -> Package | None:
    fields = {match[1]: match[2] for match in re.finditer(r"^([A-Za-z0-9-]+): (.*)$", block, re.MULTILINE)}
    try:
        return Package(
            fields["Package"], fields["Version"], fields["Architecture"], int(fields["Size"]), fields["SHA256"]
        )
    except (KeyError, ValueError):
        return None


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def room(folder: Path, needed: int, what: str) -> None:
    """Raises FetchError where `needed` bytes are not free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchError(f"not enough disk in {folder}: {what} need {needed // 10**6} MB, {free // 10**6} MB are free")
