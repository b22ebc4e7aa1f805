"""The layout functions against places typed by hand from the ABI documents."""

import pytest

from backends.abi import LayoutError
from backends.arm64 import abi as arm64
from backends.x86_64 import abi as x86_64
from harness.isa.proto import parse_proto

TWELVE = "u64 f(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u64 i, u64 j, u64 k, u64 l)"

# AAPCS64, stage C: eight registers, then 8 bytes each from SP. psABI 3.2.3: six, then 8 bytes each from rsp at the call.
BY_HAND = [
    ("u64 f(u64 a)", "x0", "rdi", 0, 0),
    ("u64 f(u64 a, u64 b, u64 c, u64 d, u64 e)", "x0 x1 x2 x3 x4", "rdi rsi rdx rcx r8", 0, 0),
    ("u64 f(u8 a, s8 b, u16 c, s16 d, u32 e, s32 f, u64 g, void *h)", "x0 x1 x2 x3 x4 x5 x6 x7", "rdi rsi rdx rcx r8 r9 [rsp] [rsp+8]", 0, 16),
    ("u64 f(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u8 i)", "x0 x1 x2 x3 x4 x5 x6 x7 [sp]", "rdi rsi rdx rcx r8 r9 [rsp] [rsp+8] [rsp+16]", 8, 24),
    (TWELVE, "x0 x1 x2 x3 x4 x5 x6 x7 [sp] [sp+8] [sp+16] [sp+24]", "rdi rsi rdx rcx r8 r9 [rsp] [rsp+8] [rsp+16] [rsp+24] [rsp+32] [rsp+40]", 32, 48),
]  # fmt: skip


@pytest.mark.parametrize(("text", "on_arm64", "on_x86_64", "arm64_bytes", "x86_64_bytes"), BY_HAND)
def test_places(text: str, on_arm64: str, on_x86_64: str, arm64_bytes: int, x86_64_bytes: int) -> None:
    proto = parse_proto(text)
    for module, wanted, size in ((arm64, on_arm64, arm64_bytes), (x86_64, on_x86_64, x86_64_bytes)):
        layout = module.layout(proto)
        assert " ".join(str(placed.where) for placed in layout.args) == wanted
        assert layout.stack_bytes == size
        assert [placed.name for placed in layout.args] == [param.name for param in proto.params]


def test_widths() -> None:
    proto = parse_proto("u64 f(u8 a, s16 b, u32 c, bool d, void *e)")
    assert [placed.size for placed in arm64.layout(proto).args] == [1, 2, 4, 1, 8]


def test_a_struct_by_value_has_no_place() -> None:
    with pytest.raises(LayoutError, match="big by value has no place"):
        x86_64.layout(parse_proto("u64 f(struct big a)"))


def test_register_sets() -> None:
    # AAPCS64: x19-x28 and the frame pointer are the callee's to keep; x18 is the platform's, SP apart.
    assert set(arm64.ABI.callee_saved) == {f"x{n}" for n in range(19, 30)}
    assert set(arm64.ABI.caller_saved) == {f"x{n}" for n in range(18)} | {"x30"}
    # psABI figure 3.4.
    assert set(x86_64.ABI.callee_saved) == {"rbx", "rbp", "r12", "r13", "r14", "r15"}
    assert set(x86_64.ABI.caller_saved) == {"rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"}
