"""Native code moved to the emulator: functions written by hand at addresses where a kernel may have them."""

import pytest

from backends.image import Addresses, Image
from backends.linux.ask import Answer, NativeFunc
from backends.linux.image import ImageError, image_of
from harness.isa.asm import Source, assemble

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
