"""Random C prototypes, one for each seed, as C text that a compiler and `parse_proto` both read."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from harness.isa.ctypes import ARM64, X86_64, size_of
from harness.isa.proto import Proto, ProtoError, parse_proto

MAX_BYTES: Final = 128  # of one argument
INTS: Final = (
    "u8", "s8", "bool", "char", "u16", "s16", "u32", "s32", "u64", "s64", "unsigned long long", "long", "void *", "char *",
    "__int128", "unsigned __int128",
)  # fmt: skip
FLOATS: Final = (
    "float",
    "double",
    "long double",
    "float _Complex",
    "double _Complex",
    "long double _Complex",
    "_Float16",
)
VECTORS: Final = (
    ("u8", 8), ("u16", 8), ("s32", 8), ("float", 8), ("s8", 16), ("u16", 16), ("u32", 16), ("s64", 16), ("float", 16), ("double", 16),
)  # fmt: skip
# What the default argument promotions leave as it is, so that `va_arg` names the same type.
UNPROMOTED: Final = (
    "s32",
    "u32",
    "u64",
    "s64",
    "long",
    "void *",
    "__int128",
    "double",
    "long double",
    "double _Complex",
    "float _Complex",
)
BITS: Final = {"u8": 8, "bool": 1, "s16": 16, "u32": 32, "s32": 32, "u64": 64, "long": 64, "__int128": 128}
ALIGNMENTS: Final = (1, 2, 4, 8, 8, 16, 16, 32)
PRELUDE: Final = """\
typedef unsigned char u8; typedef signed char s8; typedef unsigned short u16; typedef short s16;
typedef unsigned int u32; typedef int s32; typedef unsigned long u64; typedef long s64; typedef _Bool bool;
"""


@dataclass(frozen=True, slots=True)
class Generated:
    """A prototype of named types. `declarations` come before it; every name in them ends in the seed."""

    seed: int
    declarations: str
    result: str
    params: tuple[str, ...]
    anonymous: tuple[str, ...]
    variadic: bool
    has_half: bool  # `_Float16`, which not every compiler has

    @property
    def text(self) -> str:
        """What `parse_proto` reads."""
        named = [f"{ctype} a{n}" for n, ctype in enumerate(self.params)]
        rest = [f"{ctype} a{n}" for n, ctype in enumerate(self.anonymous, len(named))]
        params = ", ".join([*named, *(["..."] if self.variadic else []), *rest])
        return f"{self.declarations}{self.result} f{self.seed}({params or 'void'})"

    @property
    def proto(self) -> Proto:
        """The prototype as the suite reads it."""
        return parse_proto(self.text)


@dataclass(slots=True)
class _Types:
    """Makes types. `floats` is how often a scalar is one."""

    rng: random.Random
    seed: int
    floats: float
    declared: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)  # names that may be used again
    number: int = 0

    def name(self, kind: str) -> str:
        """A name that no other prototype has."""
        self.number += 1
        return f"{kind}{self.number}_{self.seed}"

    def any(self) -> str:
        """A type of an argument."""
        if self.made and self.rng.random() < 0.25:
            return self.rng.choice(self.made)
        return self.aggregate() if self.rng.random() < 0.45 else self.scalar()

    def scalar(self) -> str:
        """A type that is no struct; typedefs with an alignment among them."""
        chance = self.rng.random()
        if self.rng.random() < self.floats:
            return self.vector() if chance < 0.25 else self.rng.choice(FLOATS[: 7 if chance < 0.7 else 2])
        if chance < 0.04:
            return self.enum()
        if chance < 0.07:
            return self.typedef(f"int (*{{}})({self.rng.choice(INTS)})")
        base = self.rng.choice(INTS)
        if chance < 0.12:
            return self.typedef(f"{base} {{}} __attribute__((aligned({self.rng.choice(ALIGNMENTS)})))")
        return base

    def typedef(self, declarator: str) -> str:
        """A typedef; `{}` stands for its name."""
        name = self.name("t")
        self.declared.append(f"typedef {declarator.format(name)};")
        return name

    def vector(self) -> str:
        """A short vector."""
        base, size = self.rng.choice(VECTORS)
        return self.typedef(f"{base} {{}} __attribute__((vector_size({size})))")

    def enum(self) -> str:
        """An enum of 4 or 8 bytes, or packed to fewer."""
        name, first = self.name("e"), self.rng.choice(("0", "-1", "200", "70000", "1L << 40"))
        packed = " __attribute__((packed))" if self.rng.random() < 0.3 else ""
        self.declared.append(f"enum {name} {{A{name} = {first}, B{name} = 3}}{packed};")
        return f"enum {name}"

    def aggregate(self, depth: int = 0) -> str:
        """A struct or union that is not too large."""
        while True:
            declared, made = list(self.declared), list(self.made)
            text = self._aggregate(depth)
            if self.is_usable(text):
                self.made.append(text)
                return text
            self.declared, self.made = declared, made

    def is_usable(self, text: str) -> bool:
        """Not too large, and C: an array whose elements are not a multiple of their alignment is none."""
        try:
            ctype = parse_proto(f"{''.join(self.declared)}void f({text})").params[0].type
        except ProtoError:
            return False
        return max(size_of(ctype, ARM64), size_of(ctype, X86_64)) <= MAX_BYTES

    def _aggregate(self, depth: int) -> str:
        rng = self.rng
        keyword = "union" if rng.random() < 0.15 else "struct"
        count = rng.choice((0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 5))
        alike = self.alike() if rng.random() < 0.3 * self.floats + 0.02 else ""
        members = [self.member(f"m{n}", depth, alike) for n in range(count)]
        attributes = []
        if rng.random() < 0.2:
            attributes.append("packed")
        if rng.random() < 0.15:
            attributes.append(f"aligned({rng.choice(ALIGNMENTS)})")
        name = self.name("s")
        suffix = f" __attribute__(({', '.join(attributes)}))" if attributes else ""
        self.declared.append(f"{keyword} {name} {{{' '.join(members)}}}{suffix};")
        if rng.random() < 0.06:
            return self.typedef(f"{keyword} {name} {{}} __attribute__((aligned({rng.choice(ALIGNMENTS)})))")
        return f"{keyword} {name}"

    def alike(self) -> str:
        """The type of all members of a homogeneous aggregate, as a rule."""
        return (
            self.vector()
            if self.rng.random() < 0.3
            else self.rng.choice(("float", "double", "long double", "_Float16"))
        )

    def member(self, name: str, depth: int, alike: str) -> str:
        """A declaration within a struct."""
        rng = self.rng
        if not alike and rng.random() < 0.08:
            return self.bit_field(name)
        if alike and rng.random() < 0.9:
            ctype = alike
        elif depth < 2 and rng.random() < 0.2:
            ctype = self.aggregate(depth + 1)
        else:
            ctype = self.small() if rng.random() < 0.6 else self.scalar()
        if rng.random() < 0.15:
            name += f"[{rng.choice((0, 1, 2, 2, 3, 4))}]"
        return f"{ctype} {name}{self.attribute()};"

    def small(self) -> str:
        """A type of which several fit 16 bytes."""
        return self.rng.choice(("float", "double")) if self.rng.random() < self.floats else self.rng.choice(INTS[:11])

    def attribute(self) -> str:
        """Of a member; mostly none."""
        chance = self.rng.random()
        if chance < 0.06:
            return f" __attribute__((aligned({self.rng.choice(ALIGNMENTS)})))"
        return " __attribute__((packed))" if chance < 0.09 else ""

    def bit_field(self, name: str) -> str:
        """One bit-field, some without a name or without bits."""
        base = self.rng.choice(tuple(BITS))
        chance = self.rng.random()
        if chance < 0.1:
            return f"{base} :0;"
        width = self.rng.randint(1, BITS[base])
        return f"{base} {'' if chance < 0.2 else name}:{width}{self.attribute()};"


def generate(seed: int) -> Generated:
    """The prototype of a seed."""
    rng = random.Random(seed)
    filled = rng.choice(
        (("u64", "u64", "u32", "u8"), ("u64", "u64", "u32", "u8"), ("double", "float"), ("u64", "double"))
    )
    types = _Types(rng, seed, floats=rng.choice((0.3, 0.7) if "double" in filled else (0.0, 0.3)))
    # Arguments that use registers up, so that what follows meets the last of them and the stack.
    params = [rng.choice(filled) for _ in range(rng.choice((0, 0, 0, 1, 4, 5, 5, 6, 7, 7, 8, 9)))]
    params += [types.any() for _ in range(rng.choice((0, 1, 2, 2, 3, 3, 4, 5, 6)))]
    variadic = bool(params) and rng.random() < 0.12
    anonymous = [_anonymous(types) for _ in range(rng.randint(1, 4))] if variadic else []
    result = "void" if rng.random() < 0.2 else types.any()
    declarations = "".join(f"{line}\n" for line in types.declared)
    names: Sequence[str] = (*params, *anonymous, result)
    has_half = "_Float16" in declarations or "_Float16" in names
    return Generated(seed, declarations, result, tuple(params), tuple(anonymous), variadic, has_half)


def _anonymous(types: _Types) -> str:
    return types.aggregate() if types.rng.random() < 0.4 else types.rng.choice(UNPROMOTED)
