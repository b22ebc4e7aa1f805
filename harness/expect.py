"""What a case expects, from data that has the right shape: what belongs together must fit together."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from backends.base import Entries, ExpectedPlace
from backends.calls import as_type
from harness.isa.asm import Assembled
from harness.isa.ctypes import CInt, CType
from harness.isa.maps import Map, MapError, check
from harness.isa.opcodes import MASK64
from harness.isa.proto import Proto
from harness.isa.slots import callee_slots, groups, slots_of
from harness.params import Notes
from harness.schema import suggestion
from harness.yamldoc import Path, quoted


@dataclass(frozen=True, slots=True)
class ExpectedCall:
    """A call that must be made, its arguments slot by slot as the callee's types see them."""

    callee: str
    args: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Expect:
    """What must come out. `retval` is unsigned, 64 bits; None is a thing that is not asked about."""

    verdict: Literal["accept", "reject"]
    at: str | None = None
    rule: str | None = None
    msg: tuple[str, ...] = ()
    retval: int | None = None
    memory: bytes | None = None
    maps: Mapping[str, Entries] = field(default_factory=dict)
    calls: tuple[ExpectedCall, ...] | None = None
    place: tuple[ExpectedPlace, ...] = ()


_AT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?) (0|[1-9][0-9]{0,6})\Z")
_MEMORY: Final = re.compile(r"\[(\w+)(?: ?\+ ?(\w+))?\]\Z")
_PATTERN: Final = re.compile(r"\{\{(.*?)\}\}")
_NOT_HEX: Final = re.compile(r"[^0-9a-fA-F ]")
_ONLY: Final = {"accept": ("retval", "memory", "maps", "calls", "place"), "reject": ("at", "rule", "msg")}


def hex_bytes(notes: Notes, path: Path, text: str, *, key: bool = False) -> bytes | None:
    """Bytes from their hex digits; None where they are none, which is noted."""
    if wrong := _NOT_HEX.search(text):
        line, column = text.count("\n", 0, wrong.start()), wrong.start() - text.rfind("\n", 0, wrong.start()) - 1
        notes.within(path, line, column, f"{path[-1]}: expected hex digits, found {quoted(wrong.group())}", key=key)
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        notes.at(path, f"{path[-1]}: expected two hex digits a byte", key=key)
        return None


def entries_of(notes: Notes, path: Path, data: Mapping[str, str]) -> Entries | None:
    """Keys and values from their hex digits, as they are given; None where some are none, which is noted."""
    rows: list[tuple[bytes, bytes]] = []
    for key, value in data.items():
        pair = hex_bytes(notes, (*path, key), key, key=True), hex_bytes(notes, (*path, key), value)
        if pair[0] is None or pair[1] is None:
            return None
        rows.append((pair[0], pair[1]))
    return tuple(rows)


def build_expect(
    notes: Notes,
    data: dict[str, Any],
    protos: Mapping[str, Proto | None] | None,
    assembled: Assembled | None,
    ctx: bytes | None,
) -> Expect:
    """The expectation. `protos` has every function of the case, None for one without a prototype.

    Where a part of the case could not be read (None), what is said about it is not looked at.
    """
    names = frozenset(subprog.name for subprog in assembled.prog.subprogs) if assembled else frozenset[str]()
    builder = _Builder(notes, data, protos or {}, names)
    builder.belongs()
    memory = hex_bytes(notes, ("expect", "memory"), data["memory"]) if "memory" in data else None
    if memory is not None and ctx is not None and len(memory) != len(ctx):
        notes.at(("expect", "memory"), f"memory: expected {len(ctx)} bytes, as ctx has, found {len(memory)}")
    messages = data.get("msg", ())
    return Expect(
        verdict=data["verdict"],
        at=builder.at(assembled) if "at" in data else None,
        rule=data.get("rule"),
        msg=builder.messages([messages] if isinstance(messages, str) else list(messages)),
        retval=data["retval"] & MASK64 if "retval" in data else None,
        memory=memory,
        maps=builder.maps(assembled.prog.maps) if assembled else {},
        calls=tuple(builder.calls()) if "calls" in data and protos is not None else None,
        place=tuple(builder.places()) if protos is not None else (),
    )


@dataclass(frozen=True, slots=True)
class _Builder:
    """Reads one expectation."""

    notes: Notes
    data: dict[str, Any]
    protos: Mapping[str, Proto | None]
    subprogs: frozenset[str]

    def belongs(self) -> None:
        """Whether every key goes with the verdict."""
        verdict = self.data["verdict"]
        for other, keys in _ONLY.items():
            for key in keys:
                if key in self.data and other != verdict:
                    self.notes.at(("expect", key), f"{key} goes with verdict: {other} only", key=True)
        if verdict == "reject" and "rule" not in self.data:
            self.notes.at(("expect",), "missing key 'rule': a reject names the rule that is broken")

    def maps(self, known: Sequence[Map]) -> dict[str, Entries]:
        """What each named map must hold, sorted by key; of an array all of it."""
        found: dict[str, Entries] = {}
        for name, data in self.data.get("maps", {}).items():
            path: Path = ("expect", "maps", name)
            map_ = next((map_ for map_ in known if map_.name == name), None)
            if map_ is None:
                names = [map_.name for map_ in known]
                hint = suggestion(name, names) or f" (maps: {', '.join(names) or 'none'})"
                self.notes.at(path, f"there is no map {quoted(name)}{hint}", key=True)
                continue
            rows = entries_of(self.notes, path, data)
            if rows is None:
                continue
            try:
                check(replace(map_, content=rows))
            except MapError as error:
                self.notes.at(path, f"{name}: {error}", key=True)
                continue
            numbers = (number.to_bytes(4, "little") for number in range(map_.max_entries))
            zeros = {key: bytes(map_.value_size) for key in numbers} if map_.type == "array" else {}
            found[name] = tuple(sorted((zeros | dict(rows)).items()))
        return found

    def at(self, assembled: Assembled | None) -> str | None:
        """The insn, as its subprog's name and its number there."""
        path: Path = ("expect", "at")
        match = _AT.match(self.data["at"])
        if match is None:
            self.notes.at(
                path, f"at: expected a subprog and an insn's number (main 3), found {quoted(self.data['at'])}"
            )
            return None
        if assembled is None:
            return None
        name, number = match.group(1), int(match.group(2))
        sizes = {subprog.name: subprog.end - subprog.start for subprog in assembled.prog.subprogs}
        if name not in sizes:
            self.notes.at(path, f"at: there is no subprog {quoted(name)}{suggestion(name, list(sizes))}")
        elif number >= sizes[name]:
            self.notes.at(path, f"at: {name} has insns 0 to {sizes[name] - 1}, found {number}")
        return f"{name} {number}"

    def messages(self, messages: list[str]) -> tuple[str, ...]:
        """The parts of the log, their regular expressions tried."""
        for index, message in enumerate(messages):
            path: Path = ("expect", "msg") if isinstance(self.data["msg"], str) else ("expect", "msg", index)
            for match in _PATTERN.finditer(message):
                if wrong := _wrong_pattern(match.group(1)):
                    self.notes.within(path, 0, match.start(1), f"msg: not a regular expression: {wrong}")
        return tuple(messages)

    def calls(self) -> Iterator[ExpectedCall]:
        """The trace, every value as its parameter's type sees it."""
        for index, call in enumerate(self.data["calls"]):
            if self.notes.full:
                return
            for callee, args in call.items():
                path: Path = ("expect", "calls", index, callee)
                proto = self._callee(path, callee)
                if proto is None:
                    continue
                if len(args) != len(proto.params):
                    count = len(proto.params)
                    what = f"{count} argument{'' if count == 1 else 's'}"
                    self.notes.at(path, f"{callee}: expected {what}, found {len(args)}")
                    continue
                yield ExpectedCall(callee, tuple(self._slots(path, args, proto)))

    def _slots(self, path: Path, args: Sequence[Any], proto: Proto) -> Iterator[int]:
        """The values of all slots; those of a parameter of two are a list."""
        slots = callee_slots(proto) if proto.name in self.subprogs else slots_of(proto)
        for number, (arg, rows) in enumerate(zip(args, groups(proto, slots), strict=True)):
            values = arg if isinstance(arg, list) else [arg]
            if len(values) != len(rows):
                what = "a list of two halves" if len(rows) > 1 else "a single value"
                self.notes.at((*path, number), f"{proto.name}: expected {what} for {proto.params[number].name}")
                return
            for at, (value, slot) in enumerate(zip(values, rows, strict=True)):
                where: Path = (*path, number, at) if isinstance(arg, list) else (*path, number)
                yield self._arg(proto.name, where, value, slot.type)

    def _callee(self, path: Path, callee: str) -> Proto | None:
        if callee not in self.protos:
            known = [name for name, proto in self.protos.items() if proto is not None]
            hint = suggestion(callee, known) or f" (with a prototype: {', '.join(known) or 'none'})"
            self.notes.at(path, f"calls: there is no function {quoted(callee)}{hint}", key=True)
        elif self.protos[callee] is None:
            self.notes.at(path, f"calls: {callee} has no prototype, so its calls are not traced", key=True)
        return self.protos.get(callee)

    def _arg(self, callee: str, path: Path, value: int, ctype: CType) -> int:
        """An argument; 64 bits may be written with either sign, fewer as the type has them."""
        if isinstance(ctype, CInt) and ctype.size < 8:
            bits = ctype.size * 8
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if ctype.signed else (0, (1 << bits) - 1)
            if not low <= value <= high:
                self.notes.at(path, f"{callee}: {ctype.name} holds {low} to {high}, found {value}")
        return as_type(value, ctype)

    def places(self) -> Iterator[ExpectedPlace]:
        """Every place, with the one function its parameter belongs to."""
        owners = self._owners()
        for arch, rows in self.data.get("place", {}).items():
            seen: dict[tuple[str, str], str] = {}
            for name, where in rows.items():
                path: Path = ("expect", "place", arch, name)
                having = owners.get(name, [])
                if self.notes.full:
                    return
                if len(having) != 1:
                    self.notes.at(path, _no_owner(name, having), key=True)
                    continue
                first = seen.setdefault(having[0], name)
                if first != name:
                    message = f"place: {quoted(name)} is the parameter that {quoted(first)} names already"
                    self.notes.at(path, message, key=True)
                yield ExpectedPlace(arch, *having[0], _normal(where))

    def _owners(self) -> dict[str, list[tuple[str, str]]]:
        """The function and parameter that a name may stand for: `param`, or `callee.param`."""
        owners: dict[str, list[tuple[str, str]]] = {}
        for proto in filter(None, self.protos.values()):
            for param in proto.params:
                for name in (param.name, f"{proto.name}.{param.name}"):
                    owners.setdefault(name, []).append((proto.name, param.name))
        return owners


def _no_owner(name: str, having: list[tuple[str, str]]) -> str:
    if not having:
        return f"place: no function with a prototype has a parameter {quoted(name)}"
    choice = " or ".join(f"{callee}.{param}" for callee, param in having[:3])
    return f"place: several functions have a parameter {quoted(name)}: write {choice}"


def _normal(where: str) -> str:
    """Places without spaces, offsets in decimal, no offset of 0; two have a comma between them."""
    if "," in where:
        return ", ".join(_normal(part.strip()) for part in where.split(","))
    match = _MEMORY.match(where)
    if match is None:
        return where
    off = int(match.group(2), 0) if match.group(2) else 0
    return f"[{match.group(1)}+{off}]" if off else f"[{match.group(1)}]"


def _wrong_pattern(pattern: str) -> str | None:
    """What is wrong with a regular expression, a warning included."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        return str(error) or type(error).__name__
    return None
