"""Native code around a trampoline in the emulator: BPF programs that note what they see, and the function that is traced.

Programs, and functions of BPF programs, are compiled by the suite's JITs. A C function is written out: it notes its argument
registers and its stack arguments, then destroys what a function may.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

from backends import emulator as emu
from backends.arm64 import encode as a64
from backends.arm64 import lower as arm64
from backends.decode import Native, decode_code
from backends.image import Addresses, Compiler, Image
from backends.trampoline import Target
from backends.x86_64 import encode as x86
from backends.x86_64 import lower as x86_64
from backends.x86_64.encode import Gpr, Mem
from harness.isa.asm import Source, assemble
from harness.isa.opcodes import MAX_ARGS, MAX_REG_ARGS
from harness.isa.proto import parse_proto
from harness.isa.verified import FuncFacts, Verified

TRAMPOLINE_AT: Final = emu.CODE_BASE + 0x1000  # the traced function lies at the start of the code
_PROGRAMS_AT: Final = emu.CODE_BASE + 0x3000
PROGRAM_BYTES: Final = 0x2000
_WORD: Final = 8
_STR_Q: Final = 0x3D80_0000  # Arm ARM, "STR (immediate, SIMD&FP)", 128 bits, unsigned offset
_MOVUPS_R11: Final = bytes.fromhex("410f11")  # Intel SDM, "MOVUPS", to [r11 + disp32]

# What a program or function notes, 8 bytes each.
RECORDS: Final = 0x5000_0000
RECORD_BYTES: Final = 0x400
# Of a program: the meta word, the traced function's address, the session cookie's address and value, then ctx.
META, FUNC_IP, COOKIE_AT, COOKIE, CTX = range(5)
NEW_COOKIE: Final = 0xC00C_1E00  # plus the program's number: what it leaves in its session cookie
# Of a C function: registers, then what it has to give back, then its stack arguments, then vector registers of two words each.
REGISTERS, RESULT, STACK, VECTORS = 0, 10, 16, 96
VECTOR_REGISTERS: Final = 8
RECORDS_BYTES: Final = 0x1_0000  # of the function and all programs
# What a C function notes of general registers, and those that it gives back, in the order of its record.
NOTED: Final = {
    "arm64": tuple(f"x{n}" for n in range(9)),
    "x86_64": ("rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax"),
}
RESULTS: Final = {"arm64": ("x0", "x1"), "x86_64": ("rax", "rdx")}


@dataclass(frozen=True, slots=True)
class Code:
    """Native code at its place; `insns` by address."""

    address: int
    raw: bytes
    insns: Mapping[int, Native]


def code_at(arch: str, address: int, raw: bytes) -> Code:
    """Decodes it."""
    return Code(address, raw, {address + at: native for at, native in decode_code(arch, raw, address).items()})


def prog_address(number: int) -> int:
    """Where the program that was attached as `number` is called."""
    return _PROGRAMS_AT + number * PROGRAM_BYTES


def record_of(number: int) -> int:
    """Where it notes what it sees; -1 is the traced function."""
    return RECORDS + (number + 1) * RECORD_BYTES


def entry(arch: str, target: Target, *, jumps: bool) -> bytes:
    """How a traced function begins, patched. TR-34: x86-64's jumps or calls; Linux has a landing pad before it in BPF code.

    What is called itself has none.
    """
    if target is Target.STRUCT_OPS:
        return b""
    if arch == "arm64":
        return _words(a64.mov_rr[64](9, 30), a64.bl_i(TRAMPOLINE_AT - (emu.CODE_BASE + 4)))
    pad = x86.endbr64() if target is Target.BPF else b""
    distance = TRAMPOLINE_AT - (emu.CODE_BASE + len(pad) + 5)
    return pad + (x86.jmp_near if jumps else x86.call_near)(distance)


def _words(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


# --- programs and functions in BPF


@cache
def _compiler(arch: str) -> Compiler:
    """As Debian's kernel of that architecture is configured, where no landing pads are for arm64."""
    if arch == "arm64":
        from backends.arm64.jit import Arm64Jit, Options

        return Arm64Jit(Options(bti=False))
    from backends.x86_64.jit import X8664Jit

    return X8664Jit()


def _compiled(arch: str, sources: list[Source], facts: tuple[FuncFacts, ...], base: int) -> Image:
    prog = assemble(sources).prog
    return _compiler(arch).compile(Verified(prog, facts, tuple(range(len(prog.insns)))), Addresses(base, {}))


@dataclass(frozen=True, slots=True)
class Reader:
    """A BPF program that notes `words` words of ctx, and what else helpers would give it, as Linux has them inlined.

    It has R6-R9 and 16 bytes of stack in use. A session's leaves a value of its own in its cookie.
    """

    arch: str
    number: int
    words: int
    returns: int = 0
    session: bool = False
    func_ip: bool = False

    def text(self) -> str:
        """In BPF assembly. TR-10: what is behind each index."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from ("r6 = r1", f"r7 = {record_of(self.number):#x} ll", "*(u64 *)(r10 - 16) = r6")
        yield from self._note(META, "*(u64 *)(r6 - 8)")
        if self.func_ip:
            yield from self._note(FUNC_IP, "*(u64 *)(r6 - 16)")
        for index in range(self.words):
            yield from self._note(CTX + index, f"*(u64 *)(r6 + {_WORD * index})")
        if self.session:
            yield from ("r8 = *(u64 *)(r6 - 8)", "r8 >>= 8", "r8 &= 0xff", "r8 <<= 3")
            yield from ("r9 = *(u64 *)(r10 - 16)", "r9 -= r8", f"*(u64 *)(r7 + {_WORD * COOKIE_AT}) = r9")
            yield from self._note(COOKIE, "*(u64 *)(r9 + 0)")
            yield from (f"r0 = {NEW_COOKIE + self.number:#x} ll", "*(u64 *)(r9 + 0) = r0")
        yield from (f"r0 = {self.returns & (1 << 64) - 1:#x} ll", "exit")

    def _note(self, index: int, what: str) -> Iterator[str]:
        yield from (f"r0 = {what}", f"*(u64 *)(r7 + {_WORD * index}) = r0")


@lru_cache(maxsize=4096)
def program(reader: Reader) -> Code:
    """Its native code, where it is called."""
    address = prog_address(reader.number)
    raw = _compiled(reader.arch, [Source("prog", reader.text())], (FuncFacts(16, 0, 0),), address).code
    assert len(raw) <= PROGRAM_BYTES, len(raw)
    return code_at(reader.arch, address, raw)


def own_program(arch: str, number: int, verified: Verified) -> Code:
    """A program of a case's own, where it is called."""
    address = prog_address(number)
    raw = _compiler(arch).compile(verified, Addresses(address, {})).code
    assert len(raw) <= PROGRAM_BYTES, len(raw)
    return code_at(arch, address, raw)


@dataclass(frozen=True, slots=True)
class BpfFunction:
    """A static function of a BPF program that notes `words` words of arguments and gives R0, and R2 if `pair`."""

    arch: str
    words: int
    result: int
    high: int
    pair: bool
    tail_call: bool
    jumps: bool

    def source(self) -> Source:
        """In BPF assembly."""
        lines = [f"r6 = {record_of(-1):#x} ll"]
        for index in range(self.words):
            reg = f"r{index + 1}"
            if index >= MAX_REG_ARGS:
                reg = "r0"
                lines.append(f"r0 = *(u64 *)(r11 + {_WORD * (index - MAX_REG_ARGS + 1)})")
            lines.append(f"*(u64 *)(r6 + {_WORD * index}) = {reg}")
        lines += [f"r0 = {self.result:#x} ll", *([f"r2 = {self.high:#x} ll"] if self.pair else []), "exit"]
        params = ", ".join(f"u64 a{index + 1}" for index in range(self.words)) or "void"
        proto = parse_proto(f"{'__int128' if self.pair else 'u64'} traced({params})")
        return Source(proto.name, "\n".join(lines), proto)


@lru_cache(maxsize=4096)
def bpf_function(wanted: BpfFunction) -> Code:
    """Its native code at the start of all code, the entry patched."""
    stacked = max(0, wanted.words - MAX_REG_ARGS)
    facts = (FuncFacts(0, 0, 0, wanted.tail_call), FuncFacts(0, stacked, 0, wanted.tail_call))
    sources = [Source("main", "r0 = 0\nexit"), wanted.source()]
    before = _compiled(wanted.arch, sources, facts, 0).symbols[1].offset
    image = _compiled(wanted.arch, sources, facts, emu.CODE_BASE - before)
    raw, patched = image.code[before:], entry(wanted.arch, Target.BPF, jumps=wanted.jumps)
    unpatched = _words(a64.mov_rr[64](9, 30), a64.nop()) if wanted.arch == "arm64" else x86.endbr64() + x86.NOPS[5]
    assert raw.startswith(unpatched), raw[: len(unpatched)].hex()
    return code_at(wanted.arch, emu.CODE_BASE, patched + raw[len(patched) :])


def takes_words(words: int) -> bool:
    """Whether a BPF function can have so many words of arguments."""
    return words <= MAX_ARGS


# --- a C function


@lru_cache(maxsize=4096)
def c_function(arch: str, stack_words: int, *, jumps: bool, destroys: bool, target: Target = Target.KERNEL) -> Code:
    """Behind its patched entry. `destroys`: it overwrites its stack arguments, too, which a copy of its own allows."""
    make = _arm64_function if arch == "arm64" else _x86_64_function
    raw = entry(arch, target, jumps=jumps) + make(stack_words, destroys=destroys)
    return code_at(arch, emu.CODE_BASE, raw)


def _arm64_function(stack_words: int, *, destroys: bool) -> bytes:
    fp, link, sp, record, temporary = 29, 30, a64.SP, 16, 17
    words = [a64.stp_push(fp, link, sp, -32), a64.add_rri[64](fp, sp, 0)]
    words += [a64.str_rm(19, sp, 16), a64.str_rm(20, sp, 24), *arm64.mov_imm64(record, record_of(-1))]
    words += [a64.str_rm(reg, record, _WORD * (REGISTERS + reg)) for reg in range(9)]
    at = VECTORS // 2
    words += [_STR_Q | at + reg << 10 | record << 5 | reg for reg in range(VECTOR_REGISTERS)]
    for index in range(stack_words):
        at = 32 + _WORD * index
        words += [a64.ldr_rm(temporary, fp, at), a64.str_rm(temporary, record, _WORD * (STACK + index))]
        words += [a64.str_rm(record, fp, at)] if destroys else []
    words += [a64.mov_rr[64](reg, record) for reg in (*range(2, 16), 17, 19, 20)]
    words += [a64.ldr_rm(1, record, _WORD * (RESULT + 1)), a64.ldr_rm(0, record, _WORD * RESULT)]
    words += [a64.ldr_rm(19, sp, 16), a64.ldr_rm(20, sp, 24), a64.ldp_pop(fp, link, sp, 32), a64.ret_r(link)]
    return _words(*words)


def _x86_64_function(stack_words: int, *, destroys: bool) -> bytes:
    record = Gpr.R11
    code = x86.push_r(Gpr.RBP) + x86_64.mov(Gpr.RBP, Gpr.RSP) + x86.push_r(Gpr.RBX) + x86.push_r(Gpr.R12)
    code += x86_64.mov_const(record, record_of(-1))
    for index, name in enumerate(NOTED["x86_64"]):
        code += x86.mov_m64r(Mem(record, _WORD * (REGISTERS + index)), Gpr[name.upper()])
    for number in range(VECTOR_REGISTERS):
        code += _MOVUPS_R11 + struct.pack("<Bi", 0x83 | number << 3, _WORD * (VECTORS + 2 * number))
    for index in range(stack_words):
        argument = Mem(Gpr.RBP, 16 + _WORD * index)
        code += x86.mov_rm64(Gpr.RAX, argument) + x86.mov_m64r(Mem(record, _WORD * (STACK + index)), Gpr.RAX)
        code += x86.mov_m64r(argument, record) if destroys else b""
    for reg in (Gpr.RDI, Gpr.RSI, Gpr.RCX, Gpr.R8, Gpr.R9, Gpr.R10, Gpr.RBX, Gpr.R12):
        code += x86_64.mov(reg, record)
    code += x86.mov_rm64(Gpr.RAX, Mem(record, _WORD * RESULT)) + x86.mov_rm64(
        Gpr.RDX, Mem(record, _WORD * (RESULT + 1))
    )
    return code + x86.pop_r(Gpr.R12) + x86.pop_r(Gpr.RBX) + x86.pop_r(Gpr.RBP) + x86.ret()
