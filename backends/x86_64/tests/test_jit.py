"""Frames, stack arguments, calls and jumps: bytes typed from the documents, and what they do when run."""

import pytest

from backends.image import Addresses, CompileError, Symbol
from backends.x86_64.encode import Cond
from backends.x86_64.jit import Options, X8664Jit
from backends.x86_64.lower import REGMAP
from backends.x86_64.relax import Jump, Piece, relax
from backends.x86_64.tests.machine import CODE, EXTERN, Program, Run

NO_FRAME = "F3 0F 1E FA 0F 1F 44 00 00 0F 1F 00 55 48 89 E5 F3 0F 1E FA"  # the first 20 bytes of every subprog
RET = "C9 C3 CC"


def compiled(text: str, facts: tuple[int, int, int] = (0, 0, 0), jit: X8664Jit | None = None) -> bytes:
    return Program({"main": text}, [facts]).image(jit).code


def insn_bytes(text: str, facts: tuple[int, int, int] = (0, 0, 0), jit: X8664Jit | None = None) -> bytes:
    """The native code of the first insn of `text`."""
    image = Program({"main": f"{text}\nexit"}, [facts]).image(jit)
    return image.code[image.insn_offsets[0] : image.insn_offsets[1]]


def body(text: str) -> bytes:
    """Native code after the prologue and before the epilogue, of a program without a frame."""
    return compiled(f"{text}\nexit")[20:-3]


def test_the_register_map() -> None:
    names = {n: reg.name for n, reg in REGMAP.items()}
    assert names == {
        0: "RAX", 1: "RDI", 2: "RSI", 3: "RDX", 4: "RCX", 5: "R8",
        6: "RBX", 7: "R13", 8: "R14", 9: "R15", 10: "RBP", 12: "R10",
    }  # fmt: skip


WORKED = Program(
    {
        "main": """
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
            exit""",
        "callee": """
            r0 = *(u64 *)(r11 + 8)
            r1 = *(u64 *)(r11 + 16)
            r0 += r1
            r1 = *(u64 *)(r11 + 24)
            r0 += r1
            r1 = *(u64 *)(r11 + 32)
            r0 += r1
            r1 = *(u64 *)(r11 + 40)
            r0 += r1
            exit""",
    },
    [(0, 0, 5), (0, 5, 0)],
)
WORKED_MAIN = f"""
    {NO_FRAME} 48 83 EC 20
    BF 01 00 00 00 BE 02 00 00 00 BA 03 00 00 00 B9 04 00 00 00 41 B8 05 00 00 00
    41 B9 58 02 00 00
    48 C7 45 E0 F9 FF FF FF 48 C7 45 E8 00 00 00 00 48 C7 45 F0 84 03 00 00 48 C7 45 F8 F8 B4 9A 3B
    E8 07 00 00 00
    48 83 C4 20 {RET}"""
WORKED_CALLEE = f"""
    {NO_FRAME}
    4C 89 C8
    48 8B 7D 10 48 01 F8 48 8B 7D 18 48 01 F8 48 8B 7D 20 48 01 F8 48 8B 7D 28 48 01 F8
    {RET}"""


def test_the_worked_example() -> None:
    image = WORKED.image()
    assert image.code == bytes.fromhex(WORKED_MAIN + WORKED_CALLEE)
    assert (image.arch, image.base, image.landing_pads) == ("x86_64", CODE, True)
    assert image.symbols == (Symbol("main", 0, 100, 0), Symbol("callee", 100, 54, 1))
    assert image.insn_offsets == (
        24, 29, 34, 39, 44, 50, 56, 64, 72, 80, 88, 93,
        120, 123, 127, 130, 134, 137, 141, 144, 148, 151,
    )  # fmt: skip
    assert WORKED.run() == Run(999996109)


SLOTS = range(1, 8)
SEND = "\n".join(f"*(u64 *)(r11 - {8 * i}) = {0x600 + 0x111 * i}" for i in SLOTS)
PASS_ON = "\n".join(f"r6 = *(u64 *)(r11 + {8 * i})\n*(u64 *)(r11 - {8 * i}) = r6" for i in SLOTS)
FORWARD = Program(
    {
        "main": f"{SEND}\nr1 = 0x11\nr2 = 0x22\nr3 = 0x33\nr4 = 0x44\nr5 = 0x55\ncall pass_on\nexit",
        "pass_on": f"*(u64 *)(r10 - 24) = 0x999\n{PASS_ON}\ncall twelve\nr1 = *(u64 *)(r10 - 24)\nr0 += r1\nexit",
    },
    [(0, 0, 7), (24, 7, 7)],
    {"u64 twelve(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u64 i, u64 j, u64 k, u64 l)": 5},
)


def test_twelve_arguments_in_and_out() -> None:
    """D = 24, one register saved, A = 48: slot `off` is at rbp - 96 - off."""
    values = (0x11, 0x22, 0x33, 0x44, 0x55, 0x711, 0x822, 0x933, 0xA44, 0xB55, 0xC66, 0xD77)
    assert FORWARD.run() == Run(0x99E, [values])
    image = FORWARD.image()
    prologue = bytes.fromhex(f"{NO_FRAME} 48 81 EC 18 00 00 00 53 48 83 EC 30")
    assert image.code[image.symbols[1].offset :].startswith(prologue)
    starts = image.insn_offsets[16:31:2]  # main has 14 insns; then one to the stack, then loads and stores by turns
    stores = [image.code[start : image.insn_offsets[17 + 2 * i]].hex(" ").upper() for i, start in enumerate(starts[:7])]
    assert stores == ["49 89 D9", *(f"48 89 5D {disp}" for disp in ("B0", "B8", "C0", "C8", "D0", "D8"))]


SIX = "u64 f6(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)"
SEVEN = "u64 f7(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g)"
EIGHT = "u64 f8(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h)"
REGS = "r1 = 101\nr2 = 202\nr3 = 303\nr4 = 404\nr5 = 505\n"


def test_six_arguments() -> None:
    text = f"*(u64 *)(r11 - 8) = -606\n{REGS}call f6\nexit"
    run = Program({"main": text}, [(0, 0, 1)], {SIX: 9}).run()
    assert run == Run(9, [(101, 202, 303, 404, 505, 2**64 - 606)])


def test_seven_arguments_stored_last_first() -> None:
    text = f"{REGS}*(u64 *)(r11 - 16) = r2\n*(u64 *)(r11 - 8) = r1\ncall f7\nexit"
    run = Program({"main": text}, [(0, 0, 2)], {SEVEN: 9}).run()
    assert run == Run(9, [(101, 202, 303, 404, 505, 101, 202)])


def test_the_area_is_as_large_as_the_widest_call_needs() -> None:
    """A narrow call's argument 7 is at rsp too, and the last store before a call wins."""
    narrow = f"{REGS}*(u64 *)(r11 - 8) = 1\n*(u64 *)(r11 - 8) = 606\n*(u64 *)(r11 - 16) = 707\ncall f7\n"
    wide = f"{REGS}*(u64 *)(r11 - 8) = 66\n*(u64 *)(r11 - 16) = 77\n*(u64 *)(r11 - 24) = -88\ncall f8\n"
    run = Program({"main": f"{narrow}r6 = r0\n{wide}r0 += r6\nexit"}, [(0, 0, 3)], {SEVEN: 9, EIGHT: 20}).run()
    assert run == Run(29, [(101, 202, 303, 404, 505, 606, 707), (101, 202, 303, 404, 505, 66, 77, 2**64 - 88)])


PROLOGUES = {
    "no frame": ("r0 = 0", (0, 0, 0), "", ""),
    "depth 1": ("r0 = 0", (1, 0, 0), "48 81 EC 08 00 00 00", ""),
    "depth 20": ("r0 = 0", (20, 0, 0), "48 81 EC 18 00 00 00", ""),
    "depth 512": ("r0 = 0", (512, 0, 0), "48 81 EC 00 02 00 00", ""),
    "R6": ("r6 = 0", (0, 0, 0), "53", "5B"),
    "R7 as a source": ("r0 = r7", (0, 0, 0), "41 55", "41 5D"),
    "R9 and R8": ("r9 = r8", (0, 0, 0), "41 56 41 57", "41 5F 41 5E"),
    "all four": ("r6 = r7\nr8 = r9", (8, 0, 0), "48 81 EC 08 00 00 00 53 41 55 41 56 41 57", "41 5F 41 5E 41 5D 5B"),
    "6 arguments out": ("r0 = 0", (0, 0, 1), "", ""),
    "7 arguments out": ("r0 = 0", (0, 0, 2), "48 83 EC 08", "48 83 C4 08"),
    "9 arguments out": ("r0 = 0", (0, 0, 4), "48 83 EC 18", "48 83 C4 18"),
    "12 arguments out": ("r6 = 0", (8, 0, 7), "48 81 EC 08 00 00 00 53 48 83 EC 30", "48 83 C4 30 5B"),
    "12 arguments in": ("r0 = 0", (0, 7, 0), "", ""),
}


@pytest.mark.parametrize(("text", "facts", "enter", "leave"), PROLOGUES.values(), ids=PROLOGUES)
def test_prologue_and_epilogue(text: str, facts: tuple[int, int, int], enter: str, leave: str) -> None:
    code = compiled(f"{text}\nexit", facts)
    assert code.startswith(bytes.fromhex(f"{NO_FRAME} {enter}"))
    assert code.endswith(bytes.fromhex(f"{leave} {RET}"))


def test_without_ibt_there_are_no_landing_pads() -> None:
    program = Program({"main": "r0 = 0\nexit"}, [(0, 0, 0)])
    image = program.image(X8664Jit(Options(ibt=False)))
    assert image.code == bytes.fromhex(f"0F 1F 44 00 00 0F 1F 00 55 48 89 E5 31 C0 {RET}")
    assert not image.landing_pads


STACK_ARGS = {
    # text, (stack_depth, incoming_slots, outgoing_slots): bytes
    ("*(u64 *)(r11 - 8) = r0", (0, 0, 1)): "49 89 C1",
    ("*(u64 *)(r11 - 8) = r10", (0, 0, 1)): "49 89 E9",
    ("*(u64 *)(r11 - 8) = r7", (0, 0, 1)): "4D 89 E9",
    ("*(u64 *)(r11 - 8) = 0", (0, 0, 1)): "45 31 C9",
    ("*(u64 *)(r11 - 8) = 6", (0, 0, 1)): "41 B9 06 00 00 00",
    ("*(u64 *)(r11 - 8) = 0x7fffffff", (0, 0, 1)): "41 B9 FF FF FF 7F",
    ("*(u64 *)(r11 - 8) = -6", (0, 0, 1)): "49 C7 C1 FA FF FF FF",
    ("*(u64 *)(r11 - 16) = r1", (0, 0, 2)): "48 89 7D F8",
    ("*(u64 *)(r11 - 16) = r7", (32, 0, 2)): "4C 89 6D D0",
    ("*(u64 *)(r11 - 16) = 7", (0, 0, 2)): "48 C7 45 F8 07 00 00 00",
    ("*(u64 *)(r11 - 16) = -7", (128, 0, 2)): "48 C7 85 78 FF FF FF F9 FF FF FF",
    ("*(u64 *)(r11 - 16) = 1", (20, 0, 7)): "48 C7 45 B8 01 00 00 00",
    ("*(u64 *)(r11 - 56) = 1", (20, 0, 7)): "48 C7 45 E0 01 00 00 00",
    ("r0 = *(u64 *)(r11 + 8)", (0, 1, 0)): "4C 89 C8",
    ("r9 = *(u64 *)(r11 + 8)", (0, 1, 0)): "4D 89 CF",
    ("r1 = *(u64 *)(r11 + 16)", (0, 2, 0)): "48 8B 7D 10",
    ("r7 = *(u64 *)(r11 + 56)", (64, 7, 7)): "4C 8B 6D 38",
}


@pytest.mark.parametrize(("case", "wanted"), STACK_ARGS.items(), ids=lambda case: str(case[0]))
def test_bytes_of_stack_arguments(case: tuple[str, tuple[int, int, int]], wanted: str) -> None:
    assert insn_bytes(*case).hex(" ").upper() == wanted


def test_later_exits_jump_to_the_first_epilogue() -> None:
    code = compiled("if r1 == 0 goto other\nr0 = 1\nexit\nother: r0 = 2\nexit")
    assert code[20:] == bytes.fromhex(f"48 85 FF 74 08 B8 01 00 00 00 {RET} B8 02 00 00 00 EB F6")


def test_goto_to_the_next_insn_is_nothing() -> None:
    assert body("goto +0") == b""
    assert body("goto +1\nr1 = r1") == b""


def test_goto_to_itself() -> None:
    assert body("goto -1") == bytes.fromhex("EB FE")


def _over(fill: int, insn: str) -> str:
    """`insn` jumping over that many bytes: `r1 += 1` is 4, `r6 += 0x1000` 7, `r1 = 1` 5."""
    fives = fill % 4
    return "\n".join([insn, *["r1 = 1"] * fives, *["r1 += 1"] * ((fill - 5 * fives) // 4), "out: r0 = 0"])


@pytest.mark.parametrize(
    ("fill", "start"),
    [(123, "74 7B"), (124, "0F 84 7C 00 00 00"), (127, "0F 84 7F 00 00 00"), (128, "0F 84 80 00 00 00")],
)
def test_short_conditional_jumps_reach_123_bytes_forwards(fill: int, start: str) -> None:
    assert body(_over(fill, "if r1 == r2 goto out"))[3:].startswith(bytes.fromhex(start))


@pytest.mark.parametrize(("fill", "start"), [(123, "EB 7B"), (124, "E9 7C 00 00 00")])
def test_short_jumps_reach_123_bytes_forwards(fill: int, start: str) -> None:
    assert body(_over(fill, "goto out")).startswith(bytes.fromhex(start))


@pytest.mark.parametrize(("fill", "end"), [(119, "72 84"), (120, "0F 82 7F FF FF FF")])
def test_short_jumps_reach_128_bytes_backwards(fill: int, end: str) -> None:
    """The compare (3 bytes) and the jump as long as it was before (6) are part of the distance."""
    lines = _over(fill, "").strip().splitlines()[:-1]
    lines[0] = f"again: {lines[0]}"
    assert body("\n".join([*lines, "if r1 < r2 goto again"])).endswith(bytes.fromhex(end))


@pytest.mark.parametrize("gap", range(17, 25))
def test_a_chain_of_jumps_at_the_limit_settles(gap: int) -> None:
    """X64-B28: each jump's length decides on the next one's."""
    lines = [f"l{i}: if r1 == {i} goto l{i + gap}\nr2 += {i}" for i in range(60)]
    lines += [f"l{i}: r2 += 1" for i in range(60, 60 + gap)]
    program = Program({"main": "\n".join(["r2 = 0", *lines, "r0 = r2\nexit"])}, [(0, 0, 0)])
    not_taken = sum(range(60)) + gap
    assert program.run(args=(1000,)) == Run(not_taken)
    skipped = sum(range(5, min(5 + gap, 60)))
    assert program.run(args=(5,)) == Run(not_taken - skipped)


def test_a_subprog_may_be_called_backwards() -> None:
    text = {
        "main": "r1 = 5\ncall down\nexit",
        "leaf": "r0 = r1\nr0 *= 10\nexit",
        "down": "r1 += 1\ncall leaf\nr0 += 3\nexit",
    }
    assert Program(text, [(0, 0, 0)] * 3).run() == Run(63)


def test_a_64_bit_constant_has_two_insns_and_one_start() -> None:
    image = Program({"main": "r1 = 0x123456789 ll\nr0 = 1\nexit"}, [(0, 0, 0)]).image()
    assert image.insn_offsets == (20, 30, 30, 35)
    assert image.insn_at(20) == 0
    assert image.insn_at(30) == 2


def test_helpers_are_called_by_name() -> None:
    verified = Program({"main": "call bpf_ktime_get_ns\nexit"}, [(0, 0, 0)]).verified()
    image = X8664Jit().compile(verified, Addresses(CODE, {"bpf_ktime_get_ns": EXTERN}))
    assert image.code[20:25] == bytes.fromhex("E8 E7 FF 0F 00")  # 0x200000 - 0x100019


def refusal(text: str, kfuncs: dict[str, int] | None = None, externs: dict[str, int] | None = None) -> str:
    verified = Program({"main": text}, [(0, 0, 0)], kfuncs or {}).verified()
    with pytest.raises(CompileError) as refused:
        X8664Jit().compile(verified, Addresses(CODE, externs or {}))
    return str(refused.value)


REFUSED = {
    "no address": ("call f6\nexit", {SIX: 0}, {}, "main 0: (85) call f6#1: f6 has no address"),
    "too far": ("r0 = 0\ncall f6\nexit", {SIX: 0}, {"f6": CODE + 27 + 2**31}, "main 1: (85) call f6#1: "
                "0x80000000 does not fit: -0x80000000 to 0x7fffffff"),
    "helper": ("call 77\nexit", {}, {}, "main 0: (85) call unknown#77: helper 77 is not known"),
    "kfunc": (".quad 0x0000000300002085\nexit", {}, {}, "main 0: (85) call kernel-function#3: kfunc 3 is not known"),
    "operation": ("r0 = 0\n.quad 0x000000000000103f\n.quad 0x00000000000000ff\nexit", {}, {},
                  "main 2: (ff) .quad 0x00000000000000ff: not an operation that this JIT knows"),
    "pseudo": (".quad 0x0000000700001118\n.quad 0\nexit", {}, {},
               "main 0: (18) r1 = map_by_fd(7): pseudo source 1 was not resolved"),
    "R11": ("r0 = r11\nexit", {}, {}, "main 0: (bf) r0 = r11: R11 has no native register"),
    "jump": ("goto +7\nexit", {}, {}, "main 0: (05) goto pc+7: the jump leaves its subprog"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "kfuncs", "externs", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compiled_is_named(
    text: str, kfuncs: dict[str, int], externs: dict[str, int], message: str
) -> None:
    assert refusal(text, kfuncs, externs) == message


def test_rel32_reaches_its_limit() -> None:
    verified = Program({"main": "call f6\nexit"}, [(0, 0, 1)], {SIX: 0}).verified()
    image = X8664Jit().compile(verified, Addresses(CODE, {"f6": CODE + 25 + 2**31 - 1}))
    assert image.code[20:25] == bytes.fromhex("E8 FF FF FF 7F")


def ladder(rungs: int) -> list[Piece]:
    """Conditional jumps over 124 bytes each, 120 once the next one is short; only the last is short at once."""
    pieces: list[Piece] = []
    for i in range(rungs):
        pieces += [Jump(b"", Cond.E, 2 * i + (4 if i < rungs - 1 else 2)), bytes(59)]
    return [*pieces, b"\xc3"]


def lengths(pieces: list[Piece]) -> list[int]:
    starts = relax(0, pieces)
    return [starts[i + 1] - starts[i] for i, piece in enumerate(pieces) if isinstance(piece, Jump)]


def test_one_jump_shrinks_per_pass() -> None:
    assert lengths(ladder(10)) == [2] * 10


def test_after_fifteen_passes_no_jump_shrinks() -> None:
    """The one whose turn it was is short, behind nops; those before it stay long, as they have to."""
    pieces = ladder(40)
    starts = relax(0, pieces)
    assert lengths(pieces) == [6] * 25 + [2] * 15  # one in each of passes 0 to 14
    jumps = [
        piece.code(starts[piece.target] - starts[i + 1], starts[i + 1] - starts[i])
        for i, piece in enumerate(pieces)
        if isinstance(piece, Jump)
    ]
    assert jumps[23:26] == [bytes.fromhex(code) for code in ("0F 84 7C 00 00 00", "0F 1F 40 00 74 78", "74 78")]
