"""One program put to a running kernel: loaded, run once, read back; everything it said, as plain data."""

import errno
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from backends.base import Entries, Job
from backends.linux import bpf
from backends.linux.syscalls import Done, Kernel, Syscall, close
from backends.trampoline import RefusedError
from harness.isa import btf
from harness.isa.ctypes import CInt, CPtr, CVoid, Param
from harness.isa.insn import CallKfunc, LdImm64, Prog, Subprog
from harness.isa.opcodes import MAP_INDEX, MAP_INDEX_VALUE, MASK32
from harness.isa.proto import Proto

LINE_FILE: Final = "cc"  # the file name of our line_info: it marks the lines that the log owes to it
_SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_OUR_LINE: Final = re.compile(rf"^; .*@ {LINE_FILE}:\d+\n", re.MULTILINE)
_INSN: Final = re.compile(r"^(\d+): (?:\([0-9a-f]{2}\)|BUG_)", re.MULTILINE)  # BUG: no insn that it can print
_PROCESSED: Final = re.compile(r"^processed (\d+) insns", re.MULTILINE)
_DEPTH: Final = re.compile(r"^stack depth (\d+(?:\+\d+)*)", re.MULTILINE)
STATISTICS: Final = re.compile(r"^(processed \d+ insns|verification time|stack depth|insns processed|max_states)")


@dataclass(frozen=True, slots=True)
class NativeFunc:
    """One function's native code, at the address where the kernel has it."""

    address: int
    code: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a kernel said of a program. `errno` 0: it was accepted.

    `lines`: (insn as loaded, native address) of every insn that has native code. `run_errno` is of the test run, which
    gives the low 32 bits of R0; the native code, run elsewhere, gives all 64.
    """

    errno: int
    log: str
    xlated: bytes = b""
    processed: int = 0
    stack_depths: tuple[int, ...] = ()
    run_errno: int = 0
    retval: int | None = None
    memory: bytes = b""
    funcs: tuple[NativeFunc, ...] = ()
    lines: tuple[tuple[int, int], ...] = ()
    maps: tuple[Entries, ...] = ()
    missing: str = ""  # why there is no native code, where there is some
    updates: tuple[int, ...] = ()  # what each of the job's updates of prog arrays gave: 0 or an errno
    insn_offset: int = 0  # of the first insn that the log is about, in the whole of several programs

    @property
    def message(self) -> str:
        """The line that says why a program was refused: the last one of the log that is not a statistic."""
        return last_words(self.log)

    @property
    def insn(self) -> int | None:
        """The last insn that the log names, which is where a program was refused; None before the walk."""
        found = _INSN.findall(self.log)
        return int(found[-1]) + self.insn_offset if found else None


def last_words(log: str) -> str:
    """The last line of a log that is neither a statistic nor part of a report that newer kernels put after it."""
    log = log.split("\nVerification failed", 1)[0]
    lines = [line for line in log.split("\n") if line.strip() and not STATISTICS.match(line)]
    return lines[-1] if lines else ""


def refused(at: str, ret: int, message: str = "") -> RefusedError:
    """What a negative result says of a trampoline. Raises OSError where the kernel ran short of something, which says nothing."""
    if -ret in _SHORTAGES:
        raise OSError(-ret, os.strerror(-ret))
    return RefusedError(at, -ret, message)


@dataclass(frozen=True, slots=True)
class KfuncIds:
    """How a kernel knows kfuncs: BTF fds, as fd_array has them from index 1 on; index and type id of each prototype."""

    btf_fds: tuple[int, ...]
    places: Mapping[Proto, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class AttachTo:
    """What a program traces: a descriptor of the BTF that has the function, its id there, and the name that it has."""

    btf_fd: int
    btf_id: int
    name: str


def ask(kernel: Kernel, job: Job, kfuncs: KfuncIds | None = None, attach: AttachTo | None = None) -> Answer:
    """Loads and runs one program; one that traces is not run. Raises KernelGoneError where the kernel does not survive it."""
    answer = _asked(kernel, job, kfuncs, Wish(attach=attach))
    if attach is None or job.prog.traced is None:
        return answer
    return replace(answer, log=re.sub(rf"\b{attach.name}\b", job.prog.traced.proto.name, answer.log))


def _asked(kernel: Kernel, job: Job, kfuncs: KfuncIds | None, wish: "Wish") -> Answer:
    answer = _ask(kernel, job, kfuncs, wish)
    if answer.errno and "line_info" in answer.log:
        wish = replace(wish, lines=False)  # a program so broken that no line_info fits it
        answer = _ask(kernel, job, kfuncs, wish)
    if answer.errno == errno.ENOSPC:
        # Not the program is refused, but the log has no room.
        answer = _ask(kernel, job, kfuncs, replace(wish, log_bytes=bpf.MAX_LOG_BYTES))
    if answer.errno == errno.ENOSPC:
        answer = _ask(kernel, job, kfuncs, replace(wish, statistics_only=True))
    return answer


@dataclass(frozen=True, slots=True)
class Wish:
    """How a program is to be loaded."""

    lines: bool = True
    log_bytes: int = bpf.LOG_BYTES
    statistics_only: bool = False
    attach: AttachTo | None = None


def _ask(kernel: Kernel, job: Job, kfuncs: KfuncIds | None, wish: Wish) -> Answer:
    prog = job.prog
    if prog.tail_calls or len(prog.mains) > 1:
        from backends.linux.ask_graph import ask_graph

        return ask_graph(kernel, job, kfuncs, wish)
    maps = maps_of(prog)
    first = len(maps)
    blob, load = load_of(prog, kfuncs, first, wish, verbose=job.verbose)
    count = len(prog.maps)
    calls: list[Syscall] = [
        *maps,
        bpf.btf_load(blob),
        bpf.prog_load(load),
        bpf.test_run(first + 1, job.ctx),
        bpf.prog_info(first + 1, len(prog.insns)),
        *(bpf.map_lookup_all(call, map_) for call, map_ in enumerate(prog.maps)),
        *(close(call) for call in (first + 1, first, *range(count))),
    ]
    done = kernel.batch(calls)
    for call, made in enumerate(done[:first]):
        if made.ret < 0:
            return Answer(-made.ret, f"the kernel does not make the maps: call {call} gives errno {-made.ret}")
    done = done[first:]
    if done[0].ret < 0:
        return Answer(-done[0].ret, done[0].bufs[2].decode(errors="replace"))
    answer = answer_of(done[1])
    if answer.errno:
        return answer
    entries = tuple(bpf.map_entries(found, map_) for found, map_ in zip(done[4:], prog.maps, strict=False))
    try:
        return replace(_accepted(answer, done[2], done[3], job), maps=entries)
    except ValueError as error:
        return replace(answer, missing=str(error))


def answer_of(loaded: Done) -> Answer:
    """What the load of a program says."""
    log = _OUR_LINE.sub("", bpf.load_log(loaded))
    processed, depth = _PROCESSED.search(log), _DEPTH.search(log)
    return Answer(
        errno=max(0, -loaded.ret),
        log=log,
        processed=int(processed.group(1)) if processed else 0,
        stack_depths=tuple(map(int, depth.group(1).split("+"))) if depth else (),
    )


def maps_of(prog: Prog) -> list[Syscall]:
    """The calls that make a program's maps: call `i` makes map `i`; the others fill them and freeze them."""
    calls = [bpf.map_create(map_) for map_ in prog.maps]
    for number, map_ in enumerate(prog.maps):
        calls += [] if map_.has_progs else [bpf.map_update(number, key, value) for key, value in map_.content]
        calls += [bpf.map_freeze(number)] if map_.frozen else []
    return calls


def _accepted(answer: Answer, run: Done, info: Done, job: Job) -> Answer:
    retval, memory = bpf.test_run_result(run, len(job.ctx))
    read = bpf.read_prog_info(info, len(job.prog.insns))
    own = job.prog.traced is None  # the test run of one that traces calls functions of the kernel's own
    return replace(
        answer,
        xlated=read.xlated,
        run_errno=max(0, -run.ret) if own else 0,
        retval=None if run.ret < 0 or not own else retval,
        memory=memory if own else b"",
        funcs=tuple(NativeFunc(*row) for row in read.funcs),
        lines=tuple((line, address) for _, line, address in read.lines),
    )


def load_of(prog: Prog, kfuncs: KfuncIds | None, btf_call: int, wish: Wish, *, verbose: bool) -> tuple[bytes, bpf.Load]:
    """The BTF of a program and its load; call `btf_call` of the batch gives the fd of the BTF."""
    types = btf.Btf()
    types.type_id(CInt("int", 4, True))  # the kernel refuses BTF without a type
    file = types.string(LINE_FILE)
    infos = [(s.start, types.func(proto, linkage)) for s, proto, linkage in _functions(prog)]
    # The second slot of an LD_IMM64 must have no line.
    rows = [(i, file, file, i) for i, insn in enumerate(prog.insns) if insn.opcode]
    attach = wish.attach
    load = bpf.Load(
        prog_type="syscall" if prog.traced is None else "tracing",
        attach_type="" if prog.traced is None else prog.traced.kind,
        attach_btf=(0, 0) if attach is None else (attach.btf_fd, attach.btf_id),
        insns=_raw(prog, kfuncs),
        btf_call=btf_call,
        func_info=btf.func_info(infos),
        line_info=btf.line_info(rows) if wish.lines else b"",
        fd_array=_btf_fds(kfuncs),
        map_calls=tuple(range(len(prog.maps))),
        log_level=bpf.LOG_STATS | (0 if wish.statistics_only else bpf.LOG_LEVEL2 if verbose else bpf.LOG_LEVEL1),
        log_bytes=wish.log_bytes,
    )
    return types.blob(), load


_MAIN: Final = Proto("main", CInt("int", 4, True), (Param("ctx", CPtr(CVoid())),))


def _functions(prog: Prog) -> Iterator[tuple[Subprog, Proto, int]]:
    """Every function with its prototype and linkage; none where no function has a prototype."""
    if all(subprog.proto is None for subprog in prog.subprogs):
        return
    for index, subprog in enumerate(prog.subprogs):
        proto = subprog.proto or (_MAIN if index == 0 else Proto(subprog.name, CInt("u64", 8, False), ()))
        yield subprog, proto, btf.GLOBAL if index == 0 or proto.is_global else btf.STATIC


def _btf_fds(kfuncs: KfuncIds | None) -> tuple[int, ...]:
    """The beginning of fd_array."""
    return (0, *kfuncs.btf_fds) if kfuncs else ()


def _raw(prog: Prog, kfuncs: KfuncIds | None) -> bytes:
    """The insns as the kernel wants them: kfuncs by their ids in the BTF at index 1 of fd_array, maps by their index there."""
    out = bytearray(b"".join(insn.to_bytes() for insn in prog.insns))
    for index, op in enumerate(prog.ops):
        proto = prog.kfunc(op.btf_id) if isinstance(op, CallKfunc) else None
        if proto is not None and kfuncs is not None and proto in kfuncs.places:
            struct.pack_into("<hi", out, 8 * index + 2, *kfuncs.places[proto])
        if isinstance(op, LdImm64) and op.pseudo in (MAP_INDEX, MAP_INDEX_VALUE) and prog.maps:
            struct.pack_into("<I", out, 8 * index + 4, (op.value & MASK32) + len(_btf_fds(kfuncs)))
    return bytes(out)
