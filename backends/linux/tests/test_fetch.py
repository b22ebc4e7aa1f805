"""Fetching, with programs that only look like apt and dpkg; nothing here uses a network."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from backends.linux import apt, tools
from backends.linux import fetch as fetching
from backends.linux.apt import FetchError, Package, order, parse_deb822, parse_list
from backends.linux.fetch import choose, fetch, kernels, verify
from backends.linux.tools import CompileError, Tool, compile_object, find_compiler, find_qemu, link_static

IMAGE = b"an image"
DEB = b"a package"
DEB_SHA = hashlib.sha256(DEB).hexdigest()

APT_GET = """
case "$*" in
*update*) echo "$@" >> WORLD/log; . WORLD/update ;;
*download*) echo "$@" >> WORLD/log; cp WORLD/deb got.deb ;;
*install*) cat WORLD/plan ;;
esac
"""
APT_CACHE = """
case "$*" in
search*) sed -n 's/^Package: //p' WORLD/kernels ;;
*linux-binary*) cat WORLD/kernels ;;
*) cat WORLD/tools ;;
esac
"""
APT_CONFIG = """
case "$3" in
*sourcelist*) echo "P='WORLD/sources.list'" ;;
*sourceparts*) echo "P='WORLD/parts'" ;;
*status*) echo "P='WORLD/status'" ;;
esac
"""
DPKG = """
case "$1" in
--print-architecture) echo amd64 ;;
-x) mkdir -p "$3"; cp -r WORLD/tree/. "$3" ;;
esac
"""
# The first 20 bytes of an ELF file for x86-64: 64 bits, little-endian, e_machine 62.
GCC = r"""
case "$*" in *-dumpmachine*) echo x86_64-linux-gnu; exit ;; esac
while [ "$1" != -o ]; do shift; done
printf '\177ELF\002\001\001\0\0\0\0\0\0\0\0\0\002\0\076\0' > "$2"
"""
QEMU = "echo Accelerators: tcg"
SOURCES = "deb [signed-by=/k/debian-archive-keyring.gpg] http://user:secret@mirror.invalid/debian bookworm main\n"


def stanza(name: str, version: str, arch: str, sha: str = DEB_SHA) -> str:
    return f"Package: {name}\nVersion: {version}\nArchitecture: {arch}\nSize: {len(DEB)}\nSHA256: {sha}\n\n"


KERNEL = stanza("linux-binary-7.2.13+deb14-cloud-amd64", "7.2.13-1", "amd64")


@dataclass(frozen=True, slots=True)
class World:
    root: Path
    cache: Path

    def program(self, name: str, body: str, at: str = "bin") -> Path:
        path = self.root / at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{body.replace('WORLD', str(self.root))}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def log(self) -> list[str]:
        path = self.root / "log"
        return [line.split()[1] for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path / "world", tmp_path / "cache")
    (made.root / "tree/usr/lib/modules/7.2").mkdir(parents=True)
    (made.root / "tree/usr/lib/modules/7.2/vmlinuz").write_bytes(IMAGE)
    (made.root / "parts").mkdir()
    (made.root / "deb").write_bytes(DEB)
    for name, text in {"sources.list": SOURCES, "kernels": KERNEL, "update": "", "status": "", "plan": ""}.items():
        (made.root / name).write_text(text, encoding="utf-8")
    programs = {"apt-get": APT_GET, "apt-cache": APT_CACHE, "apt-config": APT_CONFIG, "dpkg": DPKG, "gcc": GCC}
    for name, body in {**programs, "qemu-system-x86_64": QEMU}.items():
        made.program(name, body)
    monkeypatch.setenv("PATH", str(made.root / "bin"))
    monkeypatch.delenv("CC", raising=False)
    find_compiler.cache_clear()
    yield made
    find_compiler.cache_clear()


def refused(world: World, suite: str = "sid") -> str:
    with pytest.raises(FetchError) as caught:
        fetch(world.cache, suite, ["x86_64"])
    assert kernels(world.cache) == []
    assert list(world.cache.glob("*/.new-*")) == []
    return str(caught.value)


# Sources


def test_deb822() -> None:
    text = """# Types: deb
Types: deb deb-src
URIs: http://a.invalid/debian
 http://b.invalid/debian
# a comment inside
Suites: trixie trixie-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQ
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.invalid
Suites: s
Components: main


types: deb-src
uris: http://src.invalid
suites: s
components: main
"""
    (source,) = parse_deb822(text)
    assert source.uris == ("http://a.invalid/debian", "http://b.invalid/debian")
    assert source.suites == ("trixie", "trixie-updates")
    assert source.components == ("main", "contrib")
    assert source.options["signed-by"].splitlines()[1:3] == [" .", " mQ"]
    # The key goes into our own source as it stands, so it must be read again as the same key.
    (again,) = parse_deb822(apt.spell(source, ["sid"], ["amd64", "arm64"]))
    assert again.suites == ("sid",)
    assert again.options["architectures"] == "amd64 arm64"
    assert again.options["signed-by"] == source.options["signed-by"]


def test_one_line_sources() -> None:
    text = """# deb http://comment.invalid/debian sid main
deb http://a.invalid/debian bookworm main contrib # why
deb-src http://src.invalid/debian bookworm main
deb [ arch=amd64,i386 signed-by=/k/key.gpg ] http://b.invalid/debian/ sid main
deb cdrom:[Debian 12 - Official]/ bookworm main
deb http://flat.invalid/ ./
"""
    plain, keyed, flat = parse_list(text)
    assert (plain.uris, plain.suites, plain.components) == (
        ("http://a.invalid/debian",),
        ("bookworm",),
        ("main", "contrib"),
    )
    assert plain.options == {}
    assert keyed.options == {"arch": "amd64 i386", "signed-by": "/k/key.gpg"}
    assert (flat.suites, flat.components) == (("./",), ())


def test_debians_archive_comes_first_and_others_are_left_out(world: World) -> None:
    (world.root / "sources.list").write_text(
        "deb http://vendor.invalid/12/prod bookworm main\n"
        "deb http://m.invalid/debian-security bookworm-security main\n"
        "deb http://m.invalid/debian bookworm main\n"
        "deb http://m.invalid/debian bookworm contrib\n",
        encoding="utf-8",
    )
    found = [(source.uris[0], source.suites[0]) for source in apt.machine_sources()]
    assert found == [
        ("http://m.invalid/debian", "bookworm"),
        ("http://m.invalid/debian-security", "bookworm-security"),
    ]


# Versions


def test_versions_sort_as_dpkg_sorts_them() -> None:
    # deb-version(7), "Sorting algorithm".
    rising = [
        "1.0~~", "1.0~~a", "1.0~", "1.0", "1.0-1", "1.0a", "1.0+b", "1.0.1", "1.2", "1.10", "7.2~rc7-1~exp1", "7.2",
        "7.2-1", "7.2.6-1~bpo13+1", "7.2.6-1", "7.2.6-1+b1", "7.2.13-1", "7.10.1-1", "1:0.1",
    ]  # fmt: skip
    assert all(order(lower) < order(higher) for lower, higher in pairwise(rising))
    assert order("1.0") == order("1.0-0")


def test_the_newest_kernel_is_chosen() -> None:
    def package(abi: str, version: str, arch: str = "amd64") -> Package:
        return Package(f"linux-binary-{abi}", version, arch, 1, "")

    packages = [
        package("7.1.13+deb14-cloud-amd64", "7.1.13-1"),
        package("7.2.9+deb14-cloud-amd64", "7.2.9-1"),
        package("7.2.13+deb14-cloud-amd64", "7.2.13-1"),
        package("7.4+deb14-amd64", "7.4-1"),
        package("7.5+deb14-cloud-arm64", "7.2~rc7-1", "arm64"),
    ]
    chosen = choose(packages, "x86_64")
    assert chosen is not None
    assert chosen.version == "7.2.13-1"
    assert choose(packages, "arm64") is None


# The whole way


def test_a_kernel_is_fetched_once(world: World) -> None:
    (image,) = fetch(world.cache, "sid", ["x86_64"])
    assert (image.arch, image.version, image.suite, image.sha256) == ("x86_64", "7.2.13-1", "sid", DEB_SHA)
    assert image.path == world.cache.resolve() / "kernels" / DEB_SHA[:16] / "vmlinuz"
    assert image.path.read_bytes() == IMAGE
    assert image.image_sha256 == hashlib.sha256(IMAGE).hexdigest()
    assert verify(image)
    assert sorted(path.name for path in image.path.parent.iterdir()) == ["kernel.json", "vmlinuz"]
    said: list[str] = []
    assert fetch(world.cache, "sid", ["x86_64"], said.append) == [image]
    assert kernels(world.cache.resolve()) == [image]
    assert world.log() == ["update", "download", "update"]
    assert "linux-binary-7.2.13+deb14-cloud-amd64 7.2.13-1: already there" in said


def test_a_changed_image_is_fetched_again(world: World) -> None:
    (image,) = fetch(world.cache, "sid", ["x86_64"])
    image.path.write_bytes(IMAGE[::-1])
    assert not verify(image)
    assert fetch(world.cache, "sid", ["x86_64"]) == [image]
    assert verify(image)


def test_without_a_network_the_cache_serves(world: World) -> None:
    images = fetch(world.cache, "sid", ["x86_64"])
    (world.root / "update").write_text("echo 'E: no route' >&2; exit 100", encoding="utf-8")
    said: list[str] = []
    assert fetch(world.cache, "sid", ["x86_64"], said.append) == images
    assert any("no route" in text and "keeping to the kernels" in text for text in said)
    with pytest.raises(FetchError, match="'forky'"):
        fetch(world.cache, "forky", ["x86_64"])


def test_qemu_is_fetched_if_there_is_none(world: World) -> None:
    (world.root / "bin/qemu-system-x86_64").unlink()
    world.program("qemu-system-x86_64", QEMU, "tree/usr/bin")
    (world.root / "tree/usr/share/seabios").mkdir(parents=True)
    (world.root / "tree/usr/lib/x86_64-linux-gnu").mkdir(parents=True)
    (world.root / "tree/usr/lib/x86_64-linux-gnu/libglib-2.0.so.0").write_bytes(b"")
    (world.root / "plan").write_text("Inst qemu-system-x86 (1:7.2+x Debian:12/stable [amd64])\n", encoding="utf-8")
    (world.root / "tools").write_text(stanza("qemu-system-x86", "1:7.2+x", "amd64"), encoding="utf-8")
    fetch(world.cache, "sid", ["x86_64"])
    tool = find_qemu(world.cache, "x86_64")
    root = world.cache / "qemu/x86_64/usr"
    assert tool is not None
    assert tool.argv == (str(root / "bin/qemu-system-x86_64"), "-L", str(root / "share/seabios"))
    assert tool.env["LD_LIBRARY_PATH"].split(":")[0] == str(root / "lib/x86_64-linux-gnu")
    assert world.log() == ["update", "download", "update", "download"]
    assert [path.name for path in (world.cache / "qemu").iterdir()] == ["x86_64"]


def test_qemu_that_does_not_run_is_not_kept(world: World) -> None:
    (world.root / "bin/qemu-system-x86_64").unlink()
    world.program("qemu-system-x86_64", "echo no such symbol >&2; exit 127", "tree/usr/bin")
    (world.root / "plan").write_text("Inst qemu-system-x86 (1:7.2+x Debian:12/stable [amd64])\n", encoding="utf-8")
    (world.root / "tools").write_text(stanza("qemu-system-x86", "1:7.2+x", "amd64"), encoding="utf-8")
    with pytest.raises(FetchError, match=r"(?s)does not run when extracted.*exits with 127:\n  no such symbol"):
        fetch(world.cache, "sid", ["x86_64"])
    assert list((world.cache / "qemu").iterdir()) == []
    assert len(kernels(world.cache)) == 1


def test_what_an_interrupted_run_left_is_removed_and_never_counts(world: World) -> None:
    (image,) = fetch(world.cache, "sid", ["x86_64"])
    left = world.cache / "kernels/.new-x"
    shutil.move(image.path.parent, left / "made")
    assert kernels(world.cache) == []
    assert fetch(world.cache, "sid", ["x86_64"]) == [image]
    assert not left.exists()


def test_one_fetch_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "LOCK_SECONDS", 0.05)
    world.cache.mkdir()
    said: list[str] = []
    with (world.cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="another fetch holds"):
            fetch(world.cache, "sid", ["x86_64"], said.append)
    assert said == [f"waiting for another fetch into {world.cache.resolve()}"]


# Errors


def test_unknown_suite(world: World) -> None:
    text = "echo \"W: x\nE: The repository 'http://u:pw@h.invalid sid Release' does not have a Release file.\" >&2; exit 100"
    (world.root / "update").write_text(text, encoding="utf-8")
    message = refused(world, "nonsense")
    assert message.startswith("no kernels from the suite 'nonsense' at this machine's package sources:\n")
    assert "`apt-get -q update ...` exits with 100" in message
    assert "E: The repository 'http://h.invalid sid Release' does not have a Release file." in message
    assert "pw" not in message


def test_no_apt(world: World) -> None:
    (world.root / "bin/apt-config").unlink()
    assert "cannot start: No such file or directory; kernels are fetched with the apt and dpkg" in refused(world)


def test_no_debian_source(world: World) -> None:
    (world.root / "sources.list").write_text("deb http://x.invalid/a stable tools\n", encoding="utf-8")
    assert "has one with the component main" in refused(world)


def test_apt_that_hangs_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "UPDATE_SECONDS", 0.2)
    (world.root / "update").write_text("sleep 30 & sleep 30", encoding="utf-8")
    begun = time.monotonic()
    assert "`apt-get -q update ...` is not done after 0.2 s" in refused(world)
    assert time.monotonic() - begun < 5


def test_only_old_kernels(world: World) -> None:
    name = "linux-binary-7.1.13+deb14-cloud-amd64"
    (world.root / "kernels").write_text(stanza(name, "7.1.13-1", "amd64"), encoding="utf-8")
    assert "no cloud kernel 7.2 or newer for x86_64; the newest there: 7.1.13-1" in refused(world)


def test_a_package_with_another_hash(world: World) -> None:
    (world.root / "deb").write_bytes(DEB[::-1])
    assert "no file with the listed SHA-256 for linux-binary-7.2.13+deb14-cloud-amd64" in refused(world)


def test_a_package_without_an_image(world: World) -> None:
    (world.root / "tree/usr/lib/modules/7.2/vmlinuz").unlink()
    assert "has 0 files vmlinuz*, 1 expected" in refused(world)


def test_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(world.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=7_000_000))
    assert "package lists need 160 MB, 7 MB are free" in refused(world)


def test_words_that_are_no_suite_or_architecture(world: World) -> None:
    assert "suite 'sid\\nSigned-By: x'; expected" in refused(world, "sid\nSigned-By: x")
    with pytest.raises(FetchError, match="architecture 'riscv64'; expected x86_64 or arm64"):
        fetch(world.cache, "sid", ["riscv64"])
    assert world.log() == []


# The cache


def test_damaged_entries_are_left_out(world: World) -> None:
    (image,) = fetch(world.cache, "sid", ["x86_64"])
    good = json.loads((image.path.parent / "kernel.json").read_text(encoding="utf-8"))
    texts = ["", "{", "[]", "3", "{}"]
    texts += [json.dumps({key: value for key, value in good.items() if key != left_out}) for left_out in good]
    texts += [json.dumps({**good, key: 5}) for key in good if key != "image_size"]
    texts += [json.dumps({**good, **bad}) for bad in ({"arch": "vax"}, {"image_size": 1}, {"path": "x"}, {"more": "x"})]
    for text in texts:
        (image.path.parent / "kernel.json").write_text(text, encoding="utf-8")
        assert kernels(world.cache) == [], text
    (image.path.parent / "kernel.json").write_text(json.dumps(good), encoding="utf-8")
    assert kernels(world.cache) == [replace(image, path=world.cache / image.path.relative_to(world.cache.resolve()))]
    shutil.move(image.path.parent, image.path.parent.with_name("0" * 16))
    assert kernels(world.cache) == []


def test_the_newest_comes_first(world: World) -> None:
    for version, arch in (("7.2.9-1", "arm64"), ("7.2.9-1", "x86_64"), ("7.10-1", "x86_64"), ("7.2.13-1", "x86_64")):
        sha = hashlib.sha256(f"{version} {arch}".encode()).hexdigest()
        folder = world.cache / "kernels" / sha[:16]
        folder.mkdir(parents=True)
        (folder / "vmlinuz").write_bytes(IMAGE)
        record = {"arch": arch, "package": "p", "version": version, "suite": "sid", "sha256": sha, "path": "vmlinuz"}
        text = json.dumps({**record, "image_sha256": "0", "image_size": len(IMAGE)})
        (folder / "kernel.json").write_text(text, encoding="utf-8")
    found = [(image.arch, image.version) for image in kernels(world.cache)]
    assert found == [("x86_64", "7.10-1"), ("x86_64", "7.2.13-1"), ("x86_64", "7.2.9-1"), ("arm64", "7.2.9-1")]
    assert not verify(kernels(world.cache)[0])


def test_an_empty_cache(tmp_path: Path) -> None:
    assert kernels(tmp_path / "nowhere") == []


# Tools


def test_no_compiler(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(world.root / "nothing"))
    assert find_compiler(world.cache, "x86_64") is None
    assert find_compiler(world.cache, "arm64") is None


def test_a_compiler_counts_only_if_it_works_for_the_architecture(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_compiler(world.cache, "x86_64") == Tool((str(world.root / "bin/gcc"),))
    assert find_compiler(world.cache, "arm64") is None
    world.program("aarch64-linux-gnu-gcc", GCC)  # makes x86-64 code, whatever its name says
    find_compiler.cache_clear()
    assert find_compiler(world.cache, "arm64") is None
    chosen = world.program("mycc", GCC)
    monkeypatch.setenv("CC", f"{chosen} -m64")
    find_compiler.cache_clear()
    assert find_compiler(world.cache, "x86_64") == Tool((str(chosen), "-m64"))


def test_the_extracted_compiler_is_the_last_choice(world: World) -> None:
    program = world.program("x86_64-linux-gnu-gcc", GCC, "../cache/gcc/x86_64/usr/bin").resolve()
    cache = world.cache.resolve()
    assert find_compiler(cache, "x86_64") == Tool((str(world.root / "bin/gcc"),))
    (world.root / "bin/gcc").unlink()
    find_compiler.cache_clear()
    tool = find_compiler(cache, "x86_64")
    assert tool is not None
    assert tool.argv == (str(program), f"-B{program.parent}/x86_64-linux-gnu-", f"-B{program.parent}/")


def test_compiler_messages(world: World) -> None:
    tool = Tool((str(world.program("cc", "echo '<stdin>:1: error: expected ;' >&2; exit 1")),))
    with pytest.raises(CompileError, match=r"(?s)cc.*exits with 1:\n<stdin>:1: error: expected ;"):
        compile_object(tool, "x", ["-O2"])
    with pytest.raises(CompileError, match="cannot start: No such file or directory"):
        link_static(Tool(("/nonexistent/cc",)), "x", [])
    with pytest.raises(CompileError, match="succeeds and writes no output"):
        link_static(Tool((str(world.program("cc", "")),)), "x", [])


def test_a_compiler_that_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "COMPILE_SECONDS", 0.1)
    with pytest.raises(CompileError, match=r"is not done after 0\.1 s"):
        link_static(Tool((str(world.program("cc", "exec sleep 30")),)), "x", [])


def test_qemu_given_or_on_path(world: World) -> None:
    assert find_qemu(world.cache, "x86_64") == Tool((str(world.root / "bin/qemu-system-x86_64"),))
    assert find_qemu(world.cache, "arm64") is None
    mine = world.program("my-qemu", QEMU, "elsewhere")
    assert find_qemu(world.cache, "arm64", str(mine)) == Tool((str(mine),))
    assert find_qemu(world.cache, "x86_64", str(world.root / "nothing")) is None


def test_environment_of_a_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    assert Tool(("x",), {"LD_LIBRARY_PATH": "/l"}).environ() == {**os.environ, "LD_LIBRARY_PATH": "/l"}
