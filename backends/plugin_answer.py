"""A plugin's answer as an Image, every word of it checked first."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.base import Job
from backends.image import Image, Symbol
from backends.native import addresses_of
from backends.plugin_process import PluginError, brief
from backends.relocations import RelocationError, relocated
from harness.isa.insn import CallHelper, Prog
from harness.isa.verified import Verified


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object of an answer; every value is asked for with its type. Raises PluginError."""

    where: str
    values: Mapping[str, Any]

    def get(self, name: str, kind: type, default: object = None) -> Any:
        """The value, or the default where there is one and the key is not there."""
        if name not in self.values and default is not None:
            return default
        value = self.values.get(name)
        if type(value) is not kind:
            found = "nothing" if name not in self.values else brief(f"{type(value).__name__} {value!r:.60}")
            raise PluginError(f"{self.where}: `{name}` must be of type {kind.__name__}, found {found}")
        return value

    def objects(self, name: str, default: object = None) -> list["Fields"]:
        """A list of objects."""
        rows = self.get(name, list, default)
        for at, row in enumerate(rows):
            if type(row) is not dict:
                raise PluginError(f"{self.where}: `{name}`[{at}] must be an object, found {row!r:.60}")
        return [Fields(f"{self.where}.{name}[{at}]", row) for at, row in enumerate(rows)]


def image_of(answer: Mapping[str, object], job: Job, arch: str) -> Image:
    """The image in an answer, made for `addresses_of` the job. Raises PluginError."""
    assert job.verified is not None
    fields = Fields("image", answer)
    if fields.get("arch", str) != arch:
        raise PluginError(f"image: `arch` must be {arch}, as in the request, found {brief(fields.get('arch', str))}")
    source = _source(fields, job)
    code = _code(fields)
    symbols = _symbols(fields, source.prog, len(code), 4 if arch == "arm64" else 1)
    addresses = addresses_of(job)
    try:
        rows = [row.values for row in fields.objects("relocations", [])]
        code = relocated(arch, code, addresses, {s.subprog: s.offset for s in symbols}, rows)
    except RelocationError as error:
        raise PluginError(f"image.relocations{error}") from error
    return Image(
        arch, addresses.base, code, symbols, _insn_offsets(fields, source.prog, symbols, len(code)),
        fields.get("landing_pads", bool, False), source, _inlined(fields, source),
    )  # fmt: skip


def _source(fields: Fields, job: Job) -> Verified:
    """The program that was compiled."""
    assert job.verified is not None
    which = fields.get("of", str, "program")
    if which == "rewritten":
        return job.verified
    if which != "program":
        raise PluginError(f"image: `of` must be `program` or `rewritten`, found {brief(which)!r}")
    return Verified(job.prog, (), tuple(range(len(job.prog.insns))))


def _code(fields: Fields) -> bytes:
    text = fields.get("code", str)
    try:
        code = bytes.fromhex(text)
    except ValueError as error:
        raise PluginError(f"image: `code` must be hex: {error}") from error
    if not code or len(code) * 2 != len(text):
        raise PluginError(f"image: `code` must be hex, found {brief(text[:60])!r}")
    return code


def _symbols(fields: Fields, prog: Prog, size: int, step: int) -> tuple[Symbol, ...]:
    """The functions: the main prog first, each once, apart from each other, inside the code."""
    found: list[Symbol] = []
    for row in fields.objects("symbols"):
        subprog, offset, length = (row.get(name, int) for name in ("subprog", "offset", "size"))
        if not 0 <= subprog < len(prog.subprogs) or any(subprog == s.subprog for s in found):
            raise PluginError(f"{row.where}: `subprog` {subprog} is none of the program's, or there twice")
        if not 0 <= offset < offset + length <= size or offset % step or length % step:
            raise PluginError(
                f"{row.where}: bytes {offset} to {offset + length} of a code of {size}, in steps of {step}"
            )
        found.append(Symbol(prog.subprogs[subprog].name, offset, length, subprog))
    if not found or found[0].subprog != 0:
        raise PluginError("image.symbols: the first must be `subprog` 0")
    ordered = sorted(found, key=lambda symbol: symbol.offset)
    for one, two in itertools.pairwise(ordered):
        if one.offset + one.size > two.offset:
            raise PluginError(f"image.symbols: {one.name} and {two.name} overlap at offset {two.offset}")
    return tuple(found)


def _insn_offsets(fields: Fields, prog: Prog, symbols: tuple[Symbol, ...], size: int) -> tuple[int, ...]:
    """By insn; one without code of its own has the offset of the next that has some, or the end of its function."""
    count = len(prog.insns)
    given = fields.get("insn_offsets", list, [])
    if not given:
        return (size,) * count  # the end of everything: no finding names an insn
    if len(given) != count:
        raise PluginError(f"image: `insn_offsets` must have a row for each of {count} insns, found {len(given)}")
    offsets = [size] * count
    for symbol in symbols:
        subprog, following = prog.subprogs[symbol.subprog], symbol.offset + symbol.size
        for insn in range(subprog.end - 1, subprog.start - 1, -1):
            offset = given[insn]
            if offset is not None:
                if type(offset) is not int or not symbol.offset <= offset <= symbol.offset + symbol.size:
                    raise PluginError(f"image: `insn_offsets`[{insn}] is {offset!r:.60}, outside {symbol.name}")
                following = offset
            offsets[insn] = following
    return tuple(offsets)


def _inlined(fields: Fields, source: Verified) -> frozenset[int]:
    """Helper calls that became insns, as indexes of the program as loaded."""
    found: set[int] = set()
    for insn in fields.get("inlined", list, []):
        if type(insn) is not int or not 0 <= insn < len(source.prog.insns):
            raise PluginError(f"image: `inlined` has {insn!r:.60}, which is no insn of the program")
        if not isinstance(source.prog.ops[insn], CallHelper):
            raise PluginError(f"image: `inlined` has {insn}, which is no call of a helper")
        found.add(source.origin[insn])
    return frozenset(found)
