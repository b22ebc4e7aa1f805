"""The CPU: the only importer of unicorn. Maps memory, runs code, stops, and calls back at the addresses it is told."""

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import unicorn
from unicorn import arm64_const, x86_const
from unicorn.unicorn_py3 import unicorn as binding

from backends.base import CTX_BASE
from backends.maps import MAPS_BASE, STRIDE, VALUES, address_of
from backends.progs import PROGS_BASE, map_bytes
from harness.isa.ctypes import rounded_up
from harness.isa.maps import MAX_MAPS, Map

CODE_BASE: Final = 0x4000_0000
CODE_BYTES: Final = 16 << 20
PADS_BASE: Final = 0x4400_0000  # helpers and kfuncs; near enough for every direct call
PADS_BYTES: Final = 0x1_0000
PAD_STRIDE: Final = 16
PAD_RETURN: Final = 4  # bytes from a pad's start to its return insn: a landing insn has 4 on both architectures
STOP: Final = PADS_BASE + PADS_BYTES - 0x800  # where the main prog returns to; inside an executable page
STACK_BASE: Final = 0x3000_0000
STACK_BYTES: Final = 0x1_0000
STACK_TOP: Final = STACK_BASE + STACK_BYTES - 0x1000  # SP before the call of the main prog; above it lies the caller
CTX_BYTES: Final = 0x1_0000
KERNEL_DATA_BASE: Final = 0x2800_0000  # stands for what a kernel keeps per CPU, for helpers that its JIT inlines
KERNEL_DATA_BYTES: Final = 0x1000
_PAGE: Final = 0x1000
TRANSLATED_BYTES: Final = (
    32 << 20
)  # of host code that an engine keeps; unicorn's own limit is 1 GiB, all of it used in time
MAX_NATIVE_INSNS: Final = 20_000_000


@dataclass(frozen=True, slots=True)
class _Machine:
    """How unicorn names one architecture's parts."""

    arch: int
    mode: int
    model: int
    prefix: str
    consts: Any
    pc: str
    flags: str
    pad: bytes  # the native code of a landing pad: a landing insn, then a return


_MACHINES: Final[Mapping[str, _Machine]] = {
    "arm64": _Machine(
        unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, arm64_const.UC_CPU_ARM64_MAX, "UC_ARM64_REG_", arm64_const,
        "pc", "nzcv", bytes.fromhex("5f2403d5 c0035fd6"),
    ),
    "x86_64": _Machine(
        unicorn.UC_ARCH_X86, unicorn.UC_MODE_64, x86_const.UC_CPU_X86_HASWELL, "UC_X86_REG_", x86_const,
        "rip", "eflags", bytes.fromhex("f30f1efa c3"),
    ),
}  # fmt: skip

_CODE_CB: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
_MEM_CB: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
)
_MEM_INVALID_CB: Final = ctypes.CFUNCTYPE(
    ctypes.c_bool, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
)

OnCode = Callable[[int], None]
OnMemory = Callable[[bool, int, int], None]  # (is_write, address, size)


@dataclass(frozen=True, slots=True)
class Fault:
    """The CPU stopped by itself: `what` in words, at native address `pc`."""

    what: str
    pc: int
    endless: bool = False  # it did not stop: the limit of insns was reached


class UnmappedError(Exception):
    """Memory that is not there was asked for; the message has its place."""


class RegFile:
    """A fixed list of registers, read and written in one call each."""

    def __init__(self, handle: Any, ids: Iterable[int]) -> None:
        wanted = list(ids)
        self._handle, self._count = handle, len(wanted)
        self._ids = (ctypes.c_int * self._count)(*wanted)
        self._values = (ctypes.c_uint64 * self._count)()
        pointers = [ctypes.addressof(self._values) + 8 * i for i in range(self._count)]
        self._pointers = (ctypes.c_void_p * self._count)(*pointers)

    def read(self) -> list[int]:
        """The values, in the order of the list."""
        binding.uclib.uc_reg_read_batch(self._handle, self._ids, self._pointers, self._count)
        return list(self._values)

    def write(self, values: Iterable[int]) -> None:
        """Sets all of them."""
        self._values[:] = list(values)
        binding.uclib.uc_reg_write_batch(self._handle, self._ids, self._pointers, self._count)


class WideRegFile:
    """A fixed list of registers of up to 16 bytes (v0, xmm0, st0), read and written in one call each."""

    BYTES: Final = 16

    def __init__(self, handle: Any, ids: Iterable[int]) -> None:
        wanted = list(ids)
        self._handle, self._count = handle, len(wanted)
        self._ids = (ctypes.c_int * self._count)(*wanted)
        self._values = (ctypes.c_uint8 * (self._count * self.BYTES))()
        pointers = [ctypes.addressof(self._values) + self.BYTES * i for i in range(self._count)]
        self._pointers = (ctypes.c_void_p * self._count)(*pointers)

    def read(self) -> list[bytes]:
        """The values, in the order of the list."""
        binding.uclib.uc_reg_read_batch(self._handle, self._ids, self._pointers, self._count)
        raw = bytes(self._values)
        return [raw[at : at + self.BYTES] for at in range(0, len(raw), self.BYTES)]

    def write(self, values: Iterable[bytes]) -> None:
        """Sets all of them, 16 bytes each."""
        ctypes.memmove(self._values, b"".join(values), len(self._values))
        binding.uclib.uc_reg_write_batch(self._handle, self._ids, self._pointers, self._count)


class Emulator:
    """One engine of one architecture, reused from run to run; every run begins from the same state.

    `watched`: every access to stack and context, and every insn of a landing pad, calls back.
    """

    def __init__(self, arch: str, *, watched: bool = True) -> None:
        machine = _MACHINES[arch]
        self.arch, self._machine = arch, machine
        self._uc = unicorn.Uc(machine.arch, machine.mode)
        self._uc.ctl_set_cpu_model(machine.model)
        self._uc.ctl_set_tcg_buffer_size(TRANSLATED_BYTES)
        self._handle = self._uc._uch
        self._map()
        self._hooks: list[ctypes.c_size_t] = []
        self._error: BaseException | None = None
        self._stopped = False
        self._kernel_data = False
        self._maps: list[tuple[int, int]] = []  # (address, bytes) of the memory of maps
        self._fault_at: tuple[str, int, int] | None = None
        self._on_code: OnCode = lambda address: None
        self._on_memory: OnMemory = lambda is_write, address, size: None
        self._callbacks = (_CODE_CB(self._code), _MEM_CB(self._memory), _MEM_INVALID_CB(self._invalid))
        self._permanent_hooks(watched=watched)
        self._pc = self.regs([machine.pc])
        self._fresh = self._uc.context_save()
        self._code_end = CODE_BASE

    def _map(self) -> None:
        readable, executable, writable = unicorn.UC_PROT_READ, unicorn.UC_PROT_EXEC, unicorn.UC_PROT_WRITE
        self._uc.mem_map(CODE_BASE, CODE_BYTES, readable | executable)
        self._uc.mem_map(PADS_BASE, PADS_BYTES, readable | executable)
        self._uc.mem_map(STACK_BASE, STACK_BYTES, readable | writable)
        self._uc.mem_map(CTX_BASE, CTX_BYTES, readable | writable)
        pads = self._machine.pad.ljust(PAD_STRIDE, b"\0") * (PADS_BYTES // PAD_STRIDE)
        self._uc.mem_write(PADS_BASE, pads)

    def _map_kernel_data(self, *, wanted: bool) -> None:
        if wanted and not self._kernel_data:
            self._uc.mem_map(KERNEL_DATA_BASE, KERNEL_DATA_BYTES, unicorn.UC_PROT_READ)
        elif self._kernel_data and not wanted:
            self._uc.mem_unmap(KERNEL_DATA_BASE, KERNEL_DATA_BYTES)
        self._kernel_data = wanted

    def map_data(self, address: int, size: int) -> None:
        """Memory that stays, and whose accesses nobody watches."""
        self._uc.mem_map(address, size, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)

    def map_values(self, maps: Sequence[Map]) -> None:
        """Memory for the values of maps, and none for others."""
        wanted = [
            (
                address_of(index),
                rounded_up(map_bytes(map_) if map_.has_progs else VALUES + map_.stride * map_.slots, _PAGE),
            )
            for index, map_ in enumerate(maps)
        ]
        if any(map_.has_progs for map_ in maps):
            wanted.append((PROGS_BASE, STRIDE))
        if wanted == self._maps:
            return
        for address, size in self._maps:
            self._uc.mem_unmap(address, size)
        self._maps = wanted
        for address, size in wanted:
            self._uc.mem_map(address, size, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)

    def _permanent_hooks(self, *, watched: bool) -> None:
        code, memory, invalid = self._callbacks
        self._add_hook(unicorn.UC_HOOK_MEM_INVALID, invalid, 1, 0)
        if not watched:
            return
        self._add_hook(unicorn.UC_HOOK_CODE, code, PADS_BASE, PADS_BASE + PADS_BYTES - 1)
        both = unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE
        self._add_hook(both, memory, STACK_BASE, STACK_BASE + STACK_BYTES - 1)
        self._add_hook(both, memory, CTX_BASE, CTX_BASE + CTX_BYTES - 1)
        self._add_hook(both, memory, MAPS_BASE, MAPS_BASE + (MAX_MAPS + 1) * STRIDE - 1)

    def _add_hook(self, kind: int, callback: Any, begin: int, end: int) -> ctypes.c_size_t:
        hook = ctypes.c_size_t()
        status = binding.uclib.uc_hook_add(
            self._handle, ctypes.cast(ctypes.byref(hook), ctypes.POINTER(ctypes.c_ulong)), kind,
            ctypes.cast(callback, ctypes.c_void_p), None, ctypes.c_ulong(begin), ctypes.c_ulong(end),
        )  # fmt: skip
        if status != unicorn.UC_ERR_OK:
            raise unicorn.UcError(status)
        return hook

    # An exception must not leave a C callback: it is kept, the CPU stops, and run() raises it.
    def _code(self, _uc: int, address: int, _size: int, _data: int) -> None:
        try:
            self._on_code(address)
        except BaseException as error:  # noqa: BLE001
            self._abort(error)

    def _memory(self, _uc: int, access: int, address: int, size: int, _value: int, _data: int) -> None:
        try:
            self._on_memory(access == unicorn.UC_MEM_WRITE, address, size)
        except BaseException as error:  # noqa: BLE001
            self._abort(error)

    def _invalid(self, _uc: int, access: int, address: int, size: int, _value: int, _data: int) -> bool:
        if access in (unicorn.UC_MEM_FETCH_UNMAPPED, unicorn.UC_MEM_FETCH_PROT, unicorn.UC_MEM_FETCH):
            word = "a jump"
        elif access in (unicorn.UC_MEM_WRITE_UNMAPPED, unicorn.UC_MEM_WRITE_PROT, unicorn.UC_MEM_WRITE):
            word = "a write"
        else:
            word = "a read"
        self._fault_at = (word, address, size)
        return False

    def _abort(self, error: BaseException) -> None:
        self._error = self._error or error
        self._uc.emu_stop()

    def regs(self, names: Iterable[str]) -> RegFile:
        """A list of registers by name, e.g. `x0`, `sp`, `nzcv`, `rax`, `eflags`."""
        return RegFile(self._handle, self._ids(names))

    def wide_regs(self, names: Iterable[str]) -> WideRegFile:
        """A list of vector or x87 registers by name, e.g. `v0`, `xmm0`, `st0`."""
        return WideRegFile(self._handle, self._ids(names))

    def _ids(self, names: Iterable[str]) -> list[int]:
        prefix, consts = self._machine.prefix, self._machine.consts
        return [getattr(consts, prefix + name.upper()) for name in names]

    @property
    def flags(self) -> str:
        """The name of the condition flags."""
        return self._machine.flags

    def pc(self) -> int:
        """The program counter."""
        return self._pc.read()[0]

    def read(self, address: int, size: int) -> bytes:
        """Memory. Raises UnmappedError."""
        try:
            return bytes(self._uc.mem_read(address, size))
        except unicorn.UcError as error:
            raise UnmappedError(f"{size} bytes at {address:#x}") from error

    def write(self, address: int, data: bytes) -> None:
        """Memory that is not code."""
        if data:
            self._uc.mem_write(address, data)

    def patch(self, address: int, code: bytes) -> None:
        """Changes insns, as a text poke does: what was translated of them is forgotten."""
        self._uc.mem_write(address, code)
        self._uc.ctl_remove_cache(address, address + len(code))

    def load(self, code: bytes, watched: Iterable[int], *, kernel_data: bool = False) -> None:
        """Replaces the code and the addresses whose execution calls back; `kernel_data` is readable, and 0, where asked for."""
        self._map_kernel_data(wanted=kernel_data)
        for hook in self._hooks:
            binding.uclib.uc_hook_del(self._handle, hook)
        self._uc.context_restore(self._fresh)
        end = max(self._code_end, CODE_BASE + len(code))
        self._uc.mem_write(CODE_BASE, code.ljust(end - CODE_BASE, b"\0"))
        self._code_end = CODE_BASE + len(code)
        self._hooks = [self._add_hook(unicorn.UC_HOOK_CODE, self._callbacks[0], at, at) for at in watched]
        self._uc.ctl_remove_cache(CODE_BASE, end)

    def run(
        self, entry: int, on_code: OnCode, on_memory: OnMemory, limit: int = MAX_NATIVE_INSNS, until: int = STOP
    ) -> Fault | None:
        """Runs from `entry` to `until` or for `limit` insns. None where it came there or was told to stop."""
        self._on_code, self._on_memory, self._error, self._fault_at = on_code, on_memory, None, None
        self._stopped = False
        fault: Fault | None = None
        try:
            self._uc.emu_start(entry, until, count=limit)
        except unicorn.UcError as error:
            fault = Fault(self._fault_text(error), self.pc())
        if self._error is not None:
            raise self._error
        if fault is None and not self._stopped and self.pc() != until:
            fault = Fault(f"still running after {limit} native insns", self.pc(), endless=True)
        return fault

    def stop(self) -> None:
        """To be called from a callback: the run ends here."""
        self._stopped = True
        self._uc.emu_stop()

    def _fault_text(self, error: unicorn.UcError) -> str:
        if self._fault_at is not None:
            word, address, size = self._fault_at
            return f"{word} of {size} bytes at {address:#x}" if word != "a jump" else f"a jump to {address:#x}"
        return str(error)
