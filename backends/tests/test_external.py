"""A native-image plugin: an honest one's images arrive unharmed; whatever a dishonest one does costs one case."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backends.arm64.jit import Arm64Jit
from backends.base import Died, Job, Outcome, Ran, Unsupported
from backends.emulator import CODE_BASE
from backends.external import MAX_BAD_STARTS, MAX_SILENCES, ImagePlugin, request_of
from backends.image import Addresses, Compiler
from backends.native import NativeBackend, addresses_of
from backends.relocations import RelocationError, relocated
from backends.tests.hand import KFUNC_AT, job_of
from backends.x86_64.jit import X8664Jit
from harness.isa.verified import FuncFacts, Verified

ROOT = Path(__file__).resolve().parent.parent.parent
JITS: dict[str, Compiler] = {"x86_64": X8664Jit(), "arm64": Arm64Jit()}

# Answers the first request and those after the second; in the second it does what is asked for.
LIAR = """
import json, os, sys, time
out, number = sys.stdout, 0
def say(text):
    out.write(text); out.flush()
def hello():
    say(json.dumps({"protocol": 1, "name": "liar", "arch": "x86_64"}) + "\\n")
def truth(**more):
    image = {"arch": "x86_64", "code": "b807000000c3", "symbols": [{"subprog": 0, "offset": 0, "size": 6}]}
    return {"id": number, "image": image | more}
def tell(answer):
    say(json.dumps(answer) + "\\n")
for line in sys.stdin:
    request = json.loads(line)
    number = request.get("id", 0)
    if request["type"] == "hello":
        hello()
    elif number == 2:
        LIE
    else:
        tell(truth())
"""
SEVEN = {"main": "r0 = 7\nexit"}


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Callable[[str], ImagePlugin]]:
    made: list[ImagePlugin] = []

    def make(text: str) -> ImagePlugin:
        path = tmp_path / f"plugin{len(made)}.py"
        path.write_text(text)
        made.append(ImagePlugin("fake", [sys.executable, "-I", "-S", str(path)]))
        return made[-1]

    yield make
    for each in made:
        each.close()


def jobs(count: int) -> list[Job]:
    """Different jobs of one program."""
    return [replace(job_of(SEVEN), case=str(number)) for number in range(count)]


def died(outcome: Outcome) -> str:
    assert isinstance(outcome, Died), outcome
    return outcome.reason


def right(outcome: Outcome) -> bool:
    return isinstance(outcome, Ran) and outcome.retval == 7 and not outcome.violations


LIES = {
    "ends": ("sys.exit(3)", r"ended with status 3$"),
    "last words": ("sys.exit('so it ends')", r"ended with status 1; its last words: so it ends$"),
    "is killed": ("os.kill(os.getpid(), 11)", r"was killed by SIGSEGV$"),
    "closes its output": ("os.close(1); time.sleep(9)", r"closed its output$"),
    "its child keeps the pipes": ("os._exit(4) if os.fork() else time.sleep(9)", r"ended with status 4$"),
    "hangs": ("time.sleep(9)", r"gave nothing in time$"),
    "half a line": ("say('{\"id\": 2'); time.sleep(9)", r"gave 8 bytes without a line end in time$"),
    "an endless line": ("while True: say('x' * 65536)", r"no line end within 8388608 bytes: 'xxx"),
    "two answers": ("say((json.dumps(truth()) + '\\n') * 2)", r"goes on after its answer: '{\"id\": 2"),
    "no JSON": ("say('here you are\\n')", r"is no JSON \(.*\): 'here you are'$"),
    "no text": ("os.write(1, b'\\xff\\xfe\\x00\\n')", r"is no JSON"),
    "deep": ("say('[' * 200000 + '\\n')", r"is no JSON \(.*recursion"),
    "deep code": ("say('{\"id\": 2, \"image\": {\"arch\": ' + '[' * 940 + ']' * 940 + '}}\\n')", r"recursion|`arch` must be of"),
    "a huge number": ("say('{\"id\": ' + '9' * 9000 + '}\\n')", r"is no JSON"),
    "no object": ("tell([1])", r"is no JSON object: '\[1\]'$"),
    "another id": ("tell(truth() | {'id': 1})", r"`id` must be 2, as in the request, found 1$"),
    "no id": ("tell({})", r"`id` must be of type int, found nothing$"),
    "a true id": ("tell(truth() | {'id': True})", r"`id` must be of type int, found bool True$"),
    "nothing": ("tell({'id': 2})", r"`image` must be of type dict, found nothing$"),
    "another architecture": ("tell(truth(arch='arm64'))", r"`arch` must be x86_64, as in the request, found arm64$"),
    "no hex": ("tell(truth(code='b8zz'))", r"`code` must be hex"),
    "hex with spaces": ("tell(truth(code='b8 07 00 00 00 c3'))", r"`code` must be hex, found 'b8 07"),
    "no code": ("tell(truth(code=''))", r"`code` must be hex"),
    "no symbols": ("tell(truth(symbols=[]))", r"the first must be `subprog` 0$"),
    "a symbol of nothing": (
        "tell(truth(symbols=[{'subprog': 1, 'offset': 0, 'size': 6}]))", r"`subprog` 1 is none of the program's",
    ),
    "a symbol outside": (
        "tell(truth(symbols=[{'subprog': 0, 'offset': 1, 'size': 6}]))", r"bytes 1 to 7 of a code of 6",
    ),
    "a negative symbol": (
        "tell(truth(symbols=[{'subprog': 0, 'offset': -1, 'size': 6}]))", r"bytes -1 to 5 of a code of 6",
    ),
    "an empty symbol": ("tell(truth(symbols=[{'subprog': 0, 'offset': 0, 'size': 0}]))", r"bytes 0 to 0 of"),
    "a symbol that is none": ("tell(truth(symbols=[7]))", r"`symbols`\[0\] must be an object, found 7$"),
    "a symbol twice": (
        "tell(truth(symbols=[{'subprog': 0, 'offset': 0, 'size': 3}] * 2))", r"is none of the program's, or there twice$",
    ),
    "too few offsets": ("tell(truth(insn_offsets=[0]))", r"a row for each of 2 insns, found 1$"),
    "an offset outside": ("tell(truth(insn_offsets=[0, 7]))", r"`insn_offsets`\[1\] is 7, outside main$"),
    "an offset of words": ("tell(truth(insn_offsets=[0, 'x' * 999]))", r"`insn_offsets`\[1\] is 'x{59}, outside main$"),
    "a third program": ("tell(truth(of='mine'))", r"`of` must be `program` or `rewritten`, found 'mine'$"),
    "inlines an addition": ("tell(truth(inlined=[0]))", r"`inlined` has 0, which is no call of a helper$"),
    "inlines nothing": ("tell(truth(inlined=[2]))", r"`inlined` has 2, which is no insn of the program$"),
    "a relocation outside": (
        "tell(truth(relocations=[{'kind': 'rel32', 'offset': 3, 'target': 0}]))",
        r"image.relocations\[0\]: `offset` must leave 4 bytes in a code of 6, found 3$",
    ),
    "a relocation to nowhere": (
        "tell(truth(relocations=[{'kind': 'rel32', 'offset': 1, 'target': 'system'}]))",
        r"`target` must be the name of an extern or the number of a subprog, found 'system'$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_costs_one_case(plugin: Callable[[str], ImagePlugin], lie: str) -> None:
    code, message = LIES[lie]
    liar = plugin(LIAR.replace("LIE", code))
    first, second, third = jobs(3)
    assert right(liar.run(first))
    if "sleep(9)" in code:
        liar.seconds = 0.15
    started = time.monotonic()
    reason = died(liar.run(second))
    assert time.monotonic() - started < 5
    assert len(reason) < 700
    assert re.search(message, reason), reason
    liar.seconds = 10
    assert right(liar.run(third))


def test_it_may_say_that_it_cannot(plugin: Callable[[str], ImagePlugin]) -> None:
    liar = plugin(LIAR.replace("LIE", "tell({'id': 2, 'unsupported': 'no ' * 400 + chr(27)})"))
    first, second, third = jobs(3)
    assert right(liar.run(first))
    outcome = liar.run(second)
    assert isinstance(outcome, Unsupported)
    assert (len(outcome.reason), outcome.reason.isprintable()) == (503, True)
    assert right(liar.run(third))


def test_what_it_says_unasked_is_not_the_next_answer(plugin: Callable[[str], ImagePlugin]) -> None:
    liar = plugin(LIAR.replace("LIE", "tell(truth()); time.sleep(0.01); tell(truth() | {'id': 3})"))
    first, second, third = jobs(3)
    assert [right(liar.run(job)) for job in (first, second)] == [True, True]
    time.sleep(0.1)
    assert right(liar.run(third))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("{'protocol': 2, 'name': 'x', 'arch': 'x86_64'}", "hello: `protocol` must be 1, found 2"),
        ("{'protocol': 1, 'name': 'x', 'arch': 'mips'}", "hello: `arch` must be arm64 or x86_64, found 'mips'"),
        ("{'protocol': 1, 'arch': 'x86_64'}", "hello: `name` must be of type str, found nothing"),
    ],
)
def test_a_wrong_hello(plugin: Callable[[str], ImagePlugin], answer: str, message: str) -> None:
    wrong = plugin(f"import json\ninput()\nprint(json.dumps({answer}), flush=True)\ninput()")
    assert died(wrong.run(jobs(1)[0])) == message


def test_one_that_cannot_start_is_not_asked_for_ever() -> None:
    nobody = ImagePlugin("nobody", ["./no such program"])
    reasons = [died(nobody.run(job)) for job in jobs(MAX_BAD_STARTS + 1)]
    assert reasons[0] == "the plugin cannot start: No such file or directory: ./no such program"
    assert reasons[-1].startswith("not asked again, since it failed too often; at last: the plugin cannot start")


def test_one_that_hangs_is_not_asked_for_ever(plugin: Callable[[str], ImagePlugin]) -> None:
    hangs = plugin("import time\ntime.sleep(60)")
    hangs.seconds = 0.02
    started = time.monotonic()
    reasons = [died(hangs.run(job)) for job in jobs(200)]
    assert time.monotonic() - started < 3
    assert reasons[min(MAX_SILENCES, MAX_BAD_STARTS) :] == [reasons[-1]] * (200 - min(MAX_SILENCES, MAX_BAD_STARTS))


def test_nothing_of_it_outlives_the_run(plugin: Callable[[str], ImagePlugin], tmp_path: Path) -> None:
    note = tmp_path / "child"
    child = f"pid = os.fork()\n        if not pid: time.sleep(60)\n        open({str(note)!r}, 'w').write(str(pid))\n"
    parent = plugin(LIAR.replace("LIE", child + "        tell(truth())"))
    assert [right(parent.run(job)) for job in jobs(3)] == [True, True, True]
    pid = int(note.read_text())
    assert alive(pid)
    parent.close()
    until = time.monotonic() + 2
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.005)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """A killed orphan may stay a zombie where nobody reaps."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_same_job_is_asked_once(plugin: Callable[[str], ImagePlugin]) -> None:
    liar = plugin(LIAR.replace("LIE", "sys.exit()"))
    job = jobs(1)[0]
    assert right(liar.run(job))
    assert right(liar.run(replace(job, detail=True)))


# An honest plugin: our own JITs behind the protocol.

HONEST = """
import json, sys
from backends.arm64.jit import Arm64Jit
from backends.image import Addresses, CompileError
from backends.x86_64.jit import X8664Jit
from harness.isa.insn import Prog, Subprog, insns_from_bytes
from harness.isa.proto import parse_proto
from harness.isa.verified import FuncFacts, Verified
arch = sys.argv[1]
jit = {"arm64": Arm64Jit, "x86_64": X8664Jit}[arch]()
def proto(row):
    return row and parse_proto(row["text"])
def answer(ask):
    rows, externs = ask["rewritten"]["subprogs"], ask["externs"]
    subprogs = tuple(Subprog(r["name"], r["start"], r["end"], proto(r["proto"]), r["global"]) for r in rows)
    kfuncs = tuple(proto(extern["proto"]) for extern in externs if extern["kind"] == "kfunc")
    facts = tuple(FuncFacts(r["stack_depth"], r["incoming_slots"], r["outgoing_slots"]) for r in rows)
    prog = Prog(insns_from_bytes(bytes.fromhex(ask["rewritten"]["insns"])), subprogs, kfuncs)
    addresses = Addresses(ask["base"], {extern["name"]: extern["address"] for extern in externs})
    try:
        image = jit.compile(Verified(prog, facts, tuple(ask["rewritten"]["origin"])), addresses)
    except CompileError as error:
        return {"unsupported": str(error)}
    symbols = [{"subprog": s.subprog, "offset": s.offset, "size": s.size} for s in image.symbols]
    return {"image": {
        "arch": arch, "of": "rewritten", "code": image.code.hex(), "symbols": symbols,
        "insn_offsets": image.insn_offsets, "landing_pads": image.landing_pads,
    }}
for line in sys.stdin:
    ask = json.loads(line)
    hello = {"protocol": 1, "name": "ours", "arch": arch}
    print(json.dumps(hello if ask["type"] == "hello" else {"id": ask["id"]} | answer(ask)), flush=True)
"""

KFUNC9 = "u64 kf(u64 a, u32 b, u64 c, s16 d, u64 e, u64 f, u8 g, u64 h, u64 i)"
SUB7 = "u64 seven(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g)"
REGISTERS = "".join(f"r{n} = {n * 111}\n" for n in range(1, 6))


def honest_jobs() -> list[Job]:
    """A constant, memory, a stack, kept registers, a division, stack arguments both ways."""
    stores = "".join(f"*(u64 *)(r11 - {8 * n}) = {n * 1001}\n" for n in range(1, 5))
    return [
        with_facts(job_of(SEVEN), (0, 0, 0)),
        with_facts(job_of({"main": "r0 = *(u32 *)(r1 + 4)\n*(u8 *)(r1 + 1) = 9\nexit"}, ctx=bytes(range(8))), (0, 0, 0)),
        with_facts(job_of({"main": "*(u64 *)(r10 - 24) = -5\nr0 = *(u64 *)(r10 - 24)\nexit"}), (24, 0, 0)),
        with_facts(job_of({"main": "r6 = 6\ncall bpf_ktime_get_ns\nr0 += r6\nexit"}), (0, 0, 0)),
        with_facts(
            job_of({"main": f"{REGISTERS}{stores}r7 = 7\ncall kf\nr0 += r7\nexit"}, {KFUNC9: "sum"}), (0, 0, 4)
        ),
        with_facts(
            job_of({
                "main": f"{REGISTERS}*(u64 *)(r11 - 8) = 606\n*(u64 *)(r11 - 16) = 707\ncall seven\nexit",
                SUB7: "r0 = *(u64 *)(r11 + 16)\nr1 = *(u64 *)(r11 + 8)\nr0 -= r1\nr0 += r5\nexit",
            }),
            (0, 0, 2), (0, 2, 0),
        ),
    ]  # fmt: skip


def with_facts(job: Job, *facts: tuple[int, int, int]) -> Job:
    assert job.verified is not None
    rows = tuple(FuncFacts(*row) for row in facts)
    return replace(job, verified=Verified(job.verified.prog, rows, job.verified.origin))


@pytest.mark.parametrize("arch", JITS)
def test_images_travel_unharmed(tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    path = tmp_path / "honest.py"
    path.write_text(HONEST)
    plugin, here = ImagePlugin("ours", [sys.executable, str(path), arch]), NativeBackend("here", JITS[arch])
    assert plugin.describe() == "the plugin has not answered"
    for job in honest_jobs():
        through, direct = plugin.run(job), here.run(job)
        assert isinstance(through, Ran), through
        assert isinstance(direct, Ran)
        assert job.reference is not None
        assert through.image == direct.image
        assert (through.retval, through.violations) == (job.reference.retval, ())
        assert through == direct
    assert (plugin.describe(), plugin.arch) == ("ours", arch)
    plugin.close()


def test_a_request_has_what_the_protocol_says() -> None:
    job = honest_jobs()[4]
    request = request_of(job, 7, "arm64")
    assert set(request) == {
        "type", "id", "arch", "case", "base", "ctx_size", "length_in_r2", "program", "rewritten", "externs",
    }  # fmt: skip
    externs = request["externs"]
    assert isinstance(externs, list)
    row = externs[-1]
    assert (row["kind"], row["id"], row["name"], row["address"]) == ("kfunc", 1, "kf", KFUNC_AT)
    assert row["proto"]["text"] == KFUNC9
    assert row["proto"]["params"][3] == {
        "name": "d", "type": {"kind": "int", "text": "s16", "size": 2, "signed": True},
    }  # fmt: skip
    page = (ROOT / "docs" / "native-image-plugin.md").read_text(encoding="utf-8")
    assert [key for key in request if f"| `{key}` |" not in page] == []


# Relocations

EXTERN = 0x4400_0030
AT = Addresses(CODE_BASE, {"f": EXTERN})


def moved(arch: str, code: str, **row: object) -> str:
    return relocated(arch, bytes.fromhex(code), AT, {0: 0, 1: 8}, [row]).hex()


def test_relocations() -> None:
    # call f from CODE_BASE + 1: 0x44000030 - 0x40000006
    assert moved("x86_64", "90e800000000", kind="rel32", offset=2, target="f") == "90e82a000004"
    assert moved("x86_64", "48b80000000000000000", kind="abs64", offset=2, target=1) == "48b80800004000000000"
    # bl f: (0x44000030 - 0x40000004) / 4 = 0x100000b
    assert moved("arm64", "1f2003d500000094", kind="branch26", offset=4, target="f") == "1f2003d50b000095"
    movs = "090080d2 0900a0f2 0900c0f2 0900e0f2"  # movz x9, #0; movk x9, #0, lsl #16; lsl #32; lsl #48
    assert moved("arm64", movs, kind="movw", offset=0, target="f") == "090680d20980a8f20900c0f20900e0f2"


@pytest.mark.parametrize(
    ("arch", "row", "message"),
    [
        ("arm64", {"kind": "rel32", "offset": 0, "target": "f"}, "`kind` must be abs64 or branch26 or movw on arm64"),
        ("arm64", {"kind": "branch26", "offset": 0, "target": "f"}, "there is no B or BL at `offset`: 0xd503201f"),
        ("arm64", {"kind": "movw", "offset": 0, "target": "f"}, "there are no 4 MOVZ or MOVK of 64 bits"),
        (
            "x86_64",
            {"kind": "abs64", "offset": 9, "target": "f"},
            "`offset` must leave 8 bytes in a code of 16, found 9",
        ),
        ("x86_64", {"kind": ["abs64"], "offset": 0, "target": "f"}, "`kind` must be"),
        ("x86_64", {"kind": "abs64", "offset": True, "target": "f"}, "`offset` must leave"),
        ("x86_64", {"kind": "abs64", "offset": 0, "target": 2}, "`target` must be"),
        ("x86_64", {"kind": "abs64", "offset": 0, "target": {}}, "`target` must be"),
    ],
)
def test_wrong_relocations(arch: str, row: dict[str, object], message: str) -> None:
    with pytest.raises(RelocationError) as caught:
        relocated(arch, bytes.fromhex("1f2003d5") * 4, AT, {0: 0}, [row])
    assert str(caught.value).startswith(f"[0]: {message}")


def test_addresses_are_those_of_the_emulator() -> None:
    assert addresses_of(honest_jobs()[4]).externs["kf"] == KFUNC_AT
