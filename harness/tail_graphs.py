"""Random programs that tail call each other, one graph a seed.

Every program and every place behind a tail call that was not made is mixed into the context, so that it tells what ran.
What a function keeps in R6-R9 and on its stack is compared with the context's own data after every call.
"""

import errno
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from backends.base import Update
from backends.calls import Body
from harness.case import prefixed
from harness.isa.asm import Assembled, Source, assemble
from harness.isa.insn import joined
from harness.isa.maps import Map
from harness.isa.proto import Proto, parse_bpf_proto, parse_proto

# The context: what the run is told by, what is decremented, what must stay 0, data, indexes, what decides at branches.
MIX_AT, FUEL_AT, BAD_AT, DATA_AT, KEYS_AT, TURN_AT = 0, 8, 16, 32, 64, 120
CTX_BYTES: Final = 128
DATA, KEYS = 4, 7  # how many words of each
DEPTHS: Final = (0, 0, 0, 1, 2, 4, 7, 8, 8, 9, 12, 13, 16, 23, 24, 33, 40, 63, 64, 97, 120)
DEEP: Final = (128, 200, 239, 240, 256, 300)
MAX32: Final = (1 << 32) - 1
WIDE_KEYS: Final = (1 << 31, MAX32, 1 << 32, 1 << 32 | 1, 5 << 32 | 2, (1 << 64) - 1, 1 << 63)
LARGE: Final = 300  # entries
KFUNC: Final = Body(parse_proto("u64 kf(u64 a, u64 b, u64 c)"), "sum")
WIDE_KFUNC: Final = Body(parse_proto("u64 kw(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u64 i)"), "sum")
HELPERS: Final = ("bpf_ktime_get_ns", "bpf_get_prandom_u32", "bpf_get_smp_processor_id")
SIZES: Final = (8, 4, 2, 1)


@dataclass(frozen=True, slots=True)
class Graph:
    """Programs by their functions, maps, and what happens to the prog arrays before the run and while helpers run."""

    programs: tuple[tuple[Source, ...], ...]
    maps: tuple[Map, ...]
    kfuncs: tuple[Body, ...]
    ctx: bytes
    updates: tuple[Update, ...]
    during: tuple[tuple[int, Update], ...]

    def assembled(self) -> Assembled:
        """All programs as one; names as those of a case with `progs`."""
        found: list[Assembled] = []
        for number, sources in enumerate(self.programs):
            one = assemble(sources, [body.proto for body in self.kfuncs], self.maps)
            subprogs = tuple(
                replace(subprog, name=prefixed(f"p{number}", at, subprog.name))
                for at, subprog in enumerate(one.prog.subprogs)
            )
            found.append(replace(one, prog=replace(one.prog, subprogs=subprogs)))
        return Assembled(joined([one.prog for one in found]), tuple(place for one in found for place in one.places))


@dataclass(frozen=True, slots=True)
class _Object:
    """Part of a stack, `at` bytes below R10, that has the low bytes of a word of the data."""

    at: int
    size: int
    word: int


@dataclass(frozen=True, slots=True)
class _Callee:
    """A subprog that may be called: `kinds` of its parameters after ctx are `u64` or `ptr`."""

    name: str
    kinds: tuple[str, ...]
    proto: Proto | None


class Generator:
    """Makes one graph. Most are accepted; not all."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def graph(self) -> Graph:
        """Programs, arrays, slots, updates."""
        rng = self.rng
        count = rng.choice((2, 2, 2, 3, 3, 4, 5, 6))
        maps = [self.prog_array(f"m{number}", count) for number in range(rng.randint(1, 3))]
        if rng.random() < 0.3:
            maps.insert(rng.randint(0, len(maps)), Map("values", "array", 4, 8, 2))
        kfuncs = (KFUNC, WIDE_KFUNC) if rng.random() < 0.4 else ()
        programs = tuple(_Program(rng, maps, kfuncs).sources() for _ in range(count))
        updates = self.updates(maps, count)
        during: dict[int, Update] = {}
        if rng.random() < 0.35:
            during = {rng.randint(0, 12): self.update(maps, count) for _ in range(rng.randint(1, 3))}
        return Graph(programs, tuple(maps), kfuncs, self.ctx(), updates, tuple(sorted(during.items())))

    def prog_array(self, name: str, count: int) -> Map:
        """Slots, some empty."""
        entries = LARGE if self.rng.random() < 0.03 else self.rng.randint(1, 7)
        content = tuple(
            (key.to_bytes(4, "little"), self.rng.randrange(count).to_bytes(4, "little"))
            for key in range(min(entries, 8))
            if self.rng.random() < 0.75
        )
        return Map(name, "prog_array", 4, 4, entries, content=content)

    def ctx(self) -> bytes:
        """Data, and indexes of every kind."""
        rng = self.rng
        ctx = bytearray(CTX_BYTES)
        ctx[FUEL_AT] = rng.choice((0, 1, 3, 7, 20, 50))
        ctx[TURN_AT] = rng.randrange(8)
        ctx[DATA_AT : DATA_AT + 8 * DATA] = rng.randbytes(8 * DATA)
        for number in range(KEYS):
            key = rng.choice(WIDE_KEYS) if rng.random() < 0.2 else rng.randint(0, 7)
            ctx[KEYS_AT + 8 * number : KEYS_AT + 8 * number + 8] = key.to_bytes(8, "little")
        return bytes(ctx)

    def update(self, maps: Sequence[Map], count: int) -> Update:
        """A slot gets a program, or none."""
        index = self.rng.choice([index for index, map_ in enumerate(maps) if map_.has_progs])
        key = self.rng.randrange(min(maps[index].max_entries, 8))
        return Update(index, key, None if self.rng.random() < 0.3 else self.rng.randrange(count))

    def updates(self, maps: Sequence[Map], count: int) -> tuple[Update, ...]:
        """Updates before the run, with the error that each gives. TC-12."""
        filled = {
            (index, int.from_bytes(key, "little"))
            for index, map_ in enumerate(maps)
            if map_.has_progs
            for key, _ in map_.content
        }
        made: list[Update] = []
        for _ in range(self.rng.choice((0, 0, 1, 2, 4))):
            one = self.update(maps, count)
            if self.rng.random() < 0.1:
                one = replace(one, key=maps[one.map].max_entries + self.rng.randint(0, 2), errno=errno.E2BIG)
            elif one.prog is None:
                one = replace(one, errno=0 if (one.map, one.key) in filled else errno.ENOENT)
                filled.discard((one.map, one.key))
            else:
                filled.add((one.map, one.key))
            made.append(one)
        return tuple(made)


class _Program:
    """Writes one program: a main prog and up to two subprogs."""

    def __init__(self, rng: random.Random, maps: Sequence[Map], kfuncs: Sequence[Body]) -> None:
        self.rng, self.maps, self.kfuncs = rng, maps, kfuncs
        self.typed = rng.random() < 0.97  # its subprogs have BTF
        self.is_leaf = rng.random() < 0.12  # it makes no tail call, and so may have stack arguments

    def sources(self) -> tuple[Source, ...]:
        """Its functions, those that are called."""
        callees = [self.callee(number) for number in range(self.rng.choice((0, 0, 0, 1, 1, 2)))]
        main = _Function(self.rng, self.maps, self.kfuncs, callees, is_leaf=self.is_leaf).text()
        found = [Source("main", main)]
        for number, callee in enumerate(callees):
            if not any(f"call {callee.name}\n" in source.text for source in found):
                continue
            following = callees[number + 1 :]
            text = _Function(self.rng, self.maps, self.kfuncs, following, callee, self.is_leaf).text()
            found.append(Source(callee.name, text, callee.proto))
        return tuple(found)

    def callee(self, number: int) -> _Callee:
        """A subprog's name and parameters; it gives an `int`, as one that tail calls has to. TC-22."""
        name = f"sub{number}"
        is_global = self.typed and self.rng.random() < 0.2
        kinds = tuple(
            "u64" if is_global or self.rng.random() < 0.7 else "ptr" for _ in range(self.rng.choice((0, 0, 1, 2)))
        )
        params = ["struct c *ctx __arg_ctx"]
        params += [f"u64 a{i}" if kind == "u64" else f"u64 *a{i}" for i, kind in enumerate(kinds)]
        text = f"{'global ' if is_global else ''}int {name}({', '.join(params)})"
        return _Callee(name, kinds, parse_bpf_proto(text) if self.typed else None)


@dataclass(slots=True)
class _Function:
    """Writes one function; `me` is None for a main prog."""

    rng: random.Random
    maps: Sequence[Map]
    kfuncs: Sequence[Body]
    callees: Sequence[_Callee]
    me: _Callee | None = None
    is_leaf: bool = False
    labels: int = 0
    home: str = ""  # where ctx is kept: a register or a place of the stack
    kept: dict[int, tuple[int, int]] = field(
        default_factory=dict
    )  # register: word of the data, and what is added to it
    objects: list[_Object] = field(default_factory=list)
    free: list[int] = field(default_factory=list)  # places of 8 bytes that may be written to

    def text(self) -> str:
        """Its insns: a beginning, blocks, an end."""
        self.choose()
        lines = [*self.start(), *self.note(self.rng.randint(1, 999))]
        kinds = [self.helper, self.turn_back, *([] if self.is_leaf else [self.tail] * 3)]
        kinds += [self.call] * 3 if self.callees else []
        kinds += [self.kfunc] if self.kfuncs else []
        kinds += [self.wide_kfunc] * 2 if self.kfuncs and self.is_leaf else []
        kinds += [self.lookup] if self.free and any(not map_.has_progs for map_ in self.maps) else []
        for _ in range(self.rng.choice((1, 1, 2, 2, 3, 4))):
            lines += self.rng.choice(kinds)()
        return "\n".join([*lines, *self.end()]) + "\n"

    def choose(self) -> None:
        """Which registers it uses, and how deep its stack is."""
        rng = self.rng
        regs = [n for n in (6, 7, 8, 9) if rng.random() < rng.choice((0, 0.4, 0.8, 1))]
        rng.shuffle(regs)
        on_stack = not regs or rng.random() < 0.3
        depth = rng.choice(DEEP) if rng.random() < 0.04 else rng.choice(DEPTHS)
        self.layout(max(depth, 8) if on_stack else depth, home=on_stack)
        if not on_stack:
            self.home = f"r{regs.pop()}"
        self.kept = {reg: (rng.randrange(DATA), rng.choice((0, 1, -5, 0x7FFFFFFF))) for reg in regs}

    def layout(self, depth: int, *, home: bool) -> None:
        """The stack down to `depth`, every object aligned to its size."""
        at, placed = 0, list[tuple[int, int]]()
        while at < depth:
            size = self.rng.choice([n for n in SIZES if at + n <= depth and (at + n) % n == 0])
            at += size
            placed.append((at, size))
        words = [at for at, size in placed if size == 8]
        if home and not words:
            words, placed = [8], [(8, 8), *((at, size) for at, size in placed if at > 8)]
        if home:
            self.home = f"*(u64 *)(r10 - {words[0]})"
        self.free = words[1:2] if home else words[:1]
        taken = {*self.free, *(words[:1] if home else [])}
        rest = [(at, size) for at, size in placed if at not in taken]
        shown = rest if len(rest) <= 3 else [*self.rng.sample(rest[:-1], 2), rest[-1]]
        self.objects = [_Object(at, size, self.rng.randrange(DATA)) for at, size in shown]

    # --- pieces

    def label(self) -> str:
        """A new one."""
        self.labels += 1
        return f"l{self.labels}"

    def ctx(self, reg: int = 1) -> str:
        """Gets ctx into a register."""
        return f"r{reg} = {self.home}"

    def mixed(self, what: str) -> list[str]:
        """Mixes a number or a register into the context; R1 is ctx afterwards, R2 is used."""
        return [
            self.ctx(),
            f"r2 = *(u64 *)(r1 + {MIX_AT})",
            "r2 *= 31",
            f"r2 += {what}",
            f"*(u64 *)(r1 + {MIX_AT}) = r2",
        ]

    def note(self, number: int) -> list[str]:
        """That it was here."""
        return self.mixed(str(number))

    def start(self) -> list[str]:
        """Keeps ctx, takes parameters, fills registers and stack."""
        lines = [f"{self.home} = r1"]
        for number, kind in enumerate(self.me.kinds if self.me else ()):
            reg = number + 2
            if kind == "ptr":
                lines += [
                    f"r5 = *(u64 *)(r{reg} + 0)",
                    f"r5 += {self.rng.randint(1, 99)}",
                    f"*(u64 *)(r{reg} + 0) = r5",
                ]
            else:
                lines += [f"r5 = *(u64 *)(r1 + {MIX_AT})", f"r5 ^= r{reg}", f"*(u64 *)(r1 + {MIX_AT}) = r5"]
        for reg, (word, more) in self.kept.items():
            lines += [f"r{reg} = *(u64 *)(r1 + {DATA_AT + 8 * word})", *([f"r{reg} += {more}"] if more else [])]
        for one in self.objects:
            lines += [f"r0 = *(u64 *)(r1 + {DATA_AT + 8 * one.word})", f"*(u{8 * one.size} *)(r10 - {one.at}) = r0"]
        return lines + [f"*(u64 *)(r10 - {at}) = {self.rng.randint(1, 99)}" for at in self.free]

    def checks(self, *, every: bool = False) -> list[str]:
        """What it keeps is still there, some of it or all, or the context tells."""
        lines = [self.ctx()]
        kept, objects = list(self.kept.items()), self.objects
        if not every:
            kept = self.rng.sample(kept, min(len(kept), self.rng.randint(0, 2)))
            objects = self.rng.sample(objects, min(len(objects), self.rng.randint(0, 1)))
        for reg, (word, more) in kept:
            lines += [f"r0 = *(u64 *)(r1 + {DATA_AT + 8 * word})", *([f"r0 += {more}"] if more else [])]
            lines += [f"if r{reg} != r0 goto bad"]
        for one in objects:
            kind = f"u{8 * one.size}"
            lines += [f"r0 = *({kind} *)(r1 + {DATA_AT + 8 * one.word})", f"r3 = *({kind} *)(r10 - {one.at})"]
            lines += ["if r3 != r0 goto bad"]
        return lines

    def end(self) -> list[str]:
        """A result, and where it goes when something is lost."""
        lines = [f"r3 = *(u64 *)(r10 - {self.free[0]})", *self.mixed("r3")] if self.free else []
        result = f"r0 = {self.rng.randint(0, 999)}" if self.rng.random() < 0.3 else f"r0 = *(u64 *)(r1 + {MIX_AT})"
        lines += ["done:", *self.checks(every=True), result, "exit"]
        if not self.kept and not self.objects:
            return lines
        return [*lines, "bad:", self.ctx(), f"*(u8 *)(r1 + {BAD_AT}) = 1", "r0 = 0", "exit"]

    def turn(self, reg: int) -> list[str]:
        """A number that grows each time it is asked for; R1 is ctx."""
        return [
            f"r{reg} = *(u32 *)(r1 + {TURN_AT})",
            f"r{reg} += {self.rng.choice((1, 1, 3))}",
            f"*(u32 *)(r1 + {TURN_AT}) = r{reg}",
        ]

    # --- blocks

    def turn_back(self) -> list[str]:
        """An early end, now and then."""
        return [self.ctx(), *self.turn(2), f"r2 &= {self.rng.choice((3, 7))}", "if r2 == 1 goto done"]

    def helper(self) -> list[str]:
        """A helper, whose result is nobody's."""
        return [f"call {self.rng.choice(HELPERS)}", "r0 = 0", *self.checks()]

    def kfunc(self) -> list[str]:
        """A kfunc with what is kept."""
        values = [f"r{reg}" for reg in self.kept] + [str(self.rng.randint(-9, 99))]
        lines = [f"r{reg} = {self.rng.choice(values)}" for reg in (1, 2, 3)]
        return [*lines, f"call {KFUNC.proto.name}", *self.mixed("r0"), *self.checks()]

    def wide_kfunc(self) -> list[str]:
        """A kfunc with four arguments on the stack of BPF."""
        values = [f"r{reg}" for reg in self.kept] + [str(self.rng.randint(-9, 99))]
        lines = [f"*(u64 *)(r11 - {8 * slot}) = {self.rng.choice(values)}" for slot in (1, 2, 3, 4)]
        lines += [f"r{reg} = {self.rng.choice(values)}" for reg in (1, 2, 3, 4, 5)]
        return [*lines, f"call {WIDE_KFUNC.proto.name}", *self.mixed("r0"), *self.checks()]

    def lookup(self) -> list[str]:
        """A value of an ordinary map, if it has the key; one more is added."""
        at, gone = self.free[0], self.label()
        lines = [f"*(u64 *)(r10 - {at}) = {self.rng.randint(0, 2)}", "r2 = r10", f"r2 += -{at}", "r1 = values ll"]
        lines += ["call bpf_map_lookup_elem", f"if r0 == 0 goto {gone}", "r1 = *(u64 *)(r0 + 0)"]
        return [*lines, f"r1 += {self.rng.randint(1, 99)}", "*(u64 *)(r0 + 0) = r1", f"{gone}: r0 = 0", *self.checks()]

    def call(self) -> list[str]:
        """A call of a subprog, whose result tells what ran in it."""
        callee = self.rng.choice(self.callees)
        if "ptr" in callee.kinds and not self.free:
            return self.helper()
        lines: list[str] = []
        for number, kind in enumerate(callee.kinds):
            reg = number + 2
            if kind == "ptr":
                lines += [f"r{reg} = r10", f"r{reg} += -{self.free[0]}"]
            else:
                values = [f"r{kept}" for kept in self.kept] + [str(self.rng.randint(-9, 99))]
                lines += [f"r{reg} = {self.rng.choice(values)}"]
        return [*lines, self.ctx(), f"call {callee.name}", *self.mixed("r0"), *self.checks()]

    def tail(self) -> list[str]:
        """A tail call, then what is there if it was not made."""
        arrays = [map_ for map_ in self.maps if map_.has_progs]
        one, other = self.rng.choice(arrays), self.rng.choice(arrays)
        several = self.rng.random() < 0.3
        lines, over = [self.ctx()], self.label()
        guarded, dead = self.rng.random() < 0.35, self.rng.random() < 0.03
        if dead:  # on no path
            lines += ["r2 = 1", f"if r2 == 1 goto {over}"]
        if guarded:
            lines += [f"r2 = *(u32 *)(r1 + {FUEL_AT})", f"if r2 == 0 goto {over}", "r2 += -1"]
            lines += [f"*(u32 *)(r1 + {FUEL_AT}) = r2"]
        lines += self.key(one)
        if several:
            joins = self.label()
            lines += [*self.turn(4), f"r2 = {one.name} ll", f"if r4 & {self.rng.choice((1, 2, 4))} goto {joins}"]
            lines += [f"r2 = {other.name} ll", f"{joins}:"]
        else:
            lines += [f"r2 = {one.name} ll"]
        lines += ["call bpf_tail_call", *([f"{over}:"] if guarded or dead else [])]
        return [*lines, *self.note(self.rng.randint(1, 999)), *self.checks()]

    def key(self, map_: Map) -> list[str]:
        """R3 is an index; R1 is ctx, R4 and R5 are used."""
        rng, size = self.rng, self.rng.choice((64, 64, 32, 8))
        load = f"r3 = *(u{size} *)(r1 + {KEYS_AT + 8 * rng.randrange(KEYS)})"
        entries = map_.max_entries
        match rng.choice(("const", "const", "const", "two", "ctx", "ctx", "masked", "turn", "wide", "beyond", "long")):
            case "const":
                return [f"r3 = {self.filled(map_)}"]
            case "two":
                joins = self.label()
                lines = [*self.turn(4), f"r3 = {self.filled(map_)}", f"if r4 & 1 goto {joins}"]
                return [*lines, f"r3 = {rng.randrange(entries)}", f"{joins}:"]
            case "ctx":
                return [load]
            case "masked":
                return [load, f"{rng.choice('rw')}3 &= {rng.choice((1, 3, 7))}"]
            case "turn":
                return [*self.turn(3), f"r3 &= {rng.choice((1, 3, 7))}"]
            case "wide":
                return [
                    load,
                    "r3 &= 7",
                    f"r4 = {rng.randint(1, 99)}",
                    f"r4 <<= {rng.choice((32, 33, 40, 63))}",
                    "r3 |= r4",
                ]
            case "beyond":
                beyond = (entries, entries + 1, 2 * entries - 1, 2 * entries, -1, 0x7FFFFFFF, -0x80000000)
                return [f"r3 = {rng.choice([key for key in beyond if key < 0 or key >= entries])}"]
            case _:
                return [f"r3 = {rng.randint(1, 9) << 32 | rng.choice((self.filled(map_), entries, MAX32))} ll"]

    def filled(self, map_: Map) -> int:
        """An index, as a rule of a slot with a program."""
        keys = [int.from_bytes(key, "little") for key, _ in map_.content]
        return self.rng.choice(keys) if keys and self.rng.random() < 0.85 else self.rng.randrange(map_.max_entries)


def graph_of(seed: int) -> Graph:
    """The graph of one seed."""
    return Generator(random.Random(seed)).graph()
