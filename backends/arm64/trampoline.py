"""Trampolines for arm64, as Linux 7.2 frames them. TR-40 to TR-44."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from backends.abi import EIGHTBYTE, InReg, OnStack
from backends.arm64 import encode as a64
from backends.arm64 import lower
from backends.arm64.encode import SP, ZR
from backends.trampoline import (
    HOOKS,
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
from harness.isa.ctypes import ARM64, CFloat, CType, CVector, leaves, natural_of, rounded_up, size_of
from harness.isa.proto import Proto

# Linux 7.2 accepts one slot more than ctx has arguments for (TB-09): it does not count them.
MODEL: Final = ARM64
ASSUMED: Final = Assumed(tuple(f"x{n}" for n in range(8)), "sp", stops=True, most_slots=2 * MAX_ARGS)


def _homogeneous(ctype: CType) -> bool:
    """AAPCS64, C.2, for at most 16 bytes: one to four equal floats or vectors, and nothing else, no gap either."""
    found = list(leaves(ctype, MODEL))
    kinds = {(type(leaf.type), leaf.size_bits) for leaf in found}
    floats = all(isinstance(leaf.type, CFloat | CVector) for leaf in found)
    ends = {leaf.at_bit: leaf.at_bit + leaf.size_bits for leaf in found}
    return floats and len(kinds) == 1 and 1 <= len(ends) <= 4 and max(ends.values()) == 8 * size_of(ctype, MODEL)


# AAPCS64, C.10 and C.14: natural alignment counts, so that an attribute on the whole type does not.
RULES: Final = Placement(
    ASSUMED,
    pairs=True,
    is_wide=lambda ctype: natural_of(ctype, MODEL) > EIGHTBYTE,
    in_memory=lambda ctype: False,
    in_vectors=_homogeneous,
    empty=lambda ctype, at: False,
)
INCOMING: Final = 32  # from X29 to the stack arguments: two frame records. TR-25
CALLED_INCOMING: Final = 16  # one of them
FP, LR, TMP, KEPT, PROG, START = 29, 30, 10, 9, 19, 20
RUN_CONTEXT: Final = 16
# Where a kernel has things, as far as sizes of insns depend on it.
_FAR_OBJECT: Final = 0xFFFF_8000_8269_5000
FAR: Final = Places(BASE := 0xFFFF_8000_7A5C_0000, BASE, BASE + 8, 0xFFFF_1234_5678_9A00, dict.fromkeys(HOOKS, BASE))


def plan(
    proto: Proto, kinds: Sequence[Kind], mode: Mode, target: Target = Target.KERNEL, *, tail_call: bool = False
) -> Plan:
    """What a trampoline on a function has to know. Raises RefusedError."""
    check_target(proto, mode, tail_call=tail_call)
    return plan_of(proto, kinds, mode, target, MODEL, RULES)


class Arm64Trampoline:
    """Makes trampolines. Each choice is one method, so that a test can make one wrong."""

    arch = "arm64"

    def make(self, plan: Plan, attached: Attached, places: Places) -> bytes:
        """The native code, for a function that begins with `mov x9, x30; bl trampoline`."""
        self.plan, self.attached, self.places = plan, attached, places
        self.frame = self.make_frame()
        self.words: list[int] = []
        self._write()
        return b"".join(word.to_bytes(4, "little") for word in self.words)

    def page_bytes(self, plan: Plan, attached: Attached) -> int:
        """What Linux 7.2 takes the code to need: far calls, of 16 bytes, in place of the near ones that it then makes. Measured."""
        near = tuple(replace(one, address=FAR.base, object=_FAR_OBJECT) for one in attached.programs)
        code = self.make(plan, replace(attached, programs=near), FAR)
        runs = len(attached.before) + len(attached.modifying) + len(attached.after)
        hooks = 2 if attached.calls_original else 0
        return len(code) + 12 * (3 * runs + hooks) + 4 * hooks

    def make_frame(self) -> Frame:
        """Offsets from SP. TR-40."""
        calls, has_result = self.attached.calls_original, gives_result(self.plan, self.attached)
        at = self.area_bytes() if calls else 0
        run, at = at, at + RUN_CONTEXT
        cookies: dict[int, int] = {}
        for number, _ in enumerate(self.attached.of(Kind.FSESSION)):
            cookies[number], at = at, at + EIGHTBYTE
        func_ip = at if self.attached.func_ip else None
        at += EIGHTBYTE if self.attached.func_ip else 0
        ctx = at + EIGHTBYTE
        at = ctx + EIGHTBYTE * len(self.plan.slots)
        result = at if has_result else None
        saved = at + (EIGHTBYTE if has_result else 0)
        return Frame(self.frame_size(saved + 16), ctx, run, saved, 0, result, func_ip, cookies)

    def area_bytes(self) -> int:
        """Of the stack arguments for the original."""
        return self.plan.area_bytes

    def frame_size(self, used: int) -> int:
        """SP stays a multiple of 16. TR-41."""
        return rounded_up(used, 16)

    def _write(self) -> None:
        frame, calls = self.frame, self.attached.calls_original
        if not self.is_called():
            self._emit(a64.stp_push(FP, KEPT, SP, -16), self._mov_sp(FP))
        self._emit(a64.stp_push(FP, LR, SP, -16), self._mov_sp(FP))
        self._emit(lower.sub_imm(64, SP, SP, frame.size))
        if frame.func_ip is not None:
            self._emit(*lower.mov_address(TMP, self.places.function), a64.str_rm(TMP, SP, frame.func_ip))
        self._meta(meta_of(len(self.plan.slots)))
        self.store_args()
        self._emit(a64.str_rm(PROG, SP, frame.saved), a64.str_rm(START, SP, frame.saved + 8))
        if calls:
            self._image_hook("__bpf_tramp_enter")
        if frame.cookies:
            self._emit(a64.movz_ri[64](TMP, 0, 0))
            for offset in (*frame.cookies.values(), frame.result or 0):
                self._emit(a64.str_rm(TMP, SP, offset))
        for program in self.attached.before:
            self._program(program)
        branches = self._modifying() if self.attached.modifying else []
        if calls:
            self._original()
            for at in branches:
                self.words[at] = a64.cbnz_ri[64](TMP, 4 * (len(self.words) - at))
        if frame.cookies:
            self._meta(meta_of(len(self.plan.slots), returning=True))
        for program in self.attached.after:
            self._program(program, returning=True)
        if calls:
            self._image_hook("__bpf_tramp_exit")
        elif not self.is_called():
            self.restore_registers()
        self._leave()

    def _emit(self, *words: int) -> None:
        self.words += words

    def _mov_sp(self, reg: int) -> int:
        return a64.add_rri[64](reg, SP, 0)

    def _call(self, address: int) -> None:
        self._emit(a64.bl_i(address - (self.places.base + 4 * len(self.words))))

    def _meta(self, value: int) -> None:
        self._emit(*lower.mov_imm64(TMP, value), a64.str_rm(TMP, SP, self.frame.meta))

    def _image_hook(self, name: str) -> None:
        self._emit(*lower.mov_imm64(0, self.places.image))
        self._call(self.places.hooks[name])

    # --- arguments

    def store_args(self) -> None:
        """Ctx from the registers and the caller's stack arguments. TR-13: stack arguments are cleared above their size."""
        for index, slot in enumerate(self.plan.slots):
            reg = TMP
            match slot.where:
                case InReg(name):
                    reg = int(name[1:])
                case OnStack(off):
                    self._emit(a64.ldr_rm(TMP, FP, self.incoming() + off))
                    if slot.size < EIGHTBYTE:
                        bits = 8 * (EIGHTBYTE - slot.size)
                        self._emit(a64.ubfm_rrii[64](TMP, TMP, 64 - bits, 63 - bits))
                        self._emit(a64.ubfm_rrii[64](TMP, TMP, bits, 63))
                case None:
                    continue
            self._emit(a64.str_rm(reg, SP, self.frame.ctx + EIGHTBYTE * index))

    def incoming(self) -> int:
        """From X29 to the caller's stack arguments."""
        return CALLED_INCOMING if self.is_called() else INCOMING

    def is_called(self) -> bool:
        """Whether the trampoline is a function itself, called through a pointer, and not entered from one."""
        return self.plan.target is Target.STRUCT_OPS

    def restore_registers(self) -> None:
        """Argument registers as they were."""
        for index, reg in self.plan.in_registers:
            self._emit(a64.ldr_rm(int(reg[1:]), SP, self.frame.ctx + EIGHTBYTE * index))

    def copy_stack(self) -> None:
        """The stack arguments for the original, from the caller's, holes included."""
        for _, offset in self.plan.on_stack:
            self._emit(a64.ldr_rm(TMP, FP, self.incoming() + offset), a64.str_rm(TMP, SP, self.frame.area + offset))

    # --- programs

    def _program(self, program: Program, *, returning: bool = False) -> None:
        frame, hooks = self.frame, self.places.hooks
        if program.kind is Kind.FSESSION:
            number = self.attached.of(Kind.FSESSION).index(program)
            words = (frame.ctx - frame.cookies[number]) // EIGHTBYTE
            self._meta(meta_of(len(self.plan.slots), words, returning=returning))
        self._emit(a64.nop())
        if program.cookie:
            self._emit(*lower.mov_imm64(TMP, program.cookie))
        self._emit(a64.str_rm(TMP if program.cookie else ZR, SP, frame.run), *lower.mov_address(PROG, program.object))
        self._emit(a64.mov_rr[64](0, PROG), a64.add_rri[64](1, SP, frame.run))
        self._call(hooks["__bpf_prog_enter"])
        self._emit(a64.mov_rr[64](START, 0))
        skip = len(self.words)
        self._emit(0, a64.add_rri[64](0, SP, frame.ctx))
        self._call(program.address)
        if program.kind in (Kind.FMOD_RET, Kind.STRUCT_OPS) and frame.result is not None:
            self._emit(a64.str_rm(0, SP, frame.result))
        self.words[skip] = a64.cbz_ri[64](0, 4 * (len(self.words) - skip))
        self._emit(a64.mov_rr[64](0, PROG), a64.mov_rr[64](1, START), a64.add_rri[64](2, SP, frame.run))
        self._call(hooks["__bpf_prog_exit"])

    def _modifying(self) -> list[int]:
        """fmod_ret programs; gives where the branches past the original are to be."""
        branches: list[int] = []
        self.clear_result()
        for program in self.attached.modifying:
            self._program(program)
            self._emit(a64.ldr_rm(TMP, SP, self.frame.result or 0))
            branches.append(len(self.words))
            self._emit(0)
        return branches

    def clear_result(self) -> None:
        """The first fmod_ret program sees 0."""
        self._emit(a64.str_rm(ZR, SP, self.frame.result or 0))

    def _original(self) -> None:
        """The traced function, behind its patched call. TR-44: entered by RET."""
        self.restore_registers()
        self.copy_stack()
        self._emit(a64.ldr_rm(TMP, SP, self.frame.size + 8), a64.adr_i(LR, 8), a64.ret_r(TMP))
        self._emit(a64.str_rm(0, SP, self.frame.result or 0))

    def _leave(self) -> None:
        frame, calls = self.frame, self.attached.calls_original
        self._emit(a64.ldr_rm(PROG, SP, frame.saved), a64.ldr_rm(START, SP, frame.saved + 8))
        if frame.result is not None:
            self._emit(a64.ldr_rm(0, SP, frame.result))
        self._emit(a64.add_rri[64](SP, FP, 0), a64.ldp_pop(FP, LR, SP, 16))
        if self.is_called():
            self._emit(a64.ret_r(LR))
            return
        self._emit(a64.ldp_pop(FP, KEPT, SP, 16))
        if calls:
            self._emit(a64.mov_rr[64](LR, KEPT), a64.ret_r(KEPT))
        else:
            self._emit(a64.mov_rr[64](TMP, LR), a64.mov_rr[64](LR, KEPT), a64.ret_r(TMP))
