"""The machine that runs compiled code against a layout, on native code written by hand: right, and wrong in one place."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from backends import emulator as emu
from backends.abi import Layout
from backends.arm64 import abi as arm64
from backends.oracle.machine import Machine, covered, mask_of, value_of
from backends.tests.abi_doubles import EvenPairs, NoC10
from backends.x86_64 import abi as x86_64
from harness.isa.ctypes import ARM64, X86_64
from harness.isa.proto import parse_proto

PROTO = parse_proto("u16 f(u32 a, __int128 b)")
# Stores a (w0) at 0x20004000 and b (x2, x3) at 0x20004100; returns the u16 at 0x20003000.
ARM64_CALLEE = """
    010088d2 mov x1, #0x4000
    0100a4f2 movk x1, #0x2000, lsl #16
    200000b9 str w0, [x1]
    228000f9 str x2, [x1, #256]
    238400f9 str x3, [x1, #264]
    010086d2 mov x1, #0x3000
    0100a4f2 movk x1, #0x2000, lsl #16
    20004079 ldrh w0, [x1]
    c0035fd6 ret
"""
# Loads a from 0x20000000 and b from 0x20000100, calls x0, and stores the u16 that it returns at 0x20007000.
ARM64_CALLER = """
    fd7bbfa9 stp x29, x30, [sp, #-16]!
    e90300aa mov x9, x0
    0800a4d2 mov x8, #0x20000000
    000140b9 ldr w0, [x8]
    028140f9 ldr x2, [x8, #256]
    038540f9 ldr x3, [x8, #264]
    20013fd6 blr x9
    08008ed2 mov x8, #0x7000
    0800a4f2 movk x8, #0x2000, lsl #16
    00010079 strh w0, [x8]
    fd7bc1a8 ldp x29, x30, [sp], #16
    c0035fd6 ret
"""
X86_64_CALLEE = """
    893c2500400020 mov dword ptr [0x20004000], edi
    4889342500410020 mov qword ptr [0x20004100], rsi
    4889142508410020 mov qword ptr [0x20004108], rdx
    0fb7042500300020 movzx eax, word ptr [0x20003000]
    c3 ret
"""
X86_64_CALLER = """
    53 push rbx
    4889f8 mov rax, rdi
    8b3c2500000020 mov edi, dword ptr [0x20000000]
    488b342500010020 mov rsi, qword ptr [0x20000100]
    488b142508010020 mov rdx, qword ptr [0x20000108]
    ffd0 call rax
    6689042500700020 mov word ptr [0x20007000], ax
    5b pop rbx
    c3 ret
"""
CODE = {"arm64": (ARM64_CALLEE, ARM64_CALLER), "x86_64": (X86_64_CALLEE, X86_64_CALLER)}
MODULES = {"arm64": arm64, "x86_64": x86_64}


def assembled(text: str) -> bytes:
    return bytes.fromhex("".join(line.split()[0] for line in text.splitlines() if line.strip()))


def differences(arch: str, layout: Layout, callee: str, caller: str) -> tuple[list[str], list[str]]:
    machine = Machine(MODULES[arch].ABI)
    first = assembled(callee).ljust(64, b"\0")
    machine.load(first + assembled(caller))
    rng = random.Random(1)
    found = (machine.callee(emu.CODE_BASE, layout, rng), machine.caller(emu.CODE_BASE + len(first), layout, rng))
    return [mismatch.what for mismatch in found[0]], [mismatch.what for mismatch in found[1]]


@pytest.mark.parametrize("arch", ["arm64", "x86_64"])
def test_right_code_agrees(arch: str) -> None:
    assert differences(arch, MODULES[arch].layout(PROTO), *CODE[arch]) == ([], [])


@pytest.mark.parametrize(("arch", "rules"), [("arm64", NoC10), ("x86_64", EvenPairs)])
def test_a_wrong_layout_shows_on_both_sides(arch: str, rules: type) -> None:
    assert differences(arch, MODULES[arch].layout(PROTO, rules), *CODE[arch]) == (["b"], ["b"])


def without(text: str, *names: str) -> str:
    return "\n".join(line for line in text.splitlines() if not any(name in line for name in names))


def test_a_result_that_is_elsewhere() -> None:
    for arch, callee, caller in (
        ("arm64", without(ARM64_CALLEE, "ldrh"), without(ARM64_CALLER, "strh")),
        ("x86_64", without(X86_64_CALLEE, "movzx"), without(X86_64_CALLER, "], ax")),
    ):
        assert differences(arch, MODULES[arch].layout(PROTO), callee, caller) == (["result"], ["result"])


def test_a_misaligned_stack() -> None:
    layout = x86_64.layout(PROTO)
    assert differences("x86_64", layout, X86_64_CALLEE, without(X86_64_CALLER, "push", "pop")) == ([], ["stack"])


def test_vector_registers_that_al_does_not_count() -> None:
    layout = replace(x86_64.layout(PROTO), vector_args=1)  # the call leaves the low byte of its target there, 0
    assert differences("x86_64", layout, X86_64_CALLEE, X86_64_CALLER) == ([], ["al"])
    assert differences("x86_64", replace(layout, vector_args=0), X86_64_CALLEE, X86_64_CALLER) == ([], [])


def test_code_that_goes_astray() -> None:
    jump = "31c0 xor eax, eax\nffe0 jmp rax"
    assert differences("x86_64", x86_64.layout(PROTO), jump, "c3 ret") == (["run"], ["run"])


def test_the_address_of_a_result_in_memory_comes_back() -> None:
    layout = x86_64.layout(parse_proto("struct {u64 r[3];} f(void)"))
    store = "488b042500300020 mov rax, [0x20003000]\n488907 mov [rdi], rax\n"
    store += "488b042508300020 mov rax, [0x20003008]\n48894708 mov [rdi+8], rax\n"
    store += "488b042510300020 mov rax, [0x20003010]\n48894710 mov [rdi+16], rax\n"
    assert differences("x86_64", layout, f"{store}4889f8 mov rax, rdi\nc3 ret", "c3 ret")[0] == []
    assert differences("x86_64", layout, f"{store}c3 ret", "c3 ret")[0] == ["result"]


def test_values_and_what_counts_of_them() -> None:
    def param(text: str) -> object:
        return parse_proto(f"void f({text})").params[0].type

    padded = parse_proto("void f(struct {u8 a; u32 b:3; bool c;} s)").params[0].type
    assert mask_of(padded, ARM64) == 0xFF_07FF  # a, three bits of b, the byte of c
    longs = parse_proto("void f(long double a)").params[0].type
    assert (mask_of(longs, ARM64).bit_count(), mask_of(longs, X86_64).bit_count()) == (128, 80)
    seen: set[int] = {value_of(padded, ARM64, random.Random(seed))[2] for seed in range(20)}
    assert seen == {0, 1}


def pieces_of(text: str, rules: Sequence[type] = ()) -> int:
    return covered(arm64.layout(parse_proto(f"void f({text})")).args[0])


def test_what_pieces_cover() -> None:
    assert pieces_of("struct {float a, b, c;} s") == (1 << 96) - 1
    assert pieces_of("struct {u8 a[9];} s") == (1 << 72) - 1
    assert pieces_of("struct {} s") == 0
