"""Native code moved to the emulator: functions written by hand at addresses where a kernel may have them."""

import pytest

from backends.decode import decode_image
from backends.image import Addresses, Image
from backends.linux.ask import Answer, NativeFunc
from backends.linux.image import ImageError, called, image_of
from harness.isa.asm import Source, assemble
from harness.isa.proto import parse_proto

BASE = 0x4000_0000
PADS = Addresses(BASE, {"bpf_get_prandom_u32": 0x4400_0010, "bpf_get_smp_processor_id": 0x4400_0020, "kf": 0x4400_0030})
X86_MAIN, X86_SUB = 0xFFFF_FFFF_C000_0100, 0xFFFF_FFFF_C000_0200
ARM_MAIN, ARM_SUB = 0xFFFF_8000_8200_1000, 0xFFFF_8000_8200_1100
HELPER = {"x86_64": 0xFFFF_FFFF_8123_4560, "arm64": 0xFFFF_8000_8031_A098}


def moved(arch: str, text: str, funcs: list[tuple[int, str]], lines: list[tuple[int, int]], sub: str = "") -> Image:
    sources = [Source("main", text)] + ([Source("f", sub)] if sub else [])
    prog = assemble(sources, []).prog
    answer = Answer(0, "", funcs=tuple(NativeFunc(at, bytes.fromhex(code)) for at, code in funcs), lines=tuple(lines))
    return image_of(arch, prog, answer, {HELPER[arch]: "bpf_get_prandom_u32"}, PADS)


def rel32(target: int, after: int) -> str:
    return (target - after & 0xFFFF_FFFF).to_bytes(4, "little").hex()


def test_x86_64_calls() -> None:
    """`call f; call helper; ret` and `ret`: displacements lead to where the functions lie in the image, 16 bytes aligned."""
    main = "e8" + rel32(X86_SUB, X86_MAIN + 5) + "e8" + rel32(HELPER["x86_64"], X86_MAIN + 10) + "c3"
    lines = [(0, X86_MAIN), (1, X86_MAIN + 5), (2, X86_MAIN + 10), (3, X86_SUB), (4, X86_SUB)]
    image = moved(
        "x86_64", "call f\ncall bpf_get_prandom_u32\nexit", [(X86_MAIN, main), (X86_SUB, "c3")], lines, "r0 = 0\nexit"
    )
    assert image.code[:11].hex() == "e8" + rel32(BASE + 16, BASE + 5) + "e8" + rel32(0x4400_0010, BASE + 10) + "c3"
    assert [(s.name, s.offset, s.size, s.subprog) for s in image.symbols] == [("main", 0, 11, 0), ("f", 16, 1, 1)]
    assert image.insn_offsets == (0, 5, 10, 16, 16)
    assert (image.inlined, image.kernel_data, image.landing_pads) == (frozenset(), False, False)


def test_x86_64_padding() -> None:
    """What lies between two functions never takes the first bytes of the second for its own."""
    lines = [(0, X86_MAIN), (1, X86_MAIN + 14), (2, X86_SUB), (3, X86_SUB + 4)]
    main = "90" * 9 + "e8" + rel32(X86_SUB, X86_MAIN + 14) + "c3"
    image = moved("x86_64", "call f\nexit", [(X86_MAIN, main), (X86_SUB, "f30f1efac3")], lines, "r0 = 0\nexit")
    assert decode_image(image).insns[16].mnemonic == "endbr64"


def test_x86_64_return_thunk() -> None:
    """A jump out of the function is the return thunk: `ret` and traps take its place."""
    code = "f30f1efa" + "e9" + rel32(0xFFFF_FFFF_8200_0000, X86_MAIN + 9)
    image = moved("x86_64", "exit", [(X86_MAIN, code)], [(0, X86_MAIN)])
    assert image.code[:9].hex(" ") == "f3 0f 1e fa c3 cc cc cc cc"
    assert image.landing_pads


def test_x86_64_per_cpu() -> None:
    """mov rax, A; add rax, gs:[B]; mov eax, [rax]: the addresses become those of the page that stands for it."""
    code = "48c7c034d0db83" + "6548030425" + "28d0db83" + "8b00" + "c3"
    lines = [(0, X86_MAIN), (1, X86_MAIN + 18)]
    image = moved("x86_64", "call bpf_get_smp_processor_id\nexit", [(X86_MAIN, code)], lines)
    assert image.code[:19].hex(" ") == "48 c7 c0 34 00 00 28 65 48 03 04 25 28 00 00 28 8b 00 c3"
    assert (image.kernel_data, image.inlined) == (True, frozenset({0}))


def arm(*words: int) -> str:
    return b"".join(word.to_bytes(4, "little") for word in words).hex()


def test_arm64_calls() -> None:
    """`bl f`, `bl helper`; then the helper by movn, movk, movk, blr."""
    far = HELPER["arm64"]
    low, middle, high = (far >> shift & 0xFFFF for shift in (0, 16, 32))
    main = arm(
        0x9400_0000 | (ARM_SUB - ARM_MAIN) // 4,
        0x9280_000A | (~low & 0xFFFF) << 5,  # movn x10, #~low
        0xF2A0_000A | middle << 5,  # movk x10, #middle, lsl #16
        0xF2C0_000A | high << 5,  # movk x10, #high, lsl #32
        0xD63F_0140,  # blr x10
        0xD65F_03C0,  # ret
    )
    lines = [(0, ARM_MAIN), (1, ARM_MAIN + 4), (2, ARM_MAIN + 20), (3, ARM_SUB), (4, ARM_SUB)]
    text = "call f\ncall bpf_get_prandom_u32\nexit"
    image = moved("arm64", text, [(ARM_MAIN, main), (ARM_SUB, arm(0xD65F_03C0))], lines, "r0 = 0\nexit")
    # The first function takes 24 bytes, so the second lies at 32; movz x10, #0x10; movk x10, #0x4400, lsl #16; movk x10, #0
    assert image.code[:24].hex() == arm(0x9400_0008, 0xD280_020A, 0xF2A8_800A, 0xF2C0_000A, 0xD63F_0140, 0xD65F_03C0)
    assert image.inlined == frozenset()


def test_arm64_current_task() -> None:
    """mrs x10, sp_el0; ldr w8, [x10, #24]: movz x10, #0x2800, lsl #16 takes the place of the first."""
    code = arm(0xD538_410A, 0xB940_1948, 0xD65F_03C0)
    image = moved(
        "arm64", "call bpf_get_smp_processor_id\nexit", [(ARM_MAIN, code)], [(0, ARM_MAIN), (1, ARM_MAIN + 8)]
    )
    assert image.code[:4].hex() == arm(0xD2A5_000A)
    assert (image.kernel_data, image.inlined) == (True, frozenset({0}))


@pytest.mark.parametrize(
    ("arch", "at", "code"),
    [
        ("x86_64", X86_MAIN, "e800000100c3"),
        ("arm64", ARM_MAIN, arm(0x9400_1000)),
        ("arm64", ARM_MAIN, arm(0xD63F_0140)),
    ],
)
def test_a_call_of_something_unknown(arch: str, at: int, code: str) -> None:
    with pytest.raises(ImageError, match="neither a subprog nor a helper or kfunc"):
        moved(arch, "exit", [(at, code)], [(0, at)])


def test_insns_that_the_kernel_removed() -> None:
    """Those without native code have the offset of the next that has some, or their function's end."""
    lines = [(0, X86_MAIN), (3, X86_MAIN + 1)]
    image = moved("x86_64", "r0 = 1\nr1 = 2\nr2 = 3\nexit\nexit", [(X86_MAIN, "90c3")], lines)
    assert image.insn_offsets == (0, 1, 1, 1, 2)


def test_no_native_code() -> None:
    with pytest.raises(ImageError, match="its JIT is off, or the reader has no right to see it"):
        moved("x86_64", "exit", [], [])


def test_x86_64_per_cpu_keeps_its_place_in_the_page() -> None:
    """add rax, gs:[0xffffffff83dbd7a8]: 0x7a8 bytes into the page."""
    code = "6548030425" + "a8d7db83" + "c3"
    image = moved("x86_64", "call bpf_get_smp_processor_id\nexit", [(X86_MAIN, code)], [(0, X86_MAIN)])
    assert image.code[:10].hex() == "6548030425" + "a8070028" + "c3"


def test_functions_lie_on_multiples_of_16() -> None:
    """Of 17, 16 and 1 bytes: at 0, 32 and 48, in the order of the kernel, with traps between them."""
    funcs = [(X86_MAIN, "90" * 16 + "c3"), (X86_SUB, "90" * 15 + "c3"), (X86_SUB + 0x100, "c3")]
    lines = [(0, X86_MAIN), (1, X86_MAIN + 16), (2, X86_SUB), (4, X86_SUB + 0x100)]
    prog = assemble([Source("main", "call f\nexit"), Source("f", "call g\nexit"), Source("g", "exit")], []).prog
    answer = Answer(0, "", funcs=tuple(NativeFunc(at, bytes.fromhex(code)) for at, code in funcs), lines=tuple(lines))
    image = image_of("x86_64", prog, answer, {}, PADS)
    assert [(s.name, s.offset, s.size, s.subprog) for s in image.symbols] == [
        ("main", 0, 17, 0), ("f", 32, 16, 1), ("g", 48, 1, 2),
    ]  # fmt: skip
    assert image.code.hex() == ("90" * 16 + "c3").ljust(64, "c") + "90" * 15 + "c3" + "c3".ljust(32, "c")
    assert (image.arch, image.base, image.source.prog) == ("x86_64", BASE, prog)
    assert image.insn_offsets == (0, 16, 32, 48, 48)


def test_a_subprog_that_the_kernel_dropped() -> None:
    """Its insns are at the end, where no function is; the ones around it keep their names."""
    sources = [Source(name, text) for name, text in (("main", "call g\nexit"), ("f", "r0 = 0\nexit"), ("g", "exit"))]
    funcs = (NativeFunc(X86_MAIN, b"\x90\xc3"), NativeFunc(X86_SUB, b"\xc3"))
    lines = ((0, X86_MAIN), (1, X86_MAIN + 1), (4, X86_SUB))
    image = image_of("x86_64", assemble(sources, []).prog, Answer(0, "", funcs=funcs, lines=lines), {}, PADS)
    assert [(s.name, s.offset, s.subprog) for s in image.symbols] == [("main", 0, 0), ("g", 16, 2)]
    assert image.insn_offsets == (0, 1, 17, 17, 16)
    assert [image.insn_at(offset) for offset in (0, 1, 16, 17)] == [0, 1, 4, None]


def test_the_second_slot_of_a_constant() -> None:
    lines = [(0, X86_MAIN), (2, X86_MAIN + 10)]
    image = moved("x86_64", "r0 = 5 ll\nexit", [(X86_MAIN, "48b8" + "05" + "00" * 7 + "c3")], lines)
    assert image.insn_offsets == (0, 10, 10)


def test_x86_64_jumps_inside_a_function_stay() -> None:
    """At 0 a jump to 6, and at 6 one to 0: the first byte of a function is inside it."""
    code = "e901000000" + "90" + "e9" + "f5ffffff" + "c3"
    assert moved("x86_64", "exit", [(X86_MAIN, code)], [(0, X86_MAIN)]).code[:12].hex() == code


def test_x86_64_return_thunk_of_every_exit() -> None:
    """Two of them in one function; the bytes around them stay."""
    thunk = 0xFFFF_FFFF_8200_0000
    code = "90e9" + rel32(thunk, X86_MAIN + 6) + "90e9" + rel32(thunk, X86_MAIN + 12)
    assert moved("x86_64", "exit", [(X86_MAIN, code)], [(0, X86_MAIN)]).code[:12].hex(" ") == (
        "90 c3 cc cc cc cc 90 c3 cc cc cc cc"
    )


def test_x86_64_a_call_backwards() -> None:
    """f, at 16, calls main, at 0: 5 + 16 bytes back."""
    lines = [(0, X86_MAIN), (1, X86_SUB), (2, X86_SUB + 5)]
    funcs = [(X86_MAIN, "c3"), (X86_SUB, "e8" + rel32(X86_MAIN, X86_SUB + 5) + "c3")]
    image = moved("x86_64", "exit", funcs, lines, "call pc-2\nexit")
    assert image.code[16:22].hex() == "e8" + "ebffffff" + "c3"


@pytest.mark.parametrize("variable", [0xFFFF_FFFF_83DB_D028, 0xFFFF_FFFF_C100_0028])
def test_x86_64_per_cpu_from_rip(variable: int) -> None:
    """add rax, gs:[rip + X], 8 bytes: X leads from the next insn to the variable."""
    code = "65480305" + rel32(variable, X86_MAIN + 8) + "c3"
    image = moved("x86_64", "call bpf_get_smp_processor_id\nexit", [(X86_MAIN, code)], [(0, X86_MAIN)])
    assert image.code[:9].hex() == "65480305" + rel32(0x2800_0028, BASE + 8) + "c3"


@pytest.mark.parametrize(
    ("arch", "at", "first", "pads"),
    [
        ("x86_64", X86_MAIN, "f30f1efa", True),  # endbr64
        ("x86_64", X86_MAIN, "0f1f4000", False),  # nop
        ("arm64", ARM_MAIN, "5f2403d5", True),  # bti c
        ("arm64", ARM_MAIN, "3f2303d5", False),  # paciasp
    ],
)
def test_landing_pads(arch: str, at: int, first: str, pads: bool) -> None:
    end = {"x86_64": "c3", "arm64": "c0035fd6"}[arch]
    assert moved(arch, "exit", [(at, first + end)], [(0, at)]).landing_pads == pads


def test_arm64_a_call_backwards() -> None:
    """nop; bl main; ret: f lies at 16, so main, at 0, is 5 insns before the call."""
    back = 0x9400_0000 | (ARM_MAIN - ARM_SUB - 4) // 4 & 0x3FF_FFFF
    funcs = [(ARM_MAIN, arm(0xD65F_03C0)), (ARM_SUB, arm(0xD503_201F, back, 0xD65F_03C0))]
    lines = [(0, ARM_MAIN), (1, ARM_SUB + 4), (1, ARM_SUB), (2, ARM_SUB + 8)]
    image = moved("arm64", "exit", funcs, lines, "call pc-2\nexit")
    assert image.code[16:28].hex() == arm(0xD503_201F, 0x97FF_FFFB, 0xD65F_03C0)


def test_arm64_only_the_constant_of_the_call_is_changed() -> None:
    """movz x10, #7; movz x9, ...: the first is of another register's run; 4 parts of 16 bits lead to the pad."""
    code = arm(
        0xD280_00E9,  # movz x9, #7
        0xD294_130A,  # movz x10, #0xa098
        0xF2B0_062A,  # movk x10, #0x8031, lsl #16
        0xF2D0_000A,  # movk x10, #0x8000, lsl #32
        0xF2FF_FFEA,  # movk x10, #0xffff, lsl #48
        0xD63F_0140,  # blr x10
        0xD65F_03C0,  # ret
    )
    lines = [(0, ARM_MAIN), (1, ARM_MAIN + 24)]
    image = moved("arm64", "call bpf_get_prandom_u32\nexit", [(ARM_MAIN, code)], lines)
    assert image.code[:28].hex() == arm(
        0xD280_00E9, 0xD280_020A, 0xF2A8_800A, 0xF2C0_000A, 0xF2E0_000A, 0xD63F_0140, 0xD65F_03C0
    )


def test_a_kfunc_is_found_by_its_address() -> None:
    prog = assemble([Source("main", "call kf\nexit")], [parse_proto("u64 kf(void)")]).prog
    code = bytes.fromhex("e8" + rel32(0xFFFF_FFFF_C020_0000, X86_MAIN + 5) + "c3")
    answer = Answer(0, "", funcs=(NativeFunc(X86_MAIN, code),), lines=((0, X86_MAIN), (1, X86_MAIN + 5)))
    image = image_of("x86_64", prog, answer, {0xFFFF_FFFF_C020_0000: "kf"}, PADS)
    assert image.code[:6].hex() == "e8" + rel32(0x4400_0030, BASE + 5) + "c3"


def test_an_unknown_target_is_named() -> None:
    code = "e8" + rel32(0xFFFF_FFFF_8100_0010, X86_MAIN + 5) + "c3"
    with pytest.raises(ImageError, match=r"^`call 0xffffffff81000010` refers to 0xffffffff81000010, which"):
        moved("x86_64", "exit", [(X86_MAIN, code)], [(0, X86_MAIN)])
    words = arm(0xD280_020A, 0xF2B0_000A, 0xD63F_0140)  # movz x10, #0x10; movk x10, #0x8000, lsl #16; blr x10
    with pytest.raises(ImageError, match=r"^`blr` refers to 0x80000010, which"):
        moved("arm64", "exit", [(ARM_MAIN, words)], [(0, ARM_MAIN)])


def test_a_helper_that_the_case_cannot_call() -> None:
    prog = assemble([Source("main", "exit")], []).prog
    code = bytes.fromhex("e8" + rel32(HELPER["x86_64"], X86_MAIN + 5) + "c3")
    answer = Answer(0, "", funcs=(NativeFunc(X86_MAIN, code),), lines=((0, X86_MAIN),))
    with pytest.raises(ImageError, match="neither a subprog nor a helper or kfunc of the case"):
        image_of("x86_64", prog, answer, {HELPER["x86_64"]: "bpf_trace_printk"}, PADS)


def test_lines_that_do_not_fit_the_functions() -> None:
    with pytest.raises(ImageError, match=f"does not say which insns the function at {X86_SUB:#x} has"):
        moved("x86_64", "exit", [(X86_MAIN, "c3"), (X86_SUB, "c3")], [(0, X86_MAIN)], "exit")
    with pytest.raises(ImageError, match=f"native code is at {X86_MAIN + 1:#x}, outside every function"):
        moved("x86_64", "r0 = 0\nexit", [(X86_MAIN, "c3")], [(0, X86_MAIN), (1, X86_MAIN + 1)])


def test_one_helper_is_called_and_one_is_inlined() -> None:
    code = "e8" + rel32(HELPER["x86_64"], X86_MAIN + 5) + "31c0" + "c3"
    lines = [(0, X86_MAIN), (1, X86_MAIN + 5), (2, X86_MAIN + 7)]
    text = "call bpf_get_prandom_u32\ncall bpf_get_smp_processor_id\nexit"
    assert moved("x86_64", text, [(X86_MAIN, code)], lines).inlined == frozenset({1})


def test_what_a_function_calls() -> None:
    x86 = NativeFunc(X86_MAIN, bytes.fromhex("e8" + rel32(X86_SUB, X86_MAIN + 5) + "ffd0" + "c3"))
    assert list(called("x86_64", x86)) == [X86_SUB]
    words = arm(0x9400_0000 | (ARM_SUB - ARM_MAIN) // 4, 0xD63F_0140, 0xD65F_03C0)
    assert list(called("arm64", NativeFunc(ARM_MAIN, bytes.fromhex(words)))) == [ARM_SUB]
