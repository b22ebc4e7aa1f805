"""C prototypes as text, whole or as BPF functions have them: `u64 sum8(u64 a, u64 b)`."""

from dataclasses import dataclass

from harness.isa.cparse import Declarations
from harness.isa.ctokens import ProtoError
from harness.isa.ctypes import BpfType, CFunc, CInt, CPtr, CStruct, CType, Param, declaration, type_text

__all__ = ["Proto", "ProtoError", "parse_bpf_proto", "parse_proto"]


@dataclass(frozen=True, slots=True)
class Proto:
    """A function prototype; `anonymous` are the arguments that one call passes for the `...` of a variadic one."""

    name: str
    result: CType
    params: tuple[Param, ...]
    is_global: bool = False  # written `global u64 f(...)`; without it a subprog is static
    variadic: bool = False
    anonymous: tuple[Param, ...] = ()

    def __str__(self) -> str:
        func = CFunc(self.result, self.params, self.variadic, self.anonymous)
        return declaration(func, self.name)


def parse_proto(text: str) -> Proto:
    """A C prototype, after the declarations that it needs: `typedef u64 t; struct s {t a;}; int f(struct s s)`.

    What one call passes for `...` stands after it: `int printf(const char *format, ..., int, double)`. Raises ProtoError.
    """
    return _read(Declarations(text))


def _read(reader: Declarations) -> Proto:
    tokens = reader.tokens
    while True:
        specifiers = reader.specifiers(of_function=True)
        if "typedef" in specifiers.storage:
            reader.typedef(specifiers)
        elif not (isinstance(specifiers.type, CStruct | CInt) and tokens.accept(";")):
            break
    name, ctype = reader.declarator(specifiers.type, "a function name")
    reader.attributes.read_all(specifiers.attributes)
    if not isinstance(ctype, CFunc):
        raise tokens.unexpected("'('")
    tokens.accept(";")
    if tokens.peek():
        raise tokens.unexpected("the end")
    is_global = "global" in specifiers.storage
    return Proto(name, ctype.result, ctype.params, is_global, ctype.variadic, ctype.anonymous)


def parse_bpf_proto(text: str) -> Proto:
    """A prototype of a BPF function or kfunc: integers, pointers, structs with their members. Raises ProtoError.

    What of it can be passed is the verifier's question.
    """
    reader = Declarations(text)
    proto = _read(reader)
    if proto.variadic:
        raise ProtoError(text.index("..."), "expected parameters that a BPF function can have, found '...'")
    for name, ctype in (("", proto.result), *((param.name, param.type) for param in proto.params)):
        if not _is_bpf(ctype):
            wanted = "an integer, a struct with its members, or a pointer to an integer or struct"
            raise ProtoError(reader.columns.get(name, 0), f"expected {wanted}, found {type_text(ctype)}")
    return proto


def _is_bpf(ctype: CType) -> bool:
    match ctype:
        case CPtr(CStruct()):
            return True
        case CPtr(to):
            return _is_bpf(to)
        case CStruct():
            return ctype.members is not None
        case _:
            return isinstance(ctype, BpfType)
