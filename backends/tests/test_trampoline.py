"""Trampolines: what was measured of Linux 7.2.13, what it refuses, and every way to be wrong. Its native code: backends/linux/tests/test_tracing.py."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from backends import emulator as emu
from backends import trampoline_code
from backends.abis import ARCHES as ABIS
from backends.arm64 import trampoline as arm64
from backends.bpf_layout import bpf_layout
from backends.tracing import linux_plan
from backends.trampoline import TRACING, Kind, Maker, Mode, Planner, RefusedError, Target
from backends.trampoline_bench import Scenario, Step, TrampolineBench, places
from backends.trampoline_code import BpfFunction, Reader, code_at, entry, prog_address
from backends.trampoline_grid import NUMBERS, SCALARS, TYPES, proto_of, scenario
from backends.x86_64 import trampoline as x86_64
from harness.isa.proto import parse_proto

PLANS: dict[str, Planner] = {"arm64": arm64.plan, "x86_64": x86_64.plan}
MAKERS: dict[str, type[Maker]] = {"arm64": arm64.Arm64Trampoline, "x86_64": x86_64.X8664Trampoline}
BENCHES: dict[str, TrampolineBench] = {}
ARCHES = ("arm64", "x86_64")


def bench(arch: str) -> TrampolineBench:
    return BENCHES.setdefault(arch, TrampolineBench(arch))


def run(arch: str, call: Scenario, mode: Mode = Mode.FULL, maker: Maker | None = None) -> list[str]:
    """The checks that a trampoline breaks, each once, in order."""
    plan = PLANS[arch](call.proto, [step.kind for step in call.steps], mode, call.target, tail_call=call.tail_call)
    code = (maker or MAKERS[arch]()).make(plan, call.attached, places(arch, call.target))
    return list(dict.fromkeys(violation.check for violation in bench(arch).run(call, code).violations))


# --- what Linux 7.2.13 did when it was measured: trampolines.md, section 9, by prototype

P, Q = "struct {u64 a, b;}", "struct {__int128 a;}"
M = "struct {u64 a __attribute__((aligned(16))); u64 b;}"
A, KA = "struct {u64 a, b;} __attribute__((aligned(16)))", "struct {u64 a, b;} __attribute__((packed, aligned(8)))"
K16 = "struct {u8 a; u64 b; u8 c[7];} __attribute__((packed))"
S9 = "struct {u8 a; u64 b;} __attribute__((packed))"
CTX, ARG, RESULT = "TRAMP-CTX", "TRAMP-ARG", "TRAMP-RESULT"
MEASURED: dict[str, tuple[list[str], list[str], list[str], list[str]]] = {
    # arm64 fentry, arm64 fexit, x86-64 fentry, x86-64 fexit
    ", ".join(["u64"] * 7 + [P, "u64"]): ([], [], [], []),
    ", ".join(["u64"] * 5 + [P, "u64"]): ([], [], [], []),
    ", ".join(["u64"] * 9 + [P, "u8"]): ([], [], [], []),
    ", ".join(["u64"] * 7 + ["struct {u64 a; int b;}"]): ([], [], [], []),
    ", ".join(["u64"] * 7 + [Q, "u64"]): ([], [], [CTX], [ARG, CTX]),
    ", ".join(["u64"] * 5 + [P, "u64", "u64", Q]): ([CTX], [ARG, CTX], [CTX], [ARG, CTX]),
    ", ".join(["u64"] * 9 + ["__int128"]): ([CTX], [ARG, CTX], [CTX], [ARG, CTX]),
    ", ".join(["u64"] * 9 + [M]): ([CTX], [ARG, CTX], [CTX], [ARG, CTX]),
    ", ".join(["u64"] * 9 + [A]): ([], [], [CTX], [ARG, CTX]),
    ", ".join(["u64"] * 9 + [KA]): ([], [], [], []),
    ", ".join(["u64", Q, "u64"]): ([CTX, ARG], [ARG, CTX], [], []),
    ", ".join(["__int128", "int", "long"]): ([], [], [], []),
    ", ".join(["u64", K16, "u64"]): ([], [], [CTX], [ARG, CTX]),
    ", ".join(["u64", S9, "u64"]): ([], [], [CTX], [ARG, CTX]),
    ", ".join(["u64", "union {u64 a; struct {u64 b, c;} d;}", "u64"]): ([], [], [], []),
    ", ".join(["struct {u8 a[3];}", "u64"]): ([], [], [], []),
    ", ".join(["u64"] * 8 + [P, P]): ([], [], [], []),
}


@pytest.mark.parametrize("types", MEASURED)
def test_linux_is_wrong_where_it_was_measured_to_be(types: str) -> None:
    """Checks stand for the table's words: TRAMP-CTX for foreign data in ctx, TRAMP-ARG for a result that is wrong."""
    call = [scenario(f"u64 f({types})", [Step(kind)]) for kind in (Kind.FENTRY, Kind.FEXIT)]
    found = [run(arch, one, Mode.LINUX) for arch in ARCHES for one in call]
    wanted = list(MEASURED[types])
    if types == ", ".join(["u64", Q, "u64"]):  # fexit: "ctx as left; result right by chance (x4 is only caller-saved)"
        assert found[1][0] in (ARG, CTX)
        found[1] = wanted[1]
    assert found == wanted


def test_full_is_right_where_linux_is_wrong() -> None:
    for types in MEASURED:
        for kind in TRACING:
            for arch in ARCHES:
                assert run(arch, scenario(f"u64 f({types})", [Step(kind)])) == [], (types, kind, arch)


# --- refusals

REFUSED: dict[str, tuple[str, Kind, str]] = {
    "13 parameters": (f"u64 f({', '.join(['u64'] * 13)})", Kind.FENTRY,
                      "load: errno 22: The function f has 13 arguments. Too many."),
    "a struct back": (f"{P} f(u64 a)", Kind.FENTRY, "load: errno 22: The function f return type STRUCT is unsupported."),
    "16 bytes back": ("__int128 f(u64 a)", Kind.FEXIT,
                      "load: errno 95: Attach to function f with a >8 byte return value is not supported for this attach type"),
    "variadic": ("int f(char *a, ...)", Kind.FENTRY, "load: errno 22: The function f with variable args is unsupported."),
    "17 bytes": ("int f(struct {u8 a[17];} a)", Kind.FENTRY, "load: errno 22: The function f arg0 type STRUCT is unsupported."),
    "float": ("int f(int a, float b)", Kind.FENTRY, "load: errno 22: The function f arg1 type FLOAT is unsupported."),
    "empty": ("int f(struct {} a)", Kind.FENTRY, "load: errno 22: The function f has malformed void argument."),
}  # fmt: skip


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_of_linux(name: str, arch: str) -> None:
    text, kind, message = REFUSED[name]
    with pytest.raises(RefusedError) as caught:
        PLANS[arch](parse_proto(text), [kind], Mode.LINUX)
    assert str(caught.value) == message


def test_thirteen_slots() -> None:
    """TR-96: x86-64 refuses them at attach, arm64 7.2.13 does not look; `full` refuses them everywhere."""
    types = ", ".join(["u64"] * 8 + [P, P, "u64"])
    call = scenario(f"u64 f({types})", [Step(Kind.FENTRY)])
    assert run("arm64", call, Mode.LINUX) == []
    for arch, mode in (("x86_64", Mode.LINUX), ("x86_64", Mode.FULL), ("arm64", Mode.FULL)):
        with pytest.raises(RefusedError, match="attach: errno 524"):
            PLANS[arch](call.proto, [Kind.FENTRY], mode)


@pytest.mark.parametrize("arch", ARCHES)
def test_results_that_full_knows(arch: str) -> None:
    """A result of two registers passes a fentry trampoline untouched, one of a struct of 8 bytes any."""
    for text, kinds in (("__int128 f(u64 a)", [Kind.FENTRY]), (f"{P} f(u64 a)", [Kind.FENTRY]),
                        ("struct {int a, b;} f(u64 a)", list(TRACING)), ("void f(u64 a)", list(TRACING)),
                        ("u8 f(u8 a)", list(TRACING))):  # fmt: skip
        for kind in kinds:
            assert run(arch, scenario(text, [Step(kind)])) == []


ROOM = {
    # measured on 7.2.13: (programs, cookies) -> the most that there is room for on arm64 and x86-64, in functions of
    # no and of twelve words
    (Kind.FENTRY, False): ((37, 37), (36, 36)),
    (Kind.FENTRY, True): ((34, 33), (36, 36)),
    (Kind.FEXIT, False): ((37, 37), (36, 36)),
    (Kind.FEXIT, True): ((34, 32), (36, 36)),
    (Kind.FMOD_RET, False): ((35, 34), (36, 36)),
    (Kind.FMOD_RET, True): ((30, 29), (36, 36)),
    (Kind.FSESSION, False): ((17, 16), (18, 18)),
    (Kind.FSESSION, True): ((15, 14), (18, 18)),
}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("kind", "cookies"), ROOM)
def test_how_many_programs_have_room(kind: Kind, cookies: bool, arch: str) -> None:
    for words, most in zip((0, 12), ROOM[kind, cookies][ARCHES.index(arch)], strict=True):
        for count in (most, most + 1):
            steps = [Step(kind, cookie=0x8123_4567_89AB_CDEF if cookies else 0)] * count
            call = scenario(proto_of(["u64"] * words), steps)
            if count == most:
                assert len(linux_plan(arch, call).slots) == words
            else:
                with pytest.raises(RefusedError, match=r"attach: errno 7$"):
                    linux_plan(arch, call)


def test_the_first_program_that_is_refused_is_told_of() -> None:
    """A later one that may not be loaded comes after one that has no room, and before none."""
    fentry, fexit = [Step(Kind.FENTRY)] * 36, Step(Kind.FEXIT)
    for steps, text in (
        ([*fentry, Step(Kind.FENTRY), fexit], "attach: errno 7"),
        ([*fentry[1:], fexit], "load: errno 95"),
    ):
        with pytest.raises(RefusedError, match=text):
            linux_plan("x86_64", scenario("__int128 f(u64 a)", steps))


FLOATING = {
    # prototype: on which architectures `full` refuses it, by hand from AAPCS64, C.2, and psABI 3.2.3
    "int f(struct {float a;} b)": ["arm64", "x86_64"],
    "int f(struct {float a, b, c, d;} b)": ["arm64", "x86_64"],
    "int f(struct {float a[3];} b)": ["arm64", "x86_64"],
    "int f(struct {float a; double b;} b)": ["x86_64"],
    "int f(struct {float a; int b;} b)": [],
    "int f(struct {float a, b, c; int d;} b)": ["x86_64"],
    "int f(struct {double a; long b;} b)": ["x86_64"],
    "int f(struct {u8 a; float b;} __attribute__((packed)) b)": [],
    "int f(union {float a; int b;} b)": [],
    "int f(struct {long double a;} b)": ["arm64"],
    "int f(struct {int a __attribute__((vector_size(8)));} b)": ["arm64", "x86_64"],
    "int f(struct {int a __attribute__((vector_size(16)));} b)": ["arm64", "x86_64"],
    "struct {double a;} f(int a)": ["arm64", "x86_64"],
    "struct {double a; long b;} f(int a)": ["x86_64"],
    "struct {long double a;} f(int a)": ["arm64", "x86_64"],
    "struct {u8 a; u64 b;} __attribute__((packed)) f(int a)": ["x86_64"],
}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("text", FLOATING)
def test_what_is_not_in_general_registers(text: str, arch: str) -> None:
    """Refused; the rest is right. Linux 7.2 looks at the kind, and is not run off the rails by what it has wrong."""
    call = scenario(text, [Step(Kind.FENTRY)])
    if arch in FLOATING[text]:
        with pytest.raises(RefusedError, match="unsupported"):
            PLANS[arch](call.proto, [Kind.FENTRY], Mode.FULL)
    else:
        assert run(arch, call) == []
    if not text.startswith("struct"):
        wrong = arch in FLOATING[text]
        memory = arch == "x86_64" and ("packed" in text or "long double" in text)
        assert run(arch, call, Mode.LINUX) == ([CTX] if wrong or memory else [])


# --- programs

ORDERS: dict[str, tuple[Sequence[Step], str]] = {
    "latest first": (
        [Step(Kind.FENTRY), Step(Kind.FENTRY), Step(Kind.FEXIT), Step(Kind.FEXIT), Step(Kind.FMOD_RET), Step(Kind.FMOD_RET)],
        "fentry 1, fentry 0, fmod_ret 5, fmod_ret 4, original, fexit 3, fexit 2",
    ),
    "a result in its place": (
        [Step(Kind.FMOD_RET), Step(Kind.FMOD_RET, 7), Step(Kind.FMOD_RET), Step(Kind.FEXIT)],
        "fmod_ret 2, fmod_ret 1, fexit 3",
    ),
    "refused ones are passed over": (
        [Step(Kind.FENTRY, refused=True), Step(Kind.FMOD_RET, 5, refused=True), Step(Kind.FEXIT)],
        "original, fexit 2",
    ),
    "sessions": ([Step(Kind.FSESSION), Step(Kind.FSESSION)], "fsession 1, fsession 0, original, fsession 1, fsession 0"),
    "fentry alone": ([Step(Kind.FENTRY)], "fentry 0, original"),
}  # fmt: skip


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", ORDERS)
def test_programs_and_their_order(name: str, arch: str) -> None:
    """TR-60 to TR-62, TR-65."""
    steps, order = ORDERS[name]
    call = scenario("u64 f(u64 a, u32 b)", steps)
    plan = PLANS[arch](call.proto, [step.kind for step in steps], Mode.FULL)
    outcome = bench(arch).run(call, MAKERS[arch]().make(plan, call.attached, places(arch)))
    hooks = ("enter", "exit")
    assert ", ".join(event for event in outcome.events if not event.startswith(hooks)) == order
    assert outcome.violations == []


@pytest.mark.parametrize("arch", ARCHES)
def test_the_result_of_an_fmod_ret_program(arch: str) -> None:
    call = scenario("u64 f(u64 a)", [Step(Kind.FMOD_RET, 0x1_0000_0007)])
    plan = PLANS[arch](call.proto, [Kind.FMOD_RET], Mode.FULL)
    outcome = bench(arch).run(call, MAKERS[arch]().make(plan, call.attached, places(arch)))
    assert outcome.result == (0x1_0000_0007).to_bytes(8, "little")


@pytest.mark.parametrize("arch", ARCHES)
def test_the_address_of_the_function(arch: str) -> None:
    """TR-10: ctx[-2], where some program asks for it."""
    for steps in ([Step(Kind.FENTRY)], [Step(Kind.FEXIT), Step(Kind.FSESSION)]):
        call = scenario("u64 f(u64 a)", steps, func_ip=True)
        assert run(arch, call) == []


# --- members of structs


@pytest.mark.parametrize("arch", ARCHES)
def test_members_of_every_number_of_arguments(arch: str) -> None:
    """Numbers of all widths, alone and with every fourth type at every place among them."""
    some = list(TYPES.values())[::4]
    for count in range(13):
        numbers = [NUMBERS[n % len(NUMBERS)] for n in range(count)]
        rows = [numbers, *([*numbers[:at], text, *numbers[at:]] for at in range(count) for text in some)]
        for types in rows:
            for result in ("u64", "void", "s16") if types is numbers else ("u64",):
                call = scenario(proto_of(types, result), [Step(Kind.STRUCT_OPS)], target=Target.STRUCT_OPS)
                try:
                    assert run(arch, call) == [], types
                except RefusedError as error:
                    assert sum(slots_of(call)) > 12 or count == 12, error  # noqa: PT017


def slots_of(call: Scenario) -> list[int]:
    """Words of ctx, by argument."""
    return [(len(raw) + 7) // 8 for raw in call.args]


def test_what_linux_has_wrong_in_members() -> None:
    """Measured on 7.2.13: x86-64 looks for stack arguments 8 bytes too high, arm64 does not."""
    for count in range(13):
        call = scenario(proto_of(["u64"] * count), [Step(Kind.STRUCT_OPS)], target=Target.STRUCT_OPS)
        assert run("arm64", call, Mode.LINUX) == []
        assert sorted(run("x86_64", call, Mode.LINUX)) == (["ABI-STACK", CTX] if count > 6 else [])


# --- everything of one to twelve arguments


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", TYPES)
def test_one_type_among_scalars(name: str, arch: str) -> None:
    """A type at every place among up to eleven scalars, with every kind of program."""
    for count in range(12):
        for at in range(count + 1):
            types = [SCALARS[n % len(SCALARS)] for n in range(count)]
            types.insert(at, TYPES[name])
            proto = proto_of(types)
            for kind in (Kind.FENTRY, Kind.FMOD_RET, Kind.FEXIT) if count % 4 == 0 else (Kind.FENTRY, Kind.FEXIT):
                try:
                    found = run(arch, scenario(proto, [Step(kind)]))
                except RefusedError as error:
                    assert str(error) == "attach: errno 524"  # noqa: PT017
                    continue
                assert found == [], (str(proto), kind)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("tail_call", [False, True])
def test_bpf_functions_of_every_number_of_arguments(arch: str, tail_call: bool) -> None:
    """Numbers of all widths, alone and with 16 bytes at every place among them."""
    for count in range(13):
        numbers = [NUMBERS[n % len(NUMBERS)] for n in range(count)]
        rows = [numbers, *([*numbers[:at], "__int128", *numbers[at:]] for at in range(count + 1) if count < 11)]
        for types in rows:
            for kind in (Kind.FENTRY, Kind.FEXIT, Kind.FSESSION):
                call = scenario(proto_of(types), [Step(kind)], target=Target.BPF)
                assert run(arch, replace(call, tail_call=tail_call)) == [], (types, kind)


def test_where_bpf_code_has_arguments() -> None:
    """By hand: the native forms of nine eightbytes, the sixth and seventh one argument."""
    proto = parse_proto("int f(u64 a, u8 b, int c, u64 d, u64 e, __int128 f, u64 g, void *h)")
    places = {
        arch: [", ".join(str(piece.where) for piece in placed.pieces) for placed in bpf_layout(abi, proto).args]
        for arch, (abi, _) in ABIS.items()
    }
    assert places == {
        "arm64": ["x0", "x1", "x2", "x3", "x4", "x5, x6", "x7", "[sp]"],
        "x86_64": ["rdi", "rsi", "rdx", "rcx", "r8", "r9, [rsp]", "[rsp+8]", "[rsp+16]"],
    }
    assert [bpf_layout(abi, proto).stack_bytes for abi, _ in ABIS.values()] == [
        8 if arch == "arm64" else 24 for arch in ABIS
    ]


def test_what_linux_believes_of_bpf_functions() -> None:
    """Measured: five words of 8 bytes where a parameter is a pointer, a struct or a float, or the result is no number."""
    for text, words in (("u64 f(void *a)", 5), ("u64 f(struct {u64 a;} a)", 5), ("u64 f(float a)", 5), ("void *f(void)", 5),
                        ("u64 f(u64 a, ...)", 5), (f"{P} f(u64 a)", 5), ("u64 f(u64 a, __int128 b)", 3), ("void f(bool a)", 1)):  # fmt: skip
        for arch in ARCHES:
            assert len(PLANS[arch](parse_proto(text), [Kind.FEXIT], Mode.LINUX, Target.BPF).slots) == words


@pytest.mark.parametrize("arch", ARCHES)
def test_a_cookie_that_is_lost_is_seen(arch: str) -> None:
    call = scenario("u64 f(u64 a)", [Step(Kind.FENTRY, cookie=7), Step(Kind.FENTRY)])
    plan = PLANS[arch](call.proto, [Kind.FENTRY, Kind.FENTRY], Mode.FULL)
    lost = replace(call, steps=(Step(Kind.FENTRY), Step(Kind.FENTRY)))
    for given, wanted in ((call, []), (lost, ["program 0 has the cookie 0x0, not 0x7"])):
        outcome = bench(arch).run(call, MAKERS[arch]().make(plan, given.attached, places(arch)))
        assert [violation.message for violation in outcome.violations] == wanted


# --- the programs and the function behind it

ARM64_CLOBBERS = "130080d2 c0035fd6"  # mov x19, #0; ret
X86_CLOBBERS = "31db c3"  # xor ebx, ebx; ret
ARM64_REACHES = "e10740f9 c0035fd6"  # ldr x1, [sp, #8]; ret
X86_REACHES = "488b4c2408 c3"  # mov rcx, [rsp + 8]; ret
ARM64_BELOW = "e1831ff8 c0035fd6"  # stur x1, [sp, #-8]; ret
X86_BELOW = "48894c24f8 c3"  # mov [rsp - 8], rcx; ret
ARM64_SP = "ff2300d1 e10340f9 ff230091 c0035fd6"  # sub sp, sp, #8; ldr x1, [sp]; add sp, sp, #8; ret
BROKEN_PROGRAMS = [
    ("arm64", ARM64_CLOBBERS, "ABI-SAVED", "fentry program 0 returns with x19 = 0x0; it was "),
    ("x86_64", X86_CLOBBERS, "ABI-SAVED", "fentry program 0 returns with rbx = 0x0; it was "),
    ("arm64", ARM64_REACHES, "ABI-STACK", "fentry program 0: `ldr x1, [sp, #8]` reaches 16 bytes above its frame"),
    ("x86_64", X86_REACHES, "ABI-STACK", "fentry program 0: `mov rcx, qword ptr [rsp + 8]` reaches 8 bytes above its frame"),
    ("arm64", ARM64_BELOW, "ABI-STACK", "`stur x1, [sp, #-8]` writes 8 bytes below SP"),
    ("x86_64", X86_BELOW, "ABI-STACK", "`mov qword ptr [rsp - 8], rcx` writes 8 bytes below SP"),
    ("arm64", ARM64_SP, "ABI-SP", "`ldr x1, [sp]` uses SP "),
]  # fmt: skip


@pytest.mark.parametrize(("arch", "native", "check", "message"), BROKEN_PROGRAMS)
def test_a_program_that_breaks_a_rule_is_seen(
    arch: str, native: str, check: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = code_at(arch, prog_address(0), bytes.fromhex(native))
    monkeypatch.setattr(trampoline_code, "program", lambda reader: code)
    call = scenario("u64 f(u64 a)", [Step(Kind.FENTRY)])
    plan = PLANS[arch](call.proto, [Kind.FENTRY], Mode.FULL)
    outcome = bench(arch).run(call, MAKERS[arch]().make(plan, call.attached, places(arch)))
    assert (outcome.violations[0].check, outcome.violations[0].message[: len(message)]) == (check, message)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_program_that_does_not_return_is_seen(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = code_at(arch, prog_address(0), bytes.fromhex({"arm64": "1f2003d500000014", "x86_64": "90ebfe"}[arch]))
    monkeypatch.setattr(trampoline_code, "program", lambda reader: endless)
    assert run(arch, scenario("u64 f(u64 a)", [Step(Kind.FENTRY)])) == ["END"]


@pytest.mark.parametrize("arch", ARCHES)
def test_what_a_program_does_not_note_is_wrong(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the bench set up stands for what a program reads."""
    silent = code_at(arch, prog_address(0), bytes.fromhex({"arm64": "000080d2c0035fd6", "x86_64": "31c0c3"}[arch]))
    monkeypatch.setattr(trampoline_code, "program", lambda reader: silent)
    assert run(arch, scenario("u64 f(u64 a)", [Step(Kind.FENTRY)])) == ["TRAMP-CTX"]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("target", [Target.KERNEL, Target.BPF])
def test_what_the_function_does_not_note_is_wrong(arch: str, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    body = entry(arch, target, jumps=False) + bytes.fromhex({"arm64": "c0035fd6", "x86_64": "c3"}[arch])
    silent = code_at(arch, emu.CODE_BASE, body)
    for name in ("c_function", "bpf_function"):
        monkeypatch.setattr(trampoline_code, name, lambda *_, **__: silent)
    call = scenario("u64 f(u64 a)", [Step(Kind.FENTRY)], target=target)
    assert sorted(run(arch, call)) == ["TRAMP-ARG", "TRAMP-RESULT"]


def test_the_program_that_reads_ctx() -> None:
    """By hand: what helpers are as Linux inlines them. TR-10, TR-65."""
    assert Reader("arm64", 1, 1, 7, session=True, func_ip=True).text().splitlines() == [
        "r6 = r1", "r7 = 0x50000800 ll", "*(u64 *)(r10 - 16) = r6",
        "r0 = *(u64 *)(r6 - 8)", "*(u64 *)(r7 + 0) = r0", "r0 = *(u64 *)(r6 - 16)", "*(u64 *)(r7 + 8) = r0",
        "r0 = *(u64 *)(r6 + 0)", "*(u64 *)(r7 + 32) = r0",
        "r8 = *(u64 *)(r6 - 8)", "r8 >>= 8", "r8 &= 0xff", "r8 <<= 3", "r9 = *(u64 *)(r10 - 16)", "r9 -= r8",
        "*(u64 *)(r7 + 16) = r9", "r0 = *(u64 *)(r9 + 0)", "*(u64 *)(r7 + 24) = r0", "r0 = 0xc00c1e01 ll",
        "*(u64 *)(r9 + 0) = r0", "r0 = 0x7 ll", "exit",
    ]  # fmt: skip


def test_the_function_of_a_bpf_program() -> None:
    wanted = BpfFunction("arm64", 6, 1, 2, pair=True, tail_call=False, jumps=False)
    assert wanted.source().text.splitlines() == [
        "r6 = 0x50000000 ll", *(f"*(u64 *)(r6 + {8 * index}) = r{index + 1}" for index in range(5)),
        "r0 = *(u64 *)(r11 + 8)", "*(u64 *)(r6 + 40) = r0", "r0 = 0x1 ll", "r2 = 0x2 ll", "exit",
    ]  # fmt: skip
