"""case.schema.json itself, and its validator against another implementation of JSON Schema."""

import copy
import json
import random
from typing import Any

import pytest

from harness.schema import Problem, is_valid, load_schema, problems

jsonschema: Any = pytest.importorskip("jsonschema")

GOOD: dict[str, Any] = {
    "case": "nine_args",
    "about": "Nine arguments arrive.",
    "spec": ["SA-V-02", "AAPCS64, stage C"],
    "needs": ["stack_args", "subprogs"],
    "type": "syscall",
    "ctx": "0102",
    "kfuncs": {"u64 kf(u64 a, u64 b)": "sum", "u64 kg(u64 a)": -1},
    "prog": {"main": "exit\n", "u64 f(u64 a)": "exit\n"},
    "expect": {
        "verdict": "accept",
        "retval": 2**64 - 1,
        "memory": "0102",
        "calls": [{"f": [1, -(2**63)]}, {"kf": "${args}"}],
        "place": {"arm64": {"a": "x5", "b": "[sp]", "f.c": "[sp+8]"}, "x86_64": {"a": "r9", "b": "[rsp + 0x10]"}},
    },
    "params": [{"n": 6, "args": [1, 2]}, {"n": 7, "args": {"a": "b"}}],
}
REJECT: dict[str, Any] = {
    "case": "a",
    "about": "b",
    "spec": "c",
    "prog": {"main": "exit"},
    "expect": {"verdict": "reject", "at": "main 0", "rule": "reg-${x}", "msg": ["R0 !ok", "{{.*}}"]},
}


def change(path: str, value: Any) -> dict[str, Any]:
    """The good case with one part of it changed; `expect.retval`."""
    case = copy.deepcopy(GOOD)
    *above, last = path.split(".")
    part = case
    for step in above:
        part = part[step]
    part[last] = value
    return case


@pytest.fixture(scope="module")
def other() -> Any:
    return jsonschema.Draft7Validator({"$ref": "#/definitions/case", "definitions": load_schema()["definitions"]})


def test_the_schema_is_draft_07() -> None:
    jsonschema.Draft7Validator.check_schema(load_schema())


def test_an_editor_is_told_about_every_part() -> None:
    schema = load_schema()
    parts = dict(schema["definitions"])
    for name in ("case", "expect"):
        parts |= {f"{name}.{key}": part for key, part in schema["definitions"][name]["properties"].items()}
    bare = [name for name, part in parts.items() if "$ref" not in part and not {"title", "description"} <= set(part)]
    assert bare == []
    silent = [name for name, part in parts.items() if not {"examples", "enum", "$ref", "properties"} & set(part)]
    assert silent == []


def test_every_example_is_valid() -> None:
    schema = load_schema()
    for part in (schema["definitions"][name] for name in ("case", "expect")):
        for key, value in part["properties"].items():
            checker = jsonschema.Draft7Validator({**value, "definitions": schema["definitions"]})
            assert [e.message for example in value.get("examples", ()) for e in checker.iter_errors(example)] == [], key


BAD: dict[str, tuple[str, Any]] = {
    "case: expected a name of lower-case letters, digits and _, a letter first, found '9'": ("case", "9"),
    "about: expected a sentence, found ' '": ("about", " "),
    "about: expected text, found nothing": ("about", None),
    "spec: expected text or a list, found a mapping": ("spec", {}),
    "spec: expected at least 1 item, found 0": ("spec", []),
    "needs: expected a list, found text 'kfuncs'": ("needs", "kfuncs"),
    "needs: an item is there twice": ("needs", ["kfuncs", "kfuncs"]),
    "type: expected one of syscall, fentry, fexit, fmod_ret, fsession, found 'xdp'": ("type", "xdp"),
    "ctx: expected text, found integer 10: quote it": ("ctx", 10),
    "kfuncs: expected a mapping, found a list": ("kfuncs", []),
    "u64 f(void): expected an integer or text, found true": ("kfuncs", {"u64 f(void)": True}),
    "prog: expected at least 1 key, found 0": ("prog", {}),
    "main: expected text, found nothing": ("prog", {"main": None}),
    "expect: expected a mapping, found nothing": ("expect", None),
    "verdict: expected one of accept, reject, found 'acept' (did you mean 'accept'?)": ("expect.verdict", "acept"),
    "retval: expected an integer, found text '6'": ("expect.retval", "6"),
    "retval: expected an integer, found true": ("expect.retval", True),
    "retval: expected an integer, found text '-${n}': a param must stand alone here": ("expect.retval", "-${n}"),
    "retval: expected an integer from -2^63 to 2^64-1, found 18446744073709551616": ("expect.retval", 2**64),
    "retval: expected an integer from -2^63 to 2^64-1, found -9223372036854775809": ("expect.retval", -(2**63) - 1),
    "calls: expected a list, found a mapping": ("expect.calls", {}),
    "calls: expected at most 1 key, found 2": ("expect.calls", [{"f": [], "g": []}]),
    "f: expected an integer or a list, found text 'x'": ("expect.calls", [{"f": ["x"]}]),
    "f: expected a list, found integer 1": ("expect.calls", [{"f": 1}]),
    "a: expected x0 to x30, [sp], [sp+N], or two of them, found 'x31'": ("expect.place", {"arm64": {"a": "x31"}}),
    "a: expected a 64-bit register (rdi, r8, ...), [rsp], [rsp+N], or two of them, found '[sp]'": (
        "expect.place",
        {"x86_64": {"a": "[sp]"}},
    ),
    "unknown key 'arm' (did you mean 'arm64'?)": ("expect.place", {"arm": {}}),
    "rule: expected a rule id of lower-case letters, digits and -, found 'A b'": ("expect.rule", "A b"),
    "msg: expected at least 1 item, found 0": ("expect.msg", []),
    "msg: expected at most 1000 characters, found 1001": ("expect.msg", "x" * 1001),
    "unknown key 'xyzzy' (known: verdict, retval, memory, maps, calls, place, linux, at, rule, msg)": (
        "expect.xyzzy",
        1,
    ),
    "unknown key 'abuot' (did you mean 'about'?)": ("abuot", "x"),
    "params: expected at least 1 item, found 0": ("params", []),
    "params: expected at least 1 key, found 0": ("params", [{}]),
    "expected a param's key of lower-case letters, digits and _, found 'N'": ("params", [{"N": 1}]),
    "n: expected an integer or text or a list or a mapping, found nothing": ("params", [{"n": None}]),
}


@pytest.mark.parametrize("message", BAD)
def test_words(message: str, other: Any) -> None:
    case = change(*BAD[message])
    assert [problem.message for problem in problems(case)] == [message]
    assert not is_valid(case)
    assert not other.is_valid(case)


@pytest.mark.parametrize("case", [GOOD, REJECT, change("expect.place", "${p}"), change("needs", ["${n}"])])
def test_good(case: dict[str, Any], other: Any) -> None:
    assert is_valid(case)
    assert other.is_valid(case)
    assert problems(case) == []


def test_every_missing_key_is_told() -> None:
    assert problems({}) == [Problem((), f"missing key {name!r}") for name in ("case", "about", "spec", "expect")]


def test_a_misspelt_key_is_one_mistake() -> None:
    case = change("expect", {"verdit": "accept"})
    assert problems(case) == [Problem(("expect", "verdit"), "unknown key 'verdit' (did you mean 'verdict'?)", key=True)]


def test_what_is_no_mapping(other: Any) -> None:
    for item, found in ((None, "nothing"), (5, "integer 5"), ("x", "text 'x'"), ([], "a list"), (False, "false")):
        assert problems(item) == [Problem((), f"expected a mapping, found {found}")]
        assert not other.is_valid(item)


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**64 - 1, 2**64, -(2**63) - 1, "", " ", "x", "${n}", "a ${n}", "x5", "[rsp]", [], ["x"], [1], [[1]],
    {}, {"a": 1}, {"f": [1]}, {"a": "x0"}, [{"f": [1]}], [{"n": 1}], [{"n": [None]}], {"arm64": {"a": "x0"}},
)  # fmt: skip


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(below for step, child in children for below in paths(child, (*path, step)))]


def mutant(rng: random.Random, case: dict[str, Any]) -> Any:
    """The case with one or two parts replaced, taken out, or put in under another name."""
    holder = [copy.deepcopy(case)]
    for _ in range(rng.randint(1, 2)):
        *above, last = (0, *rng.choice(paths(holder[0])))
        part: Any = holder
        for step in above:
            part = part[step]
        match rng.randrange(4 if isinstance(part, dict) else 1):
            case 1:
                del part[last]
            case 2:
                part[last + "x"] = part.pop(last)
            case _:
                part[last] = copy.deepcopy(rng.choice(VALUES))
    return holder[0]


def test_two_implementations_agree(other: Any) -> None:
    rng = random.Random(20)
    valid = 0
    for number in range(1500):
        item = mutant(rng, rng.choice((GOOD, REJECT)))
        want = other.is_valid(item)
        assert is_valid(item) is want, (number, json.dumps(item))
        assert (problems(item) == []) is want, (number, json.dumps(item))
        valid += want
    assert 100 < valid < 1400
