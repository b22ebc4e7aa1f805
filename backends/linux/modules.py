"""Kfuncs of cases in a running kernel: a module made for it, loaded once for all that is known by then."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from errno import ENOEXEC
from pathlib import Path
from typing import Final

from backends.calls import Body
from backends.linux import bpf
from backends.linux.ask import KfuncIds
from backends.linux.kmod import (
    MAX_KFUNCS,
    KernelFacts,
    Module,
    ModuleError,
    build,
    c_flags,
    facts_from_btf,
    kfunc_symbol,
    vermagic_in,
)
from backends.linux.syscalls import Address, Buf, Give, Kernel, ResultOf, Syscall, read_file, release_of
from backends.linux.tools import CompileError, Tool, compile_object

FORCE: Final = 1 | 2  # include/uapi/linux/module.h, MODULE_INIT_IGNORE_MODVERSIONS, MODULE_INIT_IGNORE_VERMAGIC
NAME: Final = "callconv_kfuncs"
MAX_BTF: Final = 1 << 14  # ids of BTF objects in a kernel: vmlinux, its modules, and what programs loaded
_FIRST_INDEX: Final = 1  # in fd_array: 0 stands for the kernel's own kfuncs


class UnavailableError(Exception):
    """There is no such kernel here, or it lacks what a program needs; the message says what, and how it may be had."""


class NoKfuncs:
    """A kernel that gets no module: the one under this process."""

    def ids(self, bodies: Iterable[Body]) -> KfuncIds:
        """Never."""
        raise UnavailableError("kfuncs of cases need a module, which this machine's own kernel does not get")

    def addresses(self, bodies: Iterable[Body]) -> Mapping[int, str]:
        """None."""
        return {}

    def plain(self, text: str, bodies: Iterable[Body]) -> str:
        """As it is."""
        return text


class ModuleLoader:
    """Makes modules for one running kernel and puts them into it."""

    def __init__(self, kernel: Kernel, compiler: Tool, cache: Path) -> None:
        self.kernel = kernel
        self._compiler, self._cache = compiler, cache
        self._facts: KernelFacts | None = None

    def compile(self, source: str) -> bytes:
        """The object of a module's source. Raises CompileError."""
        return compile_object(self._compiler, source, c_flags(self.kernel.arch))

    def load(self, make: Callable[[KernelFacts], Module]) -> Module:
        """The module as it was taken, made again where the kernel insists on its vermagic. Raises ModuleError, CompileError, OSError."""
        module = make(self.facts())
        if insert(self.kernel, module) == -ENOEXEC:  # it has just said which
            words = vermagic_in(kernel_log(self.kernel)) or ""
            module = make(replace(self.facts(), vermagic=words))
            insert(self.kernel, module, forced=False)
        return module

    def facts(self) -> KernelFacts:
        """Of the running kernel; reading its BTF takes a second, so that they are kept by its build id."""
        if self._facts is None:
            build_id = hashlib.sha256(read_file(self.kernel, "/sys/kernel/notes")).hexdigest()[:16]
            path = self._cache / "facts" / f"{build_id}.json"
            try:
                self._facts = KernelFacts.from_json(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, TypeError):
                blob = read_file(self.kernel, "/sys/kernel/btf/vmlinux")
                self._facts = facts_from_btf(blob, release_of(self.kernel))
                _keep(path, self._facts.to_json())
        return self._facts


class LoadedKfuncs:
    """A guest's kfuncs. `announced` may grow until the first program with kfuncs comes; more of them are one more module."""

    def __init__(self, loader: ModuleLoader, release: str, announced: Iterable[Body]) -> None:
        self._loader, self._kernel, self._release = loader, loader.kernel, release
        self._announced = announced
        self._modules = 0
        self._ids: dict[Body, tuple[int, int]] = {}  # BTF fd and type id
        self._addresses: dict[Body, int] = {}
        self._refused: dict[Body, str] = {}

    def ids(self, bodies: Iterable[Body]) -> KfuncIds:
        """How a program calls them. Raises UnavailableError where no module could be made of one."""
        bodies = list(bodies)
        if not all(body in self._ids or body in self._refused for body in bodies):
            self._load([body for body in dict.fromkeys([*self._announced, *bodies]) if body not in self._ids])
        for body in bodies:
            if body in self._refused:
                raise UnavailableError(self._refused[body])
        fds = list(dict.fromkeys(self._ids[body][0] for body in bodies))
        places = {
            body.proto: (fds.index(fd) + _FIRST_INDEX, number) for body in bodies for fd, number in [self._ids[body]]
        }
        return KfuncIds(tuple(fds), places)

    def addresses(self, bodies: Iterable[Body]) -> Mapping[int, str]:
        """The case's name of each, by its address."""
        return {self._addresses[body]: body.proto.name for body in bodies}

    def plain(self, text: str, bodies: Iterable[Body]) -> str:
        """A log with the names that the case gives."""
        for body in bodies:
            text = text.replace(kfunc_symbol(body), body.proto.name)
        return text

    def _load(self, bodies: list[Body]) -> None:
        try:
            for at in range(0, len(bodies), MAX_KFUNCS):
                self._load_module(bodies[at : at + MAX_KFUNCS])
        except (ModuleError, CompileError, OSError) as error:
            for body in bodies:
                self._refused[body] = f"no module with the kfuncs can be made for Linux {self._release}: {error}"

    def _load_module(self, bodies: list[Body]) -> None:
        self._modules += 1
        name = f"{NAME}{self._modules}"
        arch, compiler = self._kernel.arch, self._loader.compile
        module = self._loader.load(lambda facts: build(compiler, arch, facts, bodies, name))
        _, fd = btf_of(self._kernel, name)
        text = int(read_file(self._kernel, f"/sys/module/{name}/sections/.text").decode(), 16)
        for body in bodies:
            symbol = kfunc_symbol(body)
            self._ids[body] = fd, module.ids[symbol]
            self._addresses[body] = text + module.offsets[symbol]


def _keep(path: Path, text: str) -> None:
    """Writes a file at once or not at all; a cache that cannot be written is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        return


def kernel_log(kernel: Kernel) -> str:
    """What the kernel has logged, as dmesg shows it."""
    read_all = Syscall("syslog", (3, Address(0), 1 << 18), (Buf(size=1 << 18, give=Give.TRIMMED),))
    return kernel.batch([read_all])[0].bufs[0].decode(errors="replace")


def insert(kernel: Kernel, module: Module, *, forced: bool = True) -> int:
    """Loads a module, whatever kernel it says it is for if `forced`; 0, or -ENOEXEC. Raises ModuleError for any other errno."""
    made, written, loaded, _ = kernel.batch(
        [
            Syscall("memfd_create", (Address(0), 0), (Buf(b"module\0"),)),
            Syscall("write", (ResultOf(0), Address(0), len(module.image)), (Buf(module.image),)),
            Syscall("finit_module", (ResultOf(0), Address(0), FORCE if forced else 0), (Buf(b"\0"),)),
            Syscall("close", (ResultOf(0),)),
        ]
    )
    if made.ret < 0 or written.ret != len(module.image):
        raise ModuleError(f"the module cannot be written to memory: {min(made.ret, written.ret)}")
    if loaded.ret < 0 and not (forced and loaded.ret == -ENOEXEC):
        raise ModuleError(f"the kernel refuses the module with errno {-loaded.ret} ({os.strerror(-loaded.ret)})")
    return loaded.ret


def btf_of(kernel: Kernel, name: str) -> tuple[int, int]:
    """(id, descriptor) of a module's BTF. Raises ModuleError where the kernel has none."""
    number = 0
    for _ in range(MAX_BTF):
        done = kernel.batch([bpf.next_btf_id(number)])[0]
        if done.ret < 0:
            break
        number = int.from_bytes(done.bufs[0].ljust(12, b"\0")[4:8], "little")
        fd = kernel.batch([bpf.btf_fd(number)])[0].ret
        if fd < 0:
            continue
        info = kernel.batch([bpf.btf_info(fd)])[0]
        if info.ret == 0 and info.bufs[2].decode() == name:
            return number, fd
        kernel.batch([Syscall("close", (fd,))])
    raise ModuleError(f"the kernel has no BTF of the module {name}: it was built without CONFIG_DEBUG_INFO_BTF_MODULES")
