"""Random graphs as a case file: what `callconv run` and `show` take, and what is made smaller by hand."""

import json
from collections.abc import Iterable, Iterator

from backends.base import Update
from harness.graph import WORDS
from harness.isa.asm import Source
from harness.isa.maps import Map
from harness.suite import Suite
from harness.tail_graphs import Graph, graph_of
from harness.tail_sweep import case_of
from verifier.verdict import Rejected


def case_file(seeds: Iterable[int]) -> str:
    """Cases of some seeds, with the results that the interpreter gives and the verdict of the built-in verifier."""
    return "\n".join(text for seed in seeds for text in (*_case(seed), ""))


def _case(seed: int) -> Iterator[str]:
    graph, case, suite = graph_of(seed), case_of(seed), Suite()
    yield f"- case: seed_{seed}"
    yield f"  about: Random programs, `callconv tail-sweep {seed}`."
    yield "  spec: TC-110"
    yield f'  ctx: "{graph.ctx.hex()}"'
    if graph.kfuncs:
        yield "  kfuncs:"
        yield from (f"    {json.dumps(str(body.proto))}: {body.returns}" for body in graph.kfuncs)
    yield "  progs:"
    for number, sources in enumerate(graph.programs):
        yield f"    p{number}:"
        yield from (line for source in sources for line in _function(source))
    yield "  maps:"
    yield from (_map(map_) for map_ in graph.maps)
    verdict = suite.verdict(case)
    if isinstance(verdict, Rejected):
        where = "" if verdict.insn is None else f", at: {case.assembled.prog.where(verdict.insn)}"
        yield f"  expect: {{verdict: reject, rule: {verdict.rule}{where}}}"
        return
    yield "  expect: {verdict: accept}"
    yield "  steps:"
    yield from (f"    - {{{_change(update, graph)}}}" for update in graph.updates)
    own = suite.reference(case, case.scenes[0], verdict)
    retval = f", retval: {own.retval}" if own is not None and own.retval is not None else ""
    during = ", ".join(f'"{call}": {{{_change(update, graph)}}}' for call, update in graph.during)
    memory = f', memory: "{own.memory.hex()}"' if own is not None else ""
    yield f"    - {{run: p0{retval}{memory}{f', during: {{{during}}}' if during else ''}}}"


def _function(source: Source) -> Iterator[str]:
    head = source.name
    if source.proto is not None:
        text = str(source.proto).replace("*ctx", "*ctx __arg_ctx", 1)
        head = json.dumps(f"{'global ' if source.proto.is_global else ''}{text}")
    yield f"      {head}: |"
    yield from (f"        {line}" for line in source.text.splitlines())


def _map(map_: Map) -> str:
    if not map_.has_progs:
        entries = f"key: {map_.key_size}, value: {map_.value_size}, entries: {map_.max_entries}"
        return f"    {map_.name}: {{type: {map_.type}, {entries}}}"
    slots = {int.from_bytes(key, "little"): int.from_bytes(value, "little") for key, value in map_.content}
    names = ["null" if slot not in slots else f"p{slots[slot]}" for slot in range(max(slots, default=-1) + 1)]
    progs = f", progs: [{', '.join(names)}]" if names else ""
    return f"    {map_.name}: {{type: prog_array, entries: {map_.max_entries}{progs}}}"


def _change(update: Update, graph: Graph) -> str:
    names = {number: word for word, number in WORDS.items()}
    error = f", errno: {names[update.errno]}" if update.errno else ""
    name = graph.maps[update.map].name
    what = f"delete: {name}, slot: {update.key}" if update.prog is None else f"update: {name}, slot: {update.key}"
    return what + (f", prog: p{update.prog}" if update.prog is not None else "") + error
