"""Trampolines for x86-64, as Linux 7.2 frames them. TR-50 to TR-54."""

from collections.abc import Sequence
from typing import Final

from backends.abi import EIGHTBYTE, InReg, OnStack
from backends.trampoline import (
    MAX_ARGS,
    Attached,
    Frame,
    Kind,
    Mode,
    Places,
    Plan,
    Program,
    Target,
    gives_result,
    meta_of,
)  # fmt: skip
from backends.trampoline_plan import Assumed, Placement, check_target, plan_of
from backends.x86_64 import encode as x86
from backends.x86_64 import lower
from backends.x86_64.encode import Cond, Gpr, Mem
from harness.isa.ctypes import X86_64, CFloat, CStruct, CType, CVector, align_of, bare, leaves, rounded_up
from harness.isa.proto import Proto

MODEL: Final = X86_64
ASSUMED: Final = Assumed(("rdi", "rsi", "rdx", "rcx", "r8", "r9"), "rsp", stops=False, most_slots=MAX_ARGS)
_X87: Final = CFloat("long double", 16)


def _in_memory(ctype: CType) -> bool:
    """PsABI 3.2.3: a struct with a field that is not at a multiple of its size, or with a `long double`, is in memory."""
    fields = [*leaves(bare(ctype), MODEL)] if isinstance(bare(ctype), CStruct) else []
    x87 = any(field.type == _X87 for field in fields)
    return x87 or any(field.at_bit % field.size_bits for field in fields if not field.is_bits)


def _in_vectors(ctype: CType) -> bool:
    """PsABI 3.2.3: an eightbyte of nothing but floats and vectors has the class SSE."""
    if _in_memory(ctype):
        return False
    words: dict[int, bool] = {}
    for field in leaves(ctype, MODEL):
        for word in range(field.at_bit // 64, (field.at_bit + field.size_bits - 1) // 64 + 1):
            words[word] = words.get(word, True) and isinstance(field.type, CFloat | CVector)
    return any(words.values())


def _padding(ctype: CType, at: int) -> bool:
    """PsABI 3.2.3: an eightbyte of a struct in which no field lies has no class, and is not passed."""
    if not isinstance(bare(ctype), CStruct):
        return False
    fields = leaves(bare(ctype), MODEL)
    return not any(field.at_bit < 8 * at + 64 and field.at_bit + field.size_bits > 8 * at for field in fields)


RULES: Final = Placement(
    ASSUMED,
    pairs=False,
    is_wide=lambda ctype: align_of(ctype, MODEL) > EIGHTBYTE,
    in_memory=_in_memory,
    in_vectors=_in_vectors,
    empty=_padding,
)
RUN_CONTEXT: Final = 16
ALIGN: Final = 16  # of the part behind fmod_ret programs
CALL_BYTES: Final = 5
_MOV_RAX_RBP_FAR: Final = bytes.fromhex("488b85")  # mov rax, [rbp + disp32]: Linux takes the long form


def plan(
    proto: Proto, kinds: Sequence[Kind], mode: Mode, target: Target = Target.KERNEL, *, tail_call: bool = False
) -> Plan:
    """What a trampoline on a function has to know. Raises RefusedError."""
    check_target(proto, mode, tail_call=tail_call)
    return plan_of(proto, kinds, mode, target, MODEL, RULES)


def entered_by_jump(attached: Attached) -> bool:
    """Whether the traced function's entry is patched with a jump instead of a call. TR-34."""
    return attached.calls_original


class X8664Trampoline:
    """Makes trampolines. Each choice is one method, so that a test can make one wrong."""

    arch = "x86_64"

    def make(self, plan: Plan, attached: Attached, places: Places) -> bytes:
        """The native code, for a function that begins with `call trampoline`, or with `jmp` where the original is called."""
        self.plan, self.attached, self.places = plan, attached, places
        self.frame = self.make_frame()
        self.code = bytearray()
        self._write()
        return bytes(self.code)

    def page_bytes(self, plan: Plan, attached: Attached) -> int:
        """As many programs as Linux 7.2 allows always fit a page. Measured."""
        return 0

    def make_frame(self) -> Frame:
        """Offsets from RBP. TR-50."""
        calls = self.attached.calls_original
        at = -EIGHTBYTE if gives_result(self.plan, self.attached) else 0
        result = at or None
        ctx = at = at - EIGHTBYTE * len(self.plan.slots)
        at -= EIGHTBYTE  # the meta word
        func_ip = None
        if self.attached.func_ip:
            func_ip = at = at - EIGHTBYTE
        cookies: dict[int, int] = {}
        for number, _ in reversed(list(enumerate(self.attached.of(Kind.FSESSION)))):
            cookies[number] = at = at - EIGHTBYTE
        saved = at - EIGHTBYTE
        run = saved - RUN_CONTEXT
        tail_call = None
        size = -run
        if self.attached.tail_call and not self.pushes_tail_call():
            size += EIGHTBYTE
            tail_call = -size
        if calls and self.plan.area_bytes:
            size = self.frame_size(size + self.area_bytes())
        if self.attached.tail_call and self.pushes_tail_call():
            tail_call = -rounded_up(size, EIGHTBYTE) - EIGHTBYTE
        return Frame(size, ctx, run, saved, -size, result, func_ip, cookies, tail_call)

    def pushes_tail_call(self) -> bool:
        """Whether the pointer to the tail-call counter is pushed below the stack arguments, where one of them should be. TB-12."""
        return not self.plan.exact

    def area_bytes(self) -> int:
        """Of the stack arguments for the original."""
        return self.plan.area_bytes

    def frame_size(self, used: int) -> int:
        """RSP is a multiple of 16 at the call of the original if the caller's was. TR-51."""
        return rounded_up(used, 16)

    def _write(self) -> None:
        frame, calls = self.frame, self.attached.calls_original
        if self.is_called():
            self._emit(self.landing_pad())
        self._emit(x86.push_r(Gpr.RBP), lower.mov(Gpr.RBP, Gpr.RSP), self._sub_rsp(frame.size))
        if frame.tail_call is not None:
            self._emit(x86.push_r(Gpr.RAX)) if self.pushes_tail_call() else self._store(frame.tail_call, Gpr.RAX)
        self._store(frame.saved, Gpr.RBX)
        self._meta(meta_of(len(self.plan.slots)))
        if frame.func_ip is not None:
            self._emit(lower.mov_const(Gpr.RAX, self.places.function))
            self._store(frame.func_ip, Gpr.RAX)
        self.store_args()
        if calls:
            self._image_hook("__bpf_tramp_enter")
        if frame.cookies:
            for offset in (*sorted(frame.cookies.values()), frame.result or 0):
                self._emit(lower.mov_const(Gpr.RAX, 0))
                self._store(offset, Gpr.RAX)
        for program in self.attached.before:
            self._program(program)
        branches = self._modifying() if self.attached.modifying else []
        if calls:
            self._original()
        if branches:
            self._align()
            for at in branches:
                self.code[at : at + 6] = x86.jcc_near(Cond.NE, len(self.code) - at - 6)
        if frame.cookies:
            self._meta(meta_of(len(self.plan.slots), returning=True))
        for program in self.attached.after:
            self._program(program, returning=True)
        if calls:
            self._image_hook("__bpf_tramp_exit")
        elif not self.is_called():
            self.restore_registers()
            self.restore_tail_call()
        if frame.result is not None:
            self._emit(x86.mov_rm64(Gpr.RAX, Mem(Gpr.RBP, frame.result)))
        self._emit(x86.mov_rm64(Gpr.RBX, Mem(Gpr.RBP, frame.saved)), x86.leave(), x86.ret())

    def _emit(self, *parts: bytes) -> None:
        for part in parts:
            self.code += part

    def _sub_rsp(self, size: int) -> bytes:
        return x86.sub_ri8(Gpr.RSP, size, bits=64) if size < 128 else x86.sub_ri(Gpr.RSP, size, bits=64)

    def _store(self, offset: int, reg: Gpr) -> None:
        self._emit(x86.mov_m64r(Mem(Gpr.RBP, offset), reg))

    def _call(self, address: int) -> None:
        self._emit(x86.call_near(address - (self.places.base + len(self.code) + CALL_BYTES)))

    def _meta(self, value: int) -> None:
        self._emit(lower.mov_const(Gpr.RAX, value))
        self._store(self.frame.meta, Gpr.RAX)

    def _image_hook(self, name: str) -> None:
        self._emit(lower.mov_const(Gpr.RDI, self.places.image))
        self._call(self.places.hooks[name])

    def _align(self) -> None:
        missing = -len(self.code) % ALIGN
        while missing:
            part = min(missing, max(x86.NOPS))
            self._emit(x86.NOPS[part] if part in x86.NOPS else b"\x90" * part)
            missing -= part

    # --- arguments

    def store_args(self) -> None:
        """Ctx from the registers and the caller's stack arguments."""
        for index, slot in enumerate(self.plan.slots):
            match slot.where:
                case InReg(reg):
                    self._store(self.frame.ctx + EIGHTBYTE * index, Gpr[reg.upper()])
                case OnStack(off):
                    self._copy(off, self.frame.ctx + EIGHTBYTE * index)
                case None:
                    continue

    def _copy(self, offset: int, to: int, *, whole: bool = False) -> None:
        """One stack argument of the caller. TR-13: the upper half of a single narrow one is cleared."""
        self._emit(x86.mov_rm64(Gpr.RAX, Mem(Gpr.RBP, self.incoming() + offset)))
        self._store(to, Gpr.RAX)
        if not whole and self.single_narrow():
            self._emit(x86.mov_m32i(Mem(Gpr.RBP, to + 4), 0))

    def single_narrow(self) -> bool:
        """Whether one slot is on the stack, and has at most 4 bytes; Linux 7.2 asks that of the last argument, wherever it is."""
        stacked = [self.plan.slots[index] for index, _ in self.plan.on_stack]
        asked = stacked[0] if len(stacked) == 1 and self.plan.exact else self.plan.slots[-1]
        return len(stacked) == 1 and asked.size + asked.at <= 4

    def incoming(self) -> int:
        """From RBP to the caller's stack arguments. TR-25."""
        if self.is_called():
            return 16 if self.plan.exact else 24  # TB-10
        return 16 if entered_by_jump(self.attached) else 24

    def is_called(self) -> bool:
        """Whether the trampoline is a function itself, called through a pointer, and not entered from one."""
        return self.plan.target is Target.STRUCT_OPS

    def landing_pad(self) -> bytes:
        """For a kernel with CONFIG_X86_KERNEL_IBT."""
        return x86.endbr64()

    def restore_registers(self) -> None:
        """Argument registers as they were."""
        for index, reg in self.plan.in_registers:
            self._emit(x86.mov_rm64(Gpr[reg.upper()], Mem(Gpr.RBP, self.frame.ctx + EIGHTBYTE * index)))

    def copy_stack(self) -> None:
        """The stack arguments for the original, from the caller's, holes included."""
        for _, offset in self.plan.on_stack:
            self._copy(offset, self.frame.area + offset, whole=self.passes_whole())

    def passes_whole(self) -> bool:
        """Whether the original gets 64 bits of each narrow argument, which BPF code relies on."""
        return self.plan.exact and self.plan.target is Target.BPF

    def restore_tail_call(self) -> None:
        """RAX for the original: the pointer to the tail-call counter."""
        if self.frame.tail_call is not None:
            self._emit(_MOV_RAX_RBP_FAR + self.frame.tail_call.to_bytes(4, "little", signed=True))

    # --- programs

    def _program(self, program: Program, *, returning: bool = False) -> None:
        frame, hooks = self.frame, self.places.hooks
        if program.kind is Kind.FSESSION:
            number = self.attached.of(Kind.FSESSION).index(program)
            words = (frame.ctx - frame.cookies[number]) // EIGHTBYTE
            self._meta(meta_of(len(self.plan.slots), words, returning=returning))
        run = Mem(Gpr.RBP, frame.run)
        self._emit(x86.NOPS[5], lower.mov_const(Gpr.RDI, program.cookie), x86.mov_m64r(run, Gpr.RDI))
        self._emit(lower.mov_const(Gpr.RDI, program.object), x86.lea_rm(Gpr.RSI, run))
        self._call(hooks["__bpf_prog_enter"])
        self._emit(lower.mov(Gpr.RBX, Gpr.RAX), x86.test_rr(Gpr.RAX, Gpr.RAX, bits=64))
        skip = len(self.code)
        self._emit(bytes(2), x86.lea_rm(Gpr.RDI, Mem(Gpr.RBP, frame.ctx)))
        self._call(program.address)
        if program.kind in (Kind.FMOD_RET, Kind.STRUCT_OPS) and frame.result is not None:
            self._store(frame.result, Gpr.RAX)
        self.code[skip : skip + 2] = x86.jcc_short(Cond.E, len(self.code) - skip - 2)
        self._emit(lower.mov_const(Gpr.RDI, program.object), lower.mov(Gpr.RSI, Gpr.RBX), x86.lea_rm(Gpr.RDX, run))
        self._call(hooks["__bpf_prog_exit"])

    def _modifying(self) -> list[int]:
        """fmod_ret programs; gives where the branches past the original are to be."""
        branches: list[int] = []
        self.clear_result()
        for program in self.attached.modifying:
            self._program(program)
            self._emit(x86.cmp_m64i8(Mem(Gpr.RBP, self.frame.result or 0), 0))
            branches.append(len(self.code))
            self._emit(bytes(6))
        return branches

    def clear_result(self) -> None:
        """The first fmod_ret program sees 0."""
        self._emit(lower.mov_const(Gpr.RAX, 0))
        self._store(self.frame.result or 0, Gpr.RAX)

    def _original(self) -> None:
        """The traced function, behind its patched entry."""
        self.restore_registers()
        self.copy_stack()
        self.restore_tail_call()
        self._call(self.places.body)
        self._store(self.frame.result or 0, Gpr.RAX)
