"""The shape of the control flow, before any path is walked. Linux kernel/bpf/cfg.c and check_subprogs()."""

from dataclasses import dataclass

from harness.isa.insn import Branch, CallSubprog, Exit, Goto, LdImm64, MayGoto, Op, Prog


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with the shape, at an insn of the program."""

    rule: str
    message: str
    insn: int | None = None  # None: the program as a whole


def successors(index: int, insn: Op) -> tuple[int, ...]:
    """Where control goes from an insn, without leaving its function."""
    match insn:
        case Exit():
            return ()
        case Goto():
            return (index + 1 + insn.off,)
        case Branch() | MayGoto():
            return (index + 1, index + 1 + insn.off)
        case LdImm64():
            return (index + 2,)
        case _:
            return (index + 1,)


def check(prog: Prog) -> Flaw | None:
    """The first flaw, or None: jumps stay in their function, functions end, nothing is unreachable, nothing loops."""
    return ranges(prog) or _walk(prog) or _recursion(prog)


def ranges(prog: Prog) -> Flaw | None:
    """Jumps and calls that go nowhere, and functions without an end."""
    for subprog in prog.subprogs:
        for index in range(subprog.start, subprog.end):
            insn = prog.ops[index]
            if isinstance(insn, Goto | Branch | MayGoto) and not subprog.start <= index + 1 + insn.off < subprog.end:
                return Flaw("jump-range", f"jump out of range from insn {index} to {index + 1 + insn.off}", index)
            if isinstance(insn, CallSubprog) and prog.subprog_at(index + 1 + insn.off) is None:
                return Flaw("call-known", "call to invalid destination", index)
        if not isinstance(prog.ops[subprog.end - 1], Exit | Goto):
            return Flaw("last-insn", "last insn is not an exit or jmp", subprog.end - 1)
    return None


def _walk(prog: Prog) -> Flaw | None:
    """Depth-first over the functions that are called, with the insns on the way marked: an edge to one of them is a loop."""
    done, on_path = bytearray(len(prog.insns)), bytearray(len(prog.insns))
    functions, seen = [0], {0}
    while functions:
        start = prog.subprogs[functions.pop()].start
        path = [(start, iter(successors(start, prog.ops[start])))]
        on_path[start] = done[start] = 1
        _note_call(prog, start, functions, seen)
        while path:
            index, following = path[-1]
            target = next(following, None)
            if target is None:
                on_path[index] = 0
                path.pop()
            elif on_path[target]:
                return Flaw("no-loop", f"back-edge from insn {index} to {target} (loops are not supported yet)", index)
            elif not done[target]:
                done[target] = on_path[target] = 1
                _note_call(prog, target, functions, seen)
                path.append((target, iter(successors(target, prog.ops[target]))))
    for index in range(len(prog.insns)):
        hole = index > 0 and isinstance(prog.ops[index - 1], LdImm64)
        if hole and done[index]:
            return Flaw("jump-range", f"jump into the middle of ldimm64 insn {index - 1}", index - 1)
        if not done[index] and not hole:
            return Flaw("unreachable", f"unreachable insn {index}", index)
    return None


def callees(prog: Prog, index: int) -> list[int]:
    """The functions that one function calls, in order."""
    subprog = prog.subprogs[index]
    insns = enumerate(prog.ops[subprog.start : subprog.end], subprog.start)
    found = [prog.subprog_at(at + 1 + insn.off) for at, insn in insns if isinstance(insn, CallSubprog)]
    return [callee for callee in found if callee is not None]


def _recursion(prog: Prog) -> Flaw | None:
    found = callees_first(prog)
    if isinstance(found, tuple):
        return None
    return found


def callees_first(prog: Prog) -> tuple[int, ...] | Flaw:
    """The functions that the main prog reaches, each after all that it calls; or the first call that closes a circle.

    Linux kernel/bpf/verifier.c, sort_subprogs_topo().
    """
    done, on_path, order = {0}, [0], list[int]()
    path = [iter(callees(prog, 0))]
    while path:
        callee = next(path[-1], None)
        if callee is None:
            path.pop()
            order.append(on_path.pop())
        elif callee in on_path:
            names = [prog.subprogs[i].name if prog.subprogs[i].proto else "" for i in (on_path[-1], callee)]
            return Flaw("recursion", f"recursive call from {names[0]}() to {names[1]}()")  # a name comes from BTF
        elif callee not in done:
            done.add(callee)
            on_path.append(callee)
            path.append(iter(callees(prog, callee)))
    return tuple(order)


def _note_call(prog: Prog, index: int, functions: list[int], seen: set[int]) -> None:
    insn = prog.ops[index]
    if isinstance(insn, CallSubprog):
        callee = prog.subprog_at(index + 1 + insn.off)
        if callee is not None and callee not in seen:
            seen.add(callee)
            functions.append(callee)


def prune_points(prog: Prog) -> frozenset[int]:
    """Insns where paths may meet: targets of jumps, and the starts of functions."""
    points = {subprog.start for subprog in prog.subprogs}
    for index, insn in enumerate(prog.ops):
        if isinstance(insn, Goto | Branch | MayGoto):
            points.add(index + 1 + insn.off)
    return frozenset(points)
