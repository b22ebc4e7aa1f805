"""Trampolines of a running kernel: made for functions of a module, read back from /proc/kcore, moved to where the bench calls them.

Linux kernel/bpf/trampoline.c (the symbol's name), fs/proc/kcore.c; the agent's kernel is the guest's, whose memory is nobody's secret.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from errno import EINVAL
from typing import Final

from backends.linux import bpf, structmod
from backends.linux.ask import AttachTo, last_words, refused
from backends.linux.kmod import Module, ModuleError
from backends.linux.modules import ModuleLoader, UnavailableError, btf_of
from backends.linux.natives import ENTRY_BYTES, MoveError, Native, uses_of, whole_image
from backends.linux.syscalls import Address, Buf, Give, Kernel, ResultOf, Syscall, close, open_file, read_file
from backends.linux.tools import CompileError
from backends.linux.tracedprog import load
from backends.linux.tracemod import build, why_untold
from backends.trampoline import HOOKS, PAGE_BYTES, Kind, RefusedError, Target
from harness.isa import btf
from harness.isa.ctypes import CInt
from harness.isa.proto import Proto

# What is attached at a time, so that descriptors do not run out: requests, and programs of them.
MAX_AT_ONCE: Final = 192
MAX_PROGRAMS: Final = 512
GET_FUNC_IP: Final = 173  # include/uapi/linux/bpf.h, enum bpf_func_id
NAME: Final = "callconv_traced"
_CALL, _MOV, _MOV_R0, _EXIT = 0x85, 0xBF, 0xB7, 0x95  # RFC 9669
_KFUNC: Final = 2  # BPF_PSEUDO_KFUNC_CALL
_OF_KERNEL: Final = (
    1 << 31
)  # in a key, which has a BTF id below, and above 32 bits the id of the BTF object or BPF program


@dataclass(frozen=True, slots=True)
class Request:
    """A traced function and its programs in the order of attachment."""

    proto: Proto
    kinds: tuple[Kind, ...]
    func_ip: bool = False
    target: Target = Target.KERNEL
    tail_call: bool = False
    cookies: tuple[int, ...] = ()  # of the programs, where some has one

    @property
    def programs(self) -> tuple[tuple[Kind, int], ...]:
        """Kind and cookie of each."""
        return tuple(zip(self.kinds, self.cookies or (0,) * len(self.kinds), strict=True))


Made = Native | RefusedError


@dataclass(frozen=True, slots=True)
class _Goal:
    """What programs are attached to. `fd`: of its BTF or BPF program; `image`: the trampoline's symbol.

    Addresses are 0 where its own symbol tells them.
    """

    name: str
    fd: int
    btf_id: int
    image: str
    function: int = 0
    body: int = 0
    value_type: int = 0  # the BTF id of a struct's value in a map


def _any_btf() -> bytes:
    types = btf.Btf()
    types.type_id(CInt("int", 4, True))
    return types.blob()


_ANY_BTF: Final = _any_btf()


def _image_of(key: int) -> str:
    return f"bpf_trampoline_{key}"


_NO_MODULE: Final = "traced functions need a module, which this machine's own kernel does not get"


class NoTrampolines:
    """A kernel that gets no module: the one under this process."""

    def made(self, request: Request) -> Made:
        """Never."""
        raise UnavailableError(_NO_MODULE)

    def target(self, proto: Proto) -> AttachTo:
        """Never."""
        raise UnavailableError(_NO_MODULE)


class Attacher:
    """Makes what is asked for in one kernel. What is announced before the first question is made in one go."""

    def __init__(self, loader: ModuleLoader, announced: Iterable[Request]) -> None:
        self._loader, self._kernel, self._announced = loader, loader.kernel, announced
        self._made: dict[Request, Made | str] = {}  # or why there is none
        self._targets: dict[Proto, AttachTo] = {}
        self._modules = self._functions = 0
        self._kcore: list[tuple[int, int, int]] | None = None

    def made(self, request: Request) -> Made:
        """The kernel's trampoline or its refusal. Raises UnavailableError where it cannot be asked."""
        if request not in self._made:
            asked = [one for one in dict.fromkeys([*self._announced, request]) if one not in self._made]
            self._made |= {one: why for one in asked if (why := why_untold(one.proto))}
            asked = [one for one in asked if one not in self._made]
            for requests in parts(asked):
                self._make_all(requests)
        found = self._made[request]
        if isinstance(found, str):
            raise UnavailableError(found)
        return found

    def target(self, proto: Proto) -> AttachTo:
        """A function with this prototype, for programs that are loaded and not attached. Raises UnavailableError."""
        if proto not in self._targets:
            if why := why_untold(proto):
                raise UnavailableError(why)
            try:
                (goal,) = self._in_module([Request(proto, ())], []).values()
            except (ModuleError, CompileError, OSError) as error:
                raise UnavailableError(f"no function can be had to trace: {error}") from error
            self._targets[proto] = AttachTo(goal.fd, goal.btf_id, goal.name)
        return self._targets[proto]

    def _make_all(self, requests: Sequence[Request]) -> None:
        """What cannot be made is found by halves, so that no other is lost with it."""
        try:
            self._make(requests)
        except (ModuleError, CompileError, MoveError, OSError) as error:
            left = [one for one in requests if one not in self._made]
            if len(left) == 1:
                self._made[left[0]] = f"no trampoline can be had: {error}"
            elif left:
                self._make_all(left[: len(left) // 2])
                self._make_all(left[len(left) // 2 :])

    def _make(self, requests: Sequence[Request]) -> None:
        opened: list[int] = []
        try:
            self._make_open(requests, opened)
        finally:
            self._kernel.batch([Syscall("close", (one,)) for one in opened])

    def _make_open(self, requests: Sequence[Request], opened: list[int]) -> None:
        """What stays open goes to `opened`."""
        goals = self._in_module([one for one in requests if one.target is Target.KERNEL], opened)
        goals |= self._in_programs([one for one in requests if one.target is Target.BPF], opened)
        goals |= self._in_structs([one for one in requests if one.target is Target.STRUCT_OPS], opened)
        programs: dict[Request, list[int]] = {}
        for request, goal in goals.items():
            try:
                if request.target is Target.STRUCT_OPS:
                    programs[request] = [self._fill(goal, opened)]
                    continue
                programs[request] = [
                    self._attach((goal.fd, goal.btf_id), kind, cookie, func_ip=request.func_ip, links=opened)
                    for kind, cookie in request.programs
                ]
            except RefusedError as error:
                self._made[request] = replace(error, message=error.message.replace(goal.name, request.proto.name))
        symbols = self._symbols()
        hooks = {symbols[name]: hook for name, hook in _hooks(symbols)}
        for request, goal in goals.items():
            if request not in self._made:
                self._made[request] = self._read(request, goal, programs[request], symbols, hooks)

    def _read(
        self,
        request: Request,
        goal: "_Goal",
        programs: Sequence[int],
        symbols: Mapping[str, int],
        hooks: Mapping[int, str],
    ) -> Native:
        """The trampoline that is in the kernel now."""
        address = symbols.get(goal.image)
        if address is None:
            raise ModuleError(f"expected a trampoline for {request.proto}, found none in /proc/kallsyms")
        arch = self._kernel.arch
        code = whole_image(arch, self._memory(address, PAGE_BYTES), request.target)
        function, body = goal.function, goal.body
        if request.target is Target.KERNEL:
            function = symbols[goal.name]
            body = function + ENTRY_BYTES[arch]
        native = Native(address, code, function, body, tuple(programs), hooks)
        return replace(native, hooks={target: hook for hook, target in uses_of(arch, native).hooks.items()})

    def _in_module(self, requests: Sequence[Request], opened: list[int]) -> dict[Request, "_Goal"]:
        """Functions of one new module."""
        if not requests:
            return {}
        names = self._names(len(requests))
        module = self._load({name: request.proto for name, request in zip(names, requests, strict=True)})
        obj, fd = btf_of(self._kernel, module.name)
        opened.append(fd)
        ids = module.ids
        return {
            request: _Goal(name, fd, ids[name], _image_of(obj << 32 | _OF_KERNEL | ids[name]))
            for name, request in zip(names, requests, strict=True)
        }

    def _in_programs(self, requests: Sequence[Request], opened: list[int]) -> dict[Request, "_Goal"]:
        """Functions of BPF programs, one of each."""
        goals: dict[Request, _Goal] = {}
        for request in requests:
            try:
                prog = load(self._kernel, request.proto, tail_call=request.tail_call)
            except RefusedError as error:
                self._made[request] = error
                continue
            opened.append(prog.fd)
            image = _image_of(prog.prog_id << 32 | prog.btf_id)
            goals[request] = _Goal(request.proto.name, prog.fd, prog.btf_id, image, prog.function, prog.body)
        return goals

    def _in_structs(self, requests: Sequence[Request], opened: list[int]) -> dict[Request, "_Goal"]:
        """Members of structs of one new module."""
        if not requests:
            return {}
        names = self._names(len(requests))
        arch, compiler = self._kernel.arch, self._loader.compile
        protos = {name: request.proto for name, request in zip(names, requests, strict=True)}
        module_name = self._module_name()
        module = self._loader.load(lambda facts: structmod.build(compiler, arch, facts, protos, module_name))
        _, fd = btf_of(self._kernel, module.name)
        opened.append(fd)
        ids = module.ids
        return {
            request: _Goal(name, fd, ids[name], structmod.image_name(name), value_type=ids[structmod.value_name(name)])
            for name, request in zip(names, requests, strict=True)
        }

    def _fill(self, goal: "_Goal", opened: list[int]) -> int:
        """Makes a program the member of a struct; gives its address. Raises RefusedError."""
        insns = [(_MOV_R0, 0, 0), (_EXIT, 0, 0)]
        raw = b"".join(struct.pack("<BBhi", opcode, regs, 0, imm) for opcode, regs, imm in insns)
        size = structmod.VALUE_BYTES
        _, made, loaded, info, filled, *_ = self._kernel.batch(
            [
                bpf.btf_load(_ANY_BTF),
                bpf.struct_ops_map(0, goal.value_type, goal.fd, size),
                bpf.prog_load(bpf.Load("struct_ops", raw, attach_btf=(goal.fd, goal.btf_id))),
                bpf.prog_info(2, len(insns)),
                bpf.struct_ops_update(1, 2, size),
                close(2),
                close(0),
            ]
        )
        if made.ret < 0:
            raise RefusedError("target", EINVAL, "")  # the struct was not registered
        opened.append(made.ret)
        if loaded.ret < 0:
            raise refused("load", loaded.ret, last_words(bpf.load_log(loaded)))
        if filled.ret < 0:
            raise refused("attach", filled.ret)
        return bpf.read_prog_info(info, len(insns)).funcs[0][0]

    def _names(self, count: int) -> list[str]:
        """Of functions: no two modules may have one in common."""
        first, self._functions = self._functions, self._functions + count
        return [f"cc_traced_{number}" for number in range(first, first + count)]

    def _module_name(self) -> str:
        self._modules += 1
        return f"{NAME}{self._modules}"

    def _load(self, protos: Mapping[str, Proto]) -> Module:
        name, arch, compiler = self._module_name(), self._kernel.arch, self._loader.compile
        return self._loader.load(lambda facts: build(compiler, arch, facts, protos, name))

    def _attach(self, target: tuple[int, int], kind: Kind, cookie: int, *, func_ip: bool, links: list[int]) -> int:
        """The address of the program's native code. Raises RefusedError."""
        asks = [(_CALL, 0, GET_FUNC_IP)] if func_ip else []
        if kind is Kind.FSESSION:
            asks.append((_CALL, _KFUNC << 4, self._loader.facts().session_cookie))  # without it there is none
        insns = [(_MOV, 0x16, 0)]  # r6 = r1, the context
        for ask in asks:
            insns += [(_MOV, 0x61, 0), ask]
        insns += [(_MOV_R0, 0, 0), (_EXIT, 0, 0)]
        raw = b"".join(struct.pack("<BBhi", opcode, regs, 0, imm) for opcode, regs, imm in insns)
        load = bpf.Load("tracing", raw, attach_type=kind.value, attach_btf=target)
        loaded, info, attached, _ = self._kernel.batch(
            [bpf.prog_load(load), bpf.prog_info(0, len(insns)), bpf.link_create(0, kind.value, cookie), close(0)]
        )
        if loaded.ret < 0:
            raise refused("load", loaded.ret, last_words(bpf.load_log(loaded)))
        if attached.ret < 0:
            raise refused("attach", attached.ret)
        links.append(attached.ret)
        return bpf.read_prog_info(info, len(insns)).funcs[0][0]

    def _symbols(self) -> dict[str, int]:
        rows = (line.split() for line in read_file(self._kernel, "/proc/kallsyms").decode().splitlines())
        return {row[2]: int(row[0], 16) for row in rows if len(row) >= 3}

    def _memory(self, address: int, size: int) -> bytes:
        """The kernel's memory. Raises OSError."""
        for start, length, offset in self._segments():
            if start <= address and address + size <= start + length:
                data = _read_at(self._kernel, "/proc/kcore", offset + address - start, size)
                if len(data) == size:
                    return data
        raise OSError(14, f"{address:#x} cannot be read", "/proc/kcore")

    def _segments(self) -> list[tuple[int, int, int]]:
        """(address, bytes, offset in the file). System V gABI, "Program Header"."""
        if self._kcore is None:
            head = _read_at(self._kernel, "/proc/kcore", 0, 4096)
            (at,), (count,) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<H", head, 56)
            rows = [struct.unpack_from("<IIQQQQ", head, at + 56 * n) for n in range(min(count, (4096 - at) // 56))]
            self._kcore = [(address, size, offset) for kind, _, offset, address, _, size in rows if kind == 1]
        return self._kcore


def parts(requests: Iterable[Request]) -> Iterator[list[Request]]:
    """As many as may be attached at a time."""
    part: list[Request] = []
    programs = 0
    for request in requests:
        count = len(request.kinds)
        if part and (len(part) == MAX_AT_ONCE or programs + count > MAX_PROGRAMS):
            yield part
            part, programs = [], 0
        part.append(request)
        programs += count
    if part:
        yield part


def _read_at(kernel: Kernel, path: str, offset: int, size: int) -> bytes:
    done = kernel.batch(
        [
            open_file(path),
            Syscall("pread64", (ResultOf(0), Address(0), size, offset), (Buf(size=size, give=Give.TRIMMED),)),
            close(0),
        ]
    )
    if done[1].ret < 0:
        raise OSError(-min(done[0].ret, done[1].ret), "cannot be read", path)
    return done[1].bufs[0].ljust(done[1].ret, b"\0")


def _hooks(symbols: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """(symbol, which hook it is): programs that may recurse, and those that may not, have hooks of their own."""
    for hook in HOOKS:
        for suffix in ("", "_recur"):
            if hook + suffix in symbols:
                yield hook + suffix, hook
