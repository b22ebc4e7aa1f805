"""BPF programs with a function that is there to be traced: a prototype in BTF, one call, no body.

Linux kernel/bpf/verifier.c, bpf_check_attach_target(): the function is static, and believed if its parameters are integers.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from backends.linux import bpf
from backends.linux.ask import last_words, refused
from backends.linux.models import MODELS
from backends.linux.syscalls import Kernel, Syscall, close
from harness.isa import btf
from harness.isa.ctypes import CInt, CPtr, CVoid, Param
from harness.isa.proto import Proto

_MOV, _MOV_IMM, _STORE, _CALL, _EXIT, _LD_IMM64 = 0xBF, 0xB7, 0x7A, 0x85, 0x95, 0x18  # RFC 9669
_CALL_LOCAL, _MAP_INDEX, _TAIL_CALL = 1, 5, 12  # BPF_PSEUDO_CALL, BPF_PSEUDO_MAP_IDX, enum bpf_func_id
_INT: Final = CInt("int", 4, True)
_CONTEXT: Final = (Param("ctx", CPtr(CVoid())),)
_ENDBR: Final = bytes.fromhex("f30f1efa")
_PATCHED: Final = {"x86_64": 5, "arm64": 8}  # what a trampoline's call takes of a function's beginning

Row = tuple[int, int, int, int]  # opcode, registers, offset, immediate


@dataclass(frozen=True, slots=True)
class TracedProg:
    """A program in the kernel: descriptor, its id, its function's BTF id and address, and where that goes on behind the patch."""

    fd: int
    prog_id: int
    btf_id: int
    function: int
    body: int


def load(kernel: Kernel, proto: Proto, *, tail_call: bool) -> TracedProg:
    """A program with this function. Raises RefusedError where the kernel does not take it."""
    rows, starts = _insns(proto, tail_call=tail_call)
    types = btf.Btf(model=MODELS[kernel.arch])
    protos = [Proto("main", _INT, _CONTEXT), proto, Proto("reach", _INT, _CONTEXT)][: len(starts)]
    ids = [types.func(one, btf.STATIC if number else btf.GLOBAL) for number, one in enumerate(protos)]
    raw = b"".join(struct.pack("<BBhi", *row) for row in rows)
    info = btf.func_info(list(zip(starts, ids, strict=True)))
    asked = bpf.Load("syscall", raw, 0, info, map_calls=(1,) if tail_call else ())
    calls: list[Syscall] = [bpf.btf_load(types.blob()), *([bpf.prog_array()] if tail_call else [])]
    at = len(calls)
    calls += [bpf.prog_load(asked), bpf.prog_info(at, len(rows)), *(close(call) for call in range(at))]
    done = kernel.batch(calls)
    loaded = done[at]
    if loaded.ret < 0:
        raise refused("target", loaded.ret, last_words(bpf.load_log(loaded)))
    address, code = bpf.read_prog_info(done[at + 1], len(rows)).funcs[1]
    pad = len(_ENDBR) if kernel.arch == "x86_64" and code.startswith(_ENDBR) else 0
    return TracedProg(loaded.ret, bpf.prog_id(done[at + 1]), ids[1], address, address + pad + _PATCHED[kernel.arch])


def _insns(proto: Proto, *, tail_call: bool) -> tuple[list[Row], list[int]]:
    """The insns and where functions begin. Linux 7.2 counts a register or slot for each parameter, whatever its size."""
    main = [(_MOV, 0x16, 0, 0), *_arguments(len(proto.params)), (_CALL, _CALL_LOCAL << 4, 0, 0)]
    call = len(main) - 1
    main += [(_MOV, 0x61, 0, 0), (_CALL, _CALL_LOCAL << 4, 0, 0)] if tail_call else []
    main += [(_MOV_IMM, 0, 0, 0), (_EXIT, 0, 0, 0)]
    rows, starts = [*main, (_MOV_IMM, 0, 0, 0), (_EXIT, 0, 0, 0)], [0, len(main)]
    if tail_call:
        starts.append(len(rows))
        rows += [(_LD_IMM64, _MAP_INDEX << 4 | 2, 0, 0), (0, 0, 0, 0), (_MOV_IMM, 3, 0, 0), (_CALL, 0, 0, _TAIL_CALL)]
        rows += [(_MOV_IMM, 0, 0, 0), (_EXIT, 0, 0, 0)]
    for at, start in zip((call, call + 2), starts[1:], strict=False):
        rows[at] = (_CALL, _CALL_LOCAL << 4, 0, start - at - 1)
    return rows, starts


def _arguments(count: int) -> Iterator[Row]:
    for number in range(1, count + 1):
        if number <= 5:
            yield _MOV_IMM, number, 0, number
        else:
            yield _STORE, 11, -8 * (number - 5), number
