"""The words that C declarations are made of: the names of types, and what changes no layout."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from harness.isa.ctypes import CComplex, CFloat, CInt, CType, CVoid

INT: Final = CInt("int", 4, True)
UNSIGNED: Final = CInt("unsigned int", 4, False)
LONG: Final = CInt("long", 8, True)
DOUBLE: Final = CFloat("double", 8)

# Keywords in any order, `int` optional beside another: C11 6.7.2. Plain `char` is signed here; no layout depends on it.
_SIZES: Final = {"char": 1, "short": 2, "int": 4, "long": 8, "long long": 8, "__int128": 16}


def _spellings() -> Iterator[tuple[tuple[str, ...], CInt]]:
    for name, size in _SIZES.items():
        words = name.split()
        optional = [[]] if name in ("char", "int", "__int128") else [[], ["int"]]
        for more in optional:
            yield (*words, *more), CInt(name, size, True)
            yield ("signed", *words, *more), CInt("signed char" if name == "char" else name, size, True)
            yield ("unsigned", *words, *more), CInt(f"unsigned {name}", size, False)
    yield ("signed",), INT
    yield ("unsigned",), UNSIGNED


KEYWORDS: Final[Mapping[tuple[str, ...], CType]] = {
    **{tuple(sorted(words)): ctype for words, ctype in _spellings()},
    ("float",): CFloat("float", 4),
    ("double",): DOUBLE,
    ("double", "long"): CFloat("long double", 16),
    ("_Complex", "float"): CComplex(CFloat("float", 4)),
    ("_Complex", "double"): CComplex(DOUBLE),
    ("_Complex", "double", "long"): CComplex(CFloat("long double", 16)),
}  # fmt: skip
KEYWORD_WORDS: Final = frozenset(word for words in KEYWORDS for word in words)


def _ints(size: int, signed: bool, names: str) -> Iterable[CInt]:
    return (CInt(name, size, signed) for name in names.split())


# C's own, <stdint.h> and <sys/types.h> on LP64, and the kernel's.
_NAMED: Final[tuple[CInt | CFloat, ...]] = (
        *_ints(1, False, "bool u8 __u8 uint8_t u_int8_t u_char"),
        *_ints(1, True, "s8 __s8 int8_t"),
        *_ints(2, False, "u16 __u16 uint16_t u_int16_t __le16 __be16 __sum16 umode_t"),
        *_ints(2, True, "s16 __s16 int16_t"),
        *_ints(4, False, "u32 __u32 uint32_t u_int32_t __le32 __be32 __wsum uint gfp_t fmode_t uid_t gid_t mode_t"),
        *_ints(4, True, "s32 __s32 int32_t pid_t"),
        *_ints(8, False, "u64 __u64 uint64_t u_int64_t __le64 __be64 size_t uintptr_t ulong sector_t dma_addr_t phys_addr_t"),
        *_ints(8, True, "s64 __s64 int64_t ssize_t intptr_t ptrdiff_t off_t loff_t ktime_t time64_t"),
        *_ints(16, False, "u128 __u128 __uint128_t"),
        *_ints(16, True, "s128 __s128 __int128_t"),
        CFloat("_Float16", 2), CFloat("__float128", 16), CFloat("_Float128", 16), CFloat("_Float32", 4), CFloat("_Float64", 8),
)  # fmt: skip
TYPEDEFS: Final[Mapping[str, CType]] = {
    "void": CVoid(),
    "_Bool": CInt("bool", 1, False),
    **{row.name: row for row in _NAMED},
}

QUALIFIERS: Final = frozenset(
    [
        "const",
        "volatile",
        "restrict",
        "__const",
        "__volatile__",
        "__restrict",
        "__restrict__",
        "__extension__",
        "register",
        "_Noreturn",
        "__user",
        "__kernel",
        "__rcu",
        "__percpu",
        "__iomem",
        "__force",
        "__must_check",
        "__bitwise",
        "__private",
    ]
)
# Before the type of a function, or of a typedef.
STORAGE: Final = frozenset(
    [
        "static",
        "extern",
        "inline",
        "__inline",
        "__inline__",
        "__always_inline",
        "noinline",
        "asmlinkage",
        "notrace",
        "__init",
        "__bpf_kfunc",
        "global",
        "typedef",
    ]
)
# Attributes that change no layout, without their underscores.
HARMLESS: Final = frozenset(
    [
        "unused",
        "used",
        "noinline",
        "always_inline",
        "const",
        "pure",
        "cold",
        "hot",
        "noreturn",
        "nonnull",
        "returns_nonnull",
        "format",
        "deprecated",
        "may_alias",
        "warn_unused_result",
        "malloc",
        "section",
        "visibility",
        "weak",
        "noipa",
        "noclone",
        "flatten",
        "gnu_inline",
        "preserve_access_index",
        "btf_type_tag",
        "btf_decl_tag",
        "nothrow",
        "leaf",
        "access",
        "alloc_size",
        "assume_aligned",
        "designated_init",
        "fallthrough",
        "error",
        "warning",
        "externally_visible",
    ]
)
