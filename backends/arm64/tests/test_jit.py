"""Words, frames and refusals of the arm64 JIT, typed by hand."""

import pytest

from backends.arm64.jit import Arm64Jit, Options
from backends.arm64.tests.machine import BASE, HELPER_RESULT, addresses, run, verified
from backends.image import Addresses, CompileError
from harness.isa import opcodes as op
from harness.isa.insn import Insn, Prog, Subprog
from harness.isa.verified import FuncFacts, Verified

PLAIN = Arm64Jit(Options(bti=False, pac=False))
NO_STACK = FuncFacts(0, 0, 0)

TEN_ARGS = verified(
    (
        "main",
        """
        r1 = 1
        r2 = 2
        r3 = 3
        r4 = 4
        r5 = 5
        *(u64 *)(r11 - 8) = 600
        *(u64 *)(r11 - 16) = -7
        *(u64 *)(r11 - 24) = 0
        *(u64 *)(r11 - 32) = 900
        *(u64 *)(r11 - 40) = 0x3b9ab4f8
        call callee
        exit
        """,
        FuncFacts(0, 0, 5),
    ),
    (
        "callee",
        """
        r0 = *(u64 *)(r11 + 8)
        r1 = *(u64 *)(r11 + 16)
        r0 += r1
        r1 = *(u64 *)(r11 + 24)
        r0 += r1
        r1 = *(u64 *)(r11 + 32)
        r0 += r1
        r1 = *(u64 *)(r11 + 40)
        r0 += r1
        exit
        """,
        FuncFacts(0, 5, 0),
    ),
)
TEN_ARGS_WORDS = """
    aa1e03e9 d503201f a9bf7bfd 910003fd a9bf6bff 910003fa d10043ff
    d2800020 d2800041 d2800062 d2800083 d28000a4
    d2804b05 928000c6 d2800007 d280708a f90003ea d2969f0a f2a7734a f90007ea
    94000007 aa0003e8
    910043ff a8c16bff a8c17bfd aa0803e0 d65f03c0
    aa1e03e9 d503201f a9bf7bfd 910003fd a9bf6bfa
    aa0503e8 aa0603e0 8b000108 aa0703e0 8b000108 f9400ba0 8b000108 f9400fa0 8b000108
    a8c16bff a8c17bfd aa0803e0 d65f03c0
"""


def _words(jit: Arm64Jit, program: Verified, where: Addresses | None = None) -> list[str]:
    code = jit.compile(program, where or addresses(program)).code
    return [f"{int.from_bytes(code[at : at + 4], 'little'):08x}" for at in range(0, len(code), 4)]


def _body(text: str, facts: FuncFacts = NO_STACK) -> list[str]:
    """The words of a main prog without its `exit`, which is added and emits none."""
    program = verified(("main", text + "\nexit", facts))
    image = PLAIN.compile(program, addresses(program))
    first, end = image.insn_offsets[0], image.insn_offsets[-1]
    return [f"{int.from_bytes(image.code[at : at + 4], 'little'):08x}" for at in range(first, end, 4)]


def test_ten_arguments_word_for_word() -> None:
    assert _words(PLAIN, TEN_ARGS) == TEN_ARGS_WORDS.split()


def test_ten_arguments_run() -> None:
    seen = run(TEN_ARGS, PLAIN)
    assert (seen.result, seen.sp_kept, seen.lost, seen.fault) == (999996109, True, (), "")


def test_image_says_where_everything_is() -> None:
    image = PLAIN.compile(TEN_ARGS, addresses(TEN_ARGS))
    assert [(s.name, s.offset, s.size, s.subprog) for s in image.symbols] == [
        ("main", 0, 108, 0),
        ("callee", 108, 72, 1),
    ]
    assert image.insn_offsets == (
        28, 32, 36, 40, 44, 48, 52, 56, 60, 68, 80, 88, 128, 132, 136, 140, 144, 148, 152, 156, 160, 164,
    )  # fmt: skip
    assert (image.arch, image.base, image.landing_pads) == ("arm64", BASE, False)


@pytest.mark.parametrize(
    ("options", "start", "end"),
    [
        (Options(bti=True, pac=True), "d50324df aa1e03e9 d503201f d503233f a9bf7bfd 910003fd a9bf6bff 910003fa d503249f",
         "aa0803e0 d50323bf d65f03c0"),
        (Options(bti=True, pac=False), "d50324df aa1e03e9 d503201f a9bf7bfd 910003fd a9bf6bff 910003fa d503249f",
         "aa0803e0 d65f03c0"),
        (Options(bti=False, pac=True), "aa1e03e9 d503201f d503233f a9bf7bfd 910003fd a9bf6bff 910003fa d2800008",
         "aa0803e0 d50323bf d65f03c0"),
    ],
)  # fmt: skip
def test_kernel_configuration(options: Options, start: str, end: str) -> None:
    program = verified(("main", "r0 = 0\nexit", NO_STACK))
    words = _words(Arm64Jit(options), program)
    assert words[: len(start.split())] == start.split()
    assert words[-len(end.split()) :] == end.split()
    assert Arm64Jit(options).compile(program, addresses(program)).landing_pads is options.bti


@pytest.mark.parametrize(
    ("insns", "pushes", "pops"),
    [
        ("r6 = 1", "a9bf7ff3", "a8c17ff3"),
        ("r6 = 1\nr7 = 2", "a9bf53f3", "a8c153f3"),
        ("r6 = 1\nr7 = 2\nr8 = 3", "a9bf53f3 a9bf7ff5", "a8c17ff5 a8c153f3"),
        ("r0 = r9", "a9bf7ff6", "a8c17ff6"),
        ("r6 = r10", "a9bf67f3 910003f9", "a8c167f3"),
        ("r6 = 1\nr7 = 2\nr8 = 3\nr9 = r10", "a9bf53f3 a9bf5bf5 a9bf7ff9 910003f9", "a8c17ff9 a8c15bf5 a8c153f3"),
    ],
)
def test_callee_saved_registers_in_pairs(insns: str, pushes: str, pops: str) -> None:
    words = _words(PLAIN, verified(("main", f"{insns}\nr0 = 0\nexit", NO_STACK)))
    assert words[6 : 6 + len(pushes.split())] == pushes.split()
    assert words[-4 - len(pops.split()) : -4] == pops.split()


@pytest.mark.parametrize(
    ("slots", "sub"),
    [(0, None), (3, None), (4, "d10043ff"), (5, "d10043ff"), (6, "d10083ff"), (7, "d10083ff")],
)
def test_outgoing_area_is_a_multiple_of_16(slots: int, sub: str | None) -> None:
    words = _words(PLAIN, verified(("main", "r0 = 0\nexit", FuncFacts(0, 0, slots))))
    assert words[6] == (sub or "d2800008")


def test_incoming_slots_need_no_area() -> None:
    assert _words(PLAIN, verified(("main", "r0 = 0\nexit", FuncFacts(0, 7, 0))))[6] == "d2800008"


def test_bpf_stack_and_outgoing_area_are_reserved_one_by_one() -> None:
    text = "*(u64 *)(r10 - 8) = 1\nr0 = *(u64 *)(r10 - 8)\nexit"
    words = _words(PLAIN, verified(("main", text, FuncFacts(8, 0, 7))))
    reserve = ["a9bf7ff9", "910003f9", "d10043ff", "d10083ff"]  # stp x25, xzr; mov x25, sp; sub sp by 16, by 32
    body = ["d280002a", "f90017ea", "f94017e8"]  # mov x10, #1; str x10, [sp, #40]; ldr x8, [sp, #40]
    release = ["910083ff", "910043ff", "a8c17ff9", "a8c16bff", "a8c17bfd", "aa0803e0", "d65f03c0"]
    assert words[6:] == [*reserve, *body, *release]


@pytest.mark.parametrize(
    ("insn", "words"),
    [
        ("r1 = 0", "d2800000"),
        ("r1 = -1", "92800000"),
        ("w1 = -1", "12800000"),
        ("r1 = -65536", "929fffe0"),  # movn x0, #0xffff
        ("r1 = -65537", "92a00020"),  # movn x0, #1, lsl #16
        ("r1 = 0x7fffffff", "d29fffe0 f2afffe0"),
        ("r1 = -2147483648", "92afffe0 f2800000"),
        ("r1 = 0x10000", "d2800000 f2a00020"),
        ("r1 = 0xffffffff ll", "12800000"),
        ("r1 = 0x100000000 ll", "d2c00020"),
        ("r1 = -1 ll", "92800000"),
        ("r1 = 0xffff00000000ffff ll", "d2ffffe0 f29fffe0"),
        ("r1 = 0xffffffff00000000 ll", "d2ffffe0 f2dfffe0"),
        ("r1 = 0xffffffffffff0000 ll", "929fffe0"),
        ("r1 = 0x1234ffffffffffff ll", "92fdb960"),
        ("r1 += 4095", "913ffc00"),
        ("r1 += 4096", "91400400"),
        ("r1 += -1", "d1000400"),
        ("r1 -= -4096", "91400400"),
        ("w1 -= 1", "51000400"),
        ("r1 += 4097", "d282002a 8b0a0000"),
        ("r1 += -2147483648", "92afffea f280000a 8b0a0000"),
        ("r1 &= -16", "927cec00"),
        ("w1 &= -16", "121c6c00"),
        ("r1 |= 0", "d280000a aa0a0000"),
        ("r1 ^= -1", "9280000a ca0a0000"),
        ("r1 <<= 5", "d37be800"),
        ("w1 <<= 0", "53007c00"),
        ("w1 >>= 7", "53077c00"),
        ("r1 s>>= 9", "9349fc00"),
        ("r1 %= r2", "9ac1080a 9b018140"),
        ("w1 %= 7", "528000eb 1acb080a 1b0b8140"),
        ("r1 *= r2", "9b017c00"),
        ("r1 = -r1", "cb0003e0"),
        ("w1 = w1", "2a0003e0"),
        ("r0 = *(u8 *)(r1 + 4095)", "397ffc08"),
        ("r0 = *(u64 *)(r1 + 32760)", "f97ffc08"),
        ("r0 = *(u64 *)(r1 + 4)", "d280008a f86a6808"),
        ("r0 = *(u64 *)(r1 - 8)", "928000ea f86a6808"),
        ("*(u8 *)(r1 + 0) = 0", "d280000a 3900000a"),
        ("*(u32 *)(r1 + 2) = -1", "9280000a d280004b b82b680a"),
        ("*(u16 *)(r1 - 2) = r2", "9280002a 782a6801"),
        ("*(u64 *)(r11 - 8) = 305419896", "d28acf05 f2a24685"),
        ("*(u64 *)(r11 - 16) = -305419896", "92a24686 f2953106"),
        ("*(u64 *)(r11 - 24) = r6", "aa1303e7"),
        ("*(u64 *)(r11 - 56) = r9", "f9000ff6"),
        ("r9 = *(u64 *)(r11 + 56)", "f94017b6"),
        ("if r1 == 0 goto +0", "f100001f 54000020"),
        ("if r1 s> -1 goto +0", "b100041f 5400002c"),
        ("if w1 < 4096 goto +0", "7140041f 54000023"),
        ("if r1 == -2147483648 goto +0", "92afffea f280000a eb0a001f 54000020"),
        ("if r1 & 0xff goto +0", "f2401c1f 54000021"),
        ("if w1 & w2 goto +0", "6a01001f 54000021"),
        ("goto +0", "14000001"),
    ],
)
def test_insns_word_for_word(insn: str, words: str) -> None:
    assert _body(insn) == words.split()


def test_an_offset_out_of_sp_range_goes_through_r10() -> None:
    assert _body("r0 = *(u64 *)(r10 - 12)", FuncFacts(16, 0, 0)) == ["9280016a", "f86a6b28"]


def test_an_exit_before_the_last_branches_to_the_epilogue() -> None:
    program = verified(("main", "r0 = 1\nif r0 == 1 goto out\nexit\nout: r0 = 2\nexit", NO_STACK))
    image = PLAIN.compile(program, addresses(program))
    assert image.code[36:40] == bytes.fromhex("02000014")  # b to the insn after the next
    assert image.insn_offsets == (24, 28, 36, 40, 44)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (BASE + 0x400_0000, "94fffffa"),
        (BASE + 24 + 0x7FF_FFFC, "95ffffff"),
        (BASE + 24 + 0x800_0000, "5280030a 72a9000a d63f0140"),
        (BASE + 24 - 0x800_0000, "96000000"),
        (BASE + 24 + 0x402, "5280834a 72a8000a d63f0140"),
        (0x1234_5678_9ABC_DEF0, "d2e2468a f2cacf0a f2b3578a f29bde0a d63f0140"),
        (0xFFFF_8000_1234_5678, "929530ea f2a2468a f2d0000a d63f0140"),
        (0xFFFF_FFFF_FFFF_0000, "929fffea f2bfffea f2dfffea d63f0140"),
    ],
)
def test_calls_out_of_the_image(address: int, words: str) -> None:
    program = verified(("main", "call bpf_ktime_get_ns\nexit", NO_STACK))
    image = PLAIN.compile(program, Addresses(BASE, {"bpf_ktime_get_ns": address}))
    code = image.code[24 : image.insn_offsets[-1]]
    found = [f"{int.from_bytes(code[at : at + 4], 'little'):08x}" for at in range(0, len(code), 4)]
    assert found == [*words.split(), "aa0003e8"]


def test_result_of_a_helper() -> None:
    assert run(verified(("main", "call bpf_ktime_get_ns\nexit", NO_STACK))).result == HELPER_RESULT


def _raw(*insns: Insn) -> Verified:
    return Verified(Prog(insns, (Subprog("main", 0, len(insns)),)), (NO_STACK,), tuple(range(len(insns))))


EXIT = Insn(0x95)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (_raw(Insn(0xB7), Insn(0xFF), EXIT), r"main 1: \(ff\).*not supported"),
        (_raw(Insn(0x18, 1, 1), Insn(0), EXIT), r"main 0: \(18\).*not supported"),
        (_raw(Insn(0x85, imm=5), EXIT), "main 0: .*bpf_ktime_get_ns.*no address"),
        (_raw(Insn(0x85, imm=999), EXIT), "main 0: .*999.*no address"),
        (_raw(Insn(0x85, src=2, imm=1), EXIT), "main 0: .*no address"),
        (_raw(Insn(0x85, src=1, imm=0), EXIT), "main 0: no subprog"),
        (_raw(Insn(0xBF, 11, 1), EXIT), r"main 0: .*r11 has no register"),
        (_raw(Insn(0x79, 0, 11, 4), EXIT), r"main 0: .*r11 has no register"),
        (_raw(Insn(0x67, 1, imm=64), EXIT), "main 0: .*does not fit"),
    ],
)
def test_refusals_name_the_insn(program: Verified, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        PLAIN.compile(program, Addresses(BASE, {}))


def test_a_frame_too_large_for_one_insn_is_refused() -> None:
    with pytest.raises(CompileError, match="main: frame"):
        PLAIN.compile(verified(("main", "exit", FuncFacts(4112, 0, 0))), Addresses(BASE, {}))


def test_every_operation_of_the_opcode_table_is_lowered() -> None:
    for alu in op.ALU:
        for code in (0x4, 0x7) if alu is op.NEG else (0x4, 0x7, 0xC, 0xF):
            PLAIN.compile(_raw(Insn(alu.code << 4 | code, 1, 2 if code & 8 else 0), EXIT), Addresses(BASE, {}))
    for jmp in op.JMP:
        for code in (0x5, 0x6, 0xD, 0xE):
            PLAIN.compile(_raw(Insn(jmp.code << 4 | code, 1, 2 if code & 8 else 0), EXIT), Addresses(BASE, {}))
