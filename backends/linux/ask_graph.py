"""Programs that tail call each other, put to a running kernel: all loaded, prog arrays filled and changed, one of them run."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from backends.base import Job, Update
from backends.linux import bpf
from backends.linux.ask import Answer, KfuncIds, NativeFunc, Wish, answer_of, load_of, maps_of
from backends.linux.syscalls import Done, Kernel, Syscall, close, sleep

CLEARED_NS: Final = 50_000_000


@dataclass(slots=True)
class _Batch:
    """Calls in their order, and where those of each program are."""

    calls: list[Syscall] = field(default_factory=list)
    loads: list[int] = field(default_factory=list)  # per program
    infos: list[int] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)  # of the job's
    run: int | None = None
    lookups: dict[int, int] = field(default_factory=dict)  # by map

    def add(self, call: Syscall) -> int:
        """One call; gives its number."""
        self.calls.append(call)
        return len(self.calls) - 1


def ask_graph(kernel: Kernel, job: Job, kfuncs: KfuncIds | None, wish: Wish) -> Answer:
    """The native code is as it is before any slot is filled. Raises KernelGoneError."""
    batch = _Batch()
    batch.calls += maps_of(job.prog)
    first = len(batch.calls)
    for number in range(len(job.prog.mains)):
        part = job.prog.part(number)
        blob, load = load_of(part, kfuncs, len(batch.calls), wish, verbose=job.verbose)
        batch.add(bpf.btf_load(blob))
        batch.loads.append(batch.add(bpf.prog_load(load)))
        batch.infos.append(batch.add(bpf.prog_info(batch.loads[-1], len(part.insns))))
    for index, map_ in enumerate(job.prog.maps):
        for key, value in map_.content if map_.has_progs else ():
            batch.add(_changed(batch, Update(index, int.from_bytes(key, "little"), int.from_bytes(value, "little"))))
    for update in job.updates:
        batch.updates.append(batch.add(_changed(batch, update)))
        if update.close:  # a worker of the kernel empties it in its own time
            batch.add(sleep(CLEARED_NS))
    if not job.during:  # what happens in the middle of a run cannot be had of a kernel
        batch.run = batch.add(bpf.test_run(batch.loads[job.entry], job.ctx))
        batch.lookups = {
            index: batch.add(bpf.map_lookup_all(index, map_))
            for index, map_ in enumerate(job.prog.maps)
            if not map_.has_progs
        }
    # What gives 0 opened nothing: that would be the descriptor 0, which may be the kfuncs' types.
    opened = (*range(len(job.prog.maps)), *(call for load in batch.loads for call in (load - 1, load)))
    done = kernel.batch([*batch.calls, *(close(call) for call in opened)])
    for call in range(first):
        if done[call].ret < 0:
            return Answer(
                -done[call].ret, f"the kernel does not make the maps: call {call} gives errno {-done[call].ret}"
            )
    return _answer(job, batch, done)


def _changed(batch: _Batch, update: Update) -> Syscall:
    if update.close:
        return close(update.map)
    if update.prog is None:
        return bpf.map_delete(update.map, struct.pack("<I", update.key))
    return bpf.map_update_prog(update.map, struct.pack("<I", update.key), batch.loads[update.prog])


def _answer(job: Job, batch: _Batch, done: Sequence[Done]) -> Answer:
    found: list[Answer] = []
    for number, load in enumerate(batch.loads):
        before = job.prog.subprogs[job.prog.mains[number]].start
        if done[load - 1].ret < 0:
            return Answer(-done[load - 1].ret, done[load - 1].bufs[2].decode(errors="replace"))
        answer = answer_of(done[load])
        if answer.errno:
            return replace(answer, insn_offset=before)
        found.append(answer)
    try:
        infos = [
            bpf.read_prog_info(done[info], len(job.prog.part(number).insns)) for number, info in enumerate(batch.infos)
        ]
    except ValueError as error:
        return replace(found[0], missing=str(error))
    whole = Answer(
        0,
        "\n".join(answer.log for answer in found),
        b"".join(info.xlated for info in infos),
        sum(answer.processed for answer in found),
        tuple(depth for answer in found for depth in answer.stack_depths),
        funcs=tuple(NativeFunc(*row) for info in infos for row in info.funcs),
        lines=tuple(_lines(job, infos)),
        updates=tuple(max(0, -done[call].ret) for call in batch.updates),
    )
    if batch.run is None:
        return whole
    retval, memory = bpf.test_run_result(done[batch.run], len(job.ctx))
    errno = max(0, -done[batch.run].ret)
    maps = tuple(
        bpf.map_entries(done[batch.lookups[index]], map_) if index in batch.lookups else ()
        for index, map_ in enumerate(job.prog.maps)
    )
    return replace(whole, run_errno=errno, retval=None if errno else retval, memory=memory, maps=maps)


def _lines(job: Job, infos: Sequence[bpf.ProgInfo]) -> Iterator[tuple[int, int]]:
    for number, info in enumerate(infos):
        before = job.prog.subprogs[job.prog.mains[number]].start
        yield from ((before + line, address) for _, line, address in info.lines)
