"""Trampolines of a running kernel: made for functions of a module, read back from /proc/kcore, moved to where the bench calls them.

Linux kernel/bpf/trampoline.c (the symbol's name), fs/proc/kcore.c; the agent's kernel is the guest's, whose memory is nobody's secret.
"""

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from backends.decode import disassemble
from backends.linux import bpf
from backends.linux.ask import last_words
from backends.linux.kmod import Module, ModuleError
from backends.linux.modules import ModuleLoader, UnavailableError, btf_of
from backends.linux.syscalls import Address, Buf, Give, Kernel, ResultOf, Syscall, close, open_file, read_file
from backends.linux.tools import CompileError
from backends.linux.tracedprog import load
from backends.linux.tracemod import build, why_untold
from backends.trampoline import HOOKS, Kind, Places, RefusedError, Target
from backends.trampoline_bench import object_of, prog_address
from harness.isa.proto import Proto

MAX_AT_ONCE: Final = 192  # requests that are attached at a time, so that descriptors do not run out
IMAGE_BYTES: Final = 4096  # a trampoline has a page at most
GET_FUNC_IP: Final = 173  # include/uapi/linux/bpf.h, enum bpf_func_id
NAME: Final = "callconv_traced"
_CALL, _MOV, _MOV_R0, _EXIT = 0x85, 0xBF, 0xB7, 0x95  # RFC 9669
_KFUNC: Final = 2  # BPF_PSEUDO_KFUNC_CALL
_OF_KERNEL: Final = (
    1 << 31
)  # in a key, which has a BTF id below, and above 32 bits the id of the BTF object or BPF program


class MoveError(Exception):
    """A trampoline that is not of the known form, so that it cannot be moved to the emulator."""


@dataclass(frozen=True, slots=True)
class Request:
    """A traced function and its programs in the order of attachment."""

    proto: Proto
    kinds: tuple[Kind, ...]
    func_ip: bool = False
    target: Target = Target.KERNEL
    tail_call: bool = False


@dataclass(frozen=True, slots=True)
class Native:
    """A trampoline as the kernel has it, and the addresses that it uses. `programs` are in the order of attachment.

    `body`: where the traced function goes on behind its patched call.
    """

    address: int
    code: bytes
    function: int
    body: int
    programs: tuple[int, ...]
    hooks: Mapping[int, str]


Made = Native | RefusedError


@dataclass(frozen=True, slots=True)
class _Goal:
    """A function that programs are attached to. `fd`: of its BTF or BPF program; addresses are 0 where its symbol tells them."""

    name: str
    fd: int
    btf_id: int
    key: int
    function: int = 0
    body: int = 0


class NoTrampolines:
    """A kernel that gets no module: the one under this process."""

    def made(self, request: Request) -> Made:
        """Never."""
        raise UnavailableError("traced functions need a module, which this machine's own kernel does not get")


class Attacher:
    """Makes what is asked for in one kernel. What is announced before the first question is made in one go."""

    def __init__(self, loader: ModuleLoader, announced: Iterable[Request]) -> None:
        self._loader, self._kernel, self._announced = loader, loader.kernel, announced
        self._made: dict[Request, Made | str] = {}  # or why there is none
        self._modules = self._functions = 0
        self._kcore: list[tuple[int, int, int]] | None = None

    def made(self, request: Request) -> Made:
        """The kernel's trampoline or its refusal. Raises UnavailableError where it cannot be asked."""
        if request not in self._made:
            asked = [one for one in dict.fromkeys([*self._announced, request]) if one not in self._made]
            self._made |= {one: why for one in asked if (why := why_untold(one.proto))}
            asked = [one for one in asked if one not in self._made]
            for at in range(0, len(asked), MAX_AT_ONCE):
                self._make_all(asked[at : at + MAX_AT_ONCE])
        found = self._made[request]
        if isinstance(found, str):
            raise UnavailableError(found)
        return found

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
        goals = self._in_module([one for one in requests if one.target is Target.KERNEL], opened)
        goals |= self._in_programs([one for one in requests if one.target is Target.BPF], opened)
        programs: dict[Request, list[int]] = {}
        for request, goal in goals.items():
            try:
                programs[request] = [
                    self._attach((goal.fd, goal.btf_id), kind, func_ip=request.func_ip, links=opened)
                    for kind in request.kinds
                ]
            except RefusedError as error:
                self._made[request] = replace(error, message=error.message.replace(goal.name, request.proto.name))
        symbols = self._symbols()
        hooks = {symbols[name]: hook for name, hook in _hooks(symbols)}
        for request, goal in goals.items():
            if request not in self._made:
                self._made[request] = self._read(request, goal, programs[request], symbols, hooks)
        self._kernel.batch([Syscall("close", (one,)) for one in opened])

    def _read(
        self,
        request: Request,
        goal: "_Goal",
        programs: Sequence[int],
        symbols: Mapping[str, int],
        hooks: Mapping[int, str],
    ) -> Native:
        """The trampoline that is in the kernel now."""
        address = symbols.get(f"bpf_trampoline_{goal.key}")
        if address is None:
            raise ModuleError(f"expected a trampoline for {request.proto}, found none in /proc/kallsyms")
        arch = self._kernel.arch
        code = whole_image(arch, self._memory(address, IMAGE_BYTES))
        function = goal.function or symbols[goal.name]
        native = Native(address, code, function, goal.body or function + ENTRY_BYTES[arch], tuple(programs), hooks)
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
            request: _Goal(name, fd, ids[name], obj << 32 | _OF_KERNEL | ids[name])
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
            key = prog.prog_id << 32 | prog.btf_id
            goals[request] = _Goal(request.proto.name, prog.fd, prog.btf_id, key, prog.function, prog.body)
        return goals

    def _names(self, count: int) -> list[str]:
        """Of functions: no two modules may have one in common."""
        first, self._functions = self._functions, self._functions + count
        return [f"cc_traced_{number}" for number in range(first, first + count)]

    def _load(self, protos: Mapping[str, Proto]) -> Module:
        self._modules += 1
        name, arch, compiler = f"{NAME}{self._modules}", self._kernel.arch, self._loader.compile
        return self._loader.load(lambda facts: build(compiler, arch, facts, protos, name))

    def _attach(self, target: tuple[int, int], kind: Kind, *, func_ip: bool, links: list[int]) -> int:
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
            [bpf.prog_load(load), bpf.prog_info(0, len(insns)), bpf.raw_tracepoint_open(0), close(0)]
        )
        if loaded.ret < 0:
            raise RefusedError("load", -loaded.ret, last_words(bpf.load_log(loaded)))
        if attached.ret < 0:
            raise RefusedError("attach", -attached.ret, "")
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


# --- native code

_ARM64_LAST: Final = "mov x30, x9"  # the insn before the last: TR-42, step 11


def whole_image(arch: str, memory: bytes) -> bytes:
    """A trampoline without what lies behind it. Raises MoveError."""
    before = ""
    for address, size, mnemonic, operands in disassemble(arch, memory, 0):
        if mnemonic == "ret" and (arch == "x86_64" or before == _ARM64_LAST):
            return memory[: address + size]
        before = f"{mnemonic} {operands}"
    raise MoveError("expected a trampoline, found no return at its end")


@dataclass(slots=True)
class _Constant:
    """A 64-bit constant that a trampoline puts into a register."""

    at: int
    size: int
    reg: str
    value: int


@dataclass(frozen=True, slots=True)
class Uses:
    """What a kernel's trampoline calls and is given. `objects`: of programs, by their number."""

    calls: tuple[tuple[int, int, int], ...]  # offset, size, target
    constants: tuple["_Constant", ...]
    hooks: Mapping[str, int]
    objects: Mapping[int, int]
    image: int

    def places(self, arch: str, native: Native) -> Places:
        """As our own trampolines are told of them."""
        hooks = {**dict.fromkeys(HOOKS, native.address), **self.hooks}  # those that are not used are near, too
        return Places(native.address, native.function, native.body, self.image, hooks)


def uses_of(arch: str, native: Native) -> Uses:
    """What a trampoline uses. Raises MoveError for a call of anything else than hooks, programs and the traced function."""
    programs = {address: number for number, address in enumerate(native.programs)}
    constants = tuple(_CONSTANTS[arch](native.code))
    calls, hooks, objects = list[tuple[int, int, int]](), dict[str, int](), dict[int, int]()
    entered = image = 0
    for address, size, mnemonic, operands in disassemble(arch, native.code, native.address):
        if mnemonic not in ("call", "bl"):
            continue
        target, at = int(operands.lstrip("#"), 16), address - native.address
        given = next((c.value for c in reversed(constants) if c.at < at and c.reg in _OBJECT_REGS), 0)
        hook = native.hooks.get(target)
        if hook is not None:
            hooks[hook] = target
            entered = given if hook == "__bpf_prog_enter" else entered
            image = given if hook.startswith("__bpf_tramp") else image
        elif target in programs:
            objects[programs[target]] = entered
        elif target != native.body:
            raise MoveError(f"{at:#x}: a call of {target:#x}, which is neither hook, program nor function")
        calls.append((at, size, target))
    return Uses(tuple(calls), constants, hooks, objects, image)


def moved(arch: str, native: Native, where: Places) -> bytes:
    """The same insns where the bench has functions, programs and objects. Raises MoveError."""
    uses, code = uses_of(arch, native), bytearray(native.code)
    goals = {native.body: where.body}
    goals |= {target: where.hooks[hook] for hook, target in uses.hooks.items()}
    goals |= {address: prog_address(number) for number, address in enumerate(native.programs)}
    new = {native.function: where.function, uses.image: where.image}
    new |= {value: object_of(number) for number, value in uses.objects.items()}
    for at, size, target in uses.calls:
        _aim(arch, code, at, size, goals[target] - (where.base + at))
    for constant in uses.constants:
        if constant.value and constant.value in new:
            code[constant.at : constant.at + constant.size] = _load(arch, constant, new[constant.value])
    return bytes(code)


_OBJECT_REGS: Final = ("rdi", "x0", "x19")
ENTRY_BYTES: Final = {"x86_64": 5, "arm64": 8}  # what is patched at a function's beginning


def _aim(arch: str, code: bytearray, at: int, size: int, distance: int) -> None:
    """A direct call's distance: x86-64's from its end, arm64's in words."""
    if arch == "x86_64":
        struct.pack_into("<i", code, at + 1, distance - size)
    else:
        struct.pack_into("<I", code, at, 0x9400_0000 | distance >> 2 & (1 << 26) - 1)


_X86_REGS: Final = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
_X86_FORMS: Final = (
    (re.compile(rb"\x48[\xb8-\xbf]", re.DOTALL), 10, "<Q"),
    (re.compile(rb"\x48\xc7[\xc0-\xc7]", re.DOTALL), 7, "<i"),
    (re.compile(rb"[\xb8-\xbf]", re.DOTALL), 5, "<I"),
)


def _x86_constants(code: bytes) -> Iterator[_Constant]:
    """Intel SDM, MOV: REX.W B8 imm64, REX.W C7 /0 imm32, B8 imm32."""
    for at, size, _, _ in disassemble("x86_64", code, 0):
        for form, length, shape in _X86_FORMS:
            if size == length and (found := form.match(code, at)):
                (value,) = struct.unpack_from(shape, code, at + length - struct.calcsize(shape))
                yield _Constant(at, size, _X86_REGS[found.group()[-1] & 7], value & (1 << 64) - 1)


def _arm64_constants(code: bytes) -> Iterator[_Constant]:
    """Arm ARM, MOVN and MOVZ of 64 bits with the MOVKs that follow them."""
    last: _Constant | None = None
    for at in range(0, len(code), 4):
        (word,) = struct.unpack_from("<I", code, at)
        reg, imm, shift = f"x{word & 31}", word >> 5 & 0xFFFF, 16 * (word >> 21 & 3)
        if word >> 23 == 0x1E5 and last is not None and last.reg == reg:  # MOVK
            last.value = last.value & ~(0xFFFF << shift) | imm << shift
            last.size += 4
            continue
        if last is not None:
            yield last
        last = None
        if word >> 23 == 0x125:  # MOVN
            last = _Constant(at, 4, reg, ~(imm << shift) & (1 << 64) - 1)
        elif word >> 23 == 0x1A5:  # MOVZ
            last = _Constant(at, 4, reg, imm << shift)


_CONSTANTS: Final[Mapping[str, Callable[[bytes], Iterator[_Constant]]]] = {
    "x86_64": _x86_constants,
    "arm64": _arm64_constants,
}


def _load(arch: str, constant: _Constant, value: int) -> bytes:
    """The same room with another value. Raises MoveError where it does not fit."""
    reg = constant.reg
    if arch == "x86_64":
        number = _X86_REGS.index(reg)
        if constant.size == 10:
            return bytes([0x48, 0xB8 + number]) + value.to_bytes(8, "little")
        if value < 1 << 31:
            head = bytes([0x48, 0xC7, 0xC0 + number]) if constant.size == 7 else bytes([0xB8 + number])
            return head + value.to_bytes(4, "little")
        raise MoveError(f"expected room for {value:#x}, found {constant.size} bytes")
    parts = [(value >> shift & 0xFFFF, shift) for shift in range(0, 64, 16) if value >> shift & 0xFFFF] or [(0, 0)]
    words = [
        (0xF280_0000 if index else 0xD280_0000) | shift // 16 << 21 | part << 5 | int(reg[1:])
        for index, (part, shift) in enumerate(parts)
    ]
    if 4 * len(words) > constant.size:
        raise MoveError(f"expected room for {value:#x}, found {constant.size} bytes")
    words += [0xD503_201F] * (constant.size // 4 - len(words))
    return b"".join(word.to_bytes(4, "little") for word in words)
