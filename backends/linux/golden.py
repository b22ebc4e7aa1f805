"""What a Linux answered, on record: a source of replies where no kernel can be had, and how the record is made."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from backends import emulator as emu
from backends.base import Died, Job, Loaded, OwnFileError, Refused, Unsupported
from backends.calls import Body
from backends.image import Image, Poke, Symbol
from backends.linux.ask import STATISTICS
from backends.linux.attach import Made, Request
from backends.linux.backend import Accepted, Reply, too_old
from backends.linux.image import PADDING
from backends.linux.natives import Native
from backends.trampoline import Kind, RefusedError, Target
from harness.isa.ctypes import CPtr
from harness.isa.proto import Proto
from harness.isa.verified import Verified

FOLDER: Final = Path(__file__).with_name("golden")
SCHEMA: Final = 1
MAX_WORDS: Final = 8  # lines of a log that are kept: the last ones
_INSN_LINE: Final = re.compile(r"\d+: \([0-9a-f]{2}\)")
UPDATE: Final = "`callconv golden update` asks a kernel"


class GoldenError(OwnFileError):
    """A record that cannot be read; the message says which and why."""


def path_of(arch: str) -> Path:
    """The record of one architecture."""
    return FOLDER / f"{arch}.json"


def digest(job: Job) -> str:
    """Changes with everything that is put to the kernel: program, prototypes, context, kfuncs."""
    said = [insn.to_bytes() for insn in job.prog.insns]
    said += [f"{s.name} {s.start} {s.proto} {s.proto and s.proto.is_global}".encode() for s in job.prog.subprogs]
    said += [f"{s.name} {n} ctx".encode() for s in job.prog.subprogs for n in _ctx_params(s.proto)]
    said += [f"{body.proto} {body.returns}".encode() for body in job.bodies]
    said += [str(map_).encode() for map_ in job.prog.maps]
    if job.prog.traced is not None:
        said.append(f"{job.prog.traced.kind} {job.prog.traced.proto}".encode())
    if len(job.prog.mains) > 1 or job.updates or job.during:
        said.append(f"{job.prog.mains} {job.entry} {job.updates} {job.during}".encode())
    return hashlib.sha256(b"\n".join([*said, job.ctx])).hexdigest()[:16]


def _ctx_params(proto: Proto | None) -> list[int]:
    """The parameters that are tagged as the context, which a prototype's text does not say."""
    params = proto.params if proto else ()
    return [number for number, param in enumerate(params) if isinstance(param.type, CPtr) and param.type.ctx]


def words_of(log: str) -> list[str]:
    """The end of a verifier's log: from the last insn on, without statistics and the reports of newer kernels."""
    lines = [
        line
        for line in log.split("\nVerification failed", 1)[0].split("\n")
        if line.strip() and not STATISTICS.match(line)
    ]
    starts = [index for index, line in enumerate(lines) if _INSN_LINE.match(line)]
    return lines[starts[-1] if starts else 0 :][-MAX_WORDS:]


def to_record(job: Job, reply: Reply) -> dict[str, Any] | None:
    """A reply as plain data; None for one that says nothing of the kernel."""
    row: dict[str, Any] = {"prog": digest(job)}
    match reply:
        case Refused():
            row |= {
                "errno": reply.errno,
                "insn": reply.insn,
                "log": words_of(reply.log),
                "processed": reply.processed_insns,
            }
        case Died():
            row["died"] = reply.reason.split(";", 1)[0]
        case Unsupported():
            return None
        case Accepted(loaded, image):
            row |= {"retval": loaded.retval, "processed": loaded.processed_insns, "depths": list(loaded.stack_depths)}
            row |= {"run_errno": loaded.run_errno} if loaded.run_errno else {}
            row |= {"memory": loaded.memory.hex()} if loaded.memory else {}
            maps = [[[key.hex(), value.hex()] for key, value in entries] for entries in loaded.maps]
            row |= {"maps": maps} if maps else {}
            row["funcs"] = [
                [s.subprog, s.offset, image.code[s.offset : s.offset + s.size].hex()] for s in image.symbols
            ]
            row["insns"] = list(image.insn_offsets)
            row |= {"inlined": sorted(image.inlined)} if image.inlined else {}
            row |= {"updates": list(loaded.updates)} if loaded.updates else {}
            row |= {"landing": image.landing} if job.prog.tail_calls else {}
            row |= {"pokes": [[p.bypass, p.target, p.map, p.key] for p in image.pokes]} if image.pokes else {}
            row |= {key: True for key in ("kernel_data", "landing_pads") if getattr(image, key)}
    return row


def to_reply(arch: str, job: Job, row: Mapping[str, Any]) -> Reply:
    """The reply that a record stands for."""
    if "died" in row:
        return Died(f"{row['died']} (on record)")
    if "errno" in row:
        log = "\n".join(row["log"])
        return Refused(row["log"][-1] if row["log"] else "", row["errno"], row["insn"], log, row["processed"])
    size = max(offset + len(text) // 2 for _, offset, text in row["funcs"])
    code = bytearray(PADDING[arch] * size)
    symbols: list[Symbol] = []
    for subprog, offset, text in row["funcs"]:
        raw = bytes.fromhex(text)
        code[offset : offset + len(raw)] = raw
        symbols.append(Symbol(job.prog.subprogs[subprog].name, offset, len(raw), subprog))
    identity = Verified(job.prog, (), tuple(range(len(job.prog.insns))))
    image = Image(
        arch, emu.CODE_BASE, bytes(code), tuple(symbols), tuple(row["insns"]), row.get("landing_pads", False), identity,
        frozenset(row.get("inlined", ())), row.get("kernel_data", False), row.get("landing", 0),
        (8 if arch == "x86_64" else 32) if job.prog.tail_calls else 0, tuple(Poke(*poke) for poke in row.get("pokes", ())),
    )  # fmt: skip
    memory = bytes.fromhex(row.get("memory", ""))
    depths = tuple(row["depths"])
    maps = tuple(
        tuple((bytes.fromhex(key), bytes.fromhex(value)) for key, value in entries) for entries in row.get("maps", ())
    )
    loaded = Loaded(
        "",
        row["processed"],
        depths,
        b"",
        row.get("run_errno", 0),
        row["retval"],
        memory,
        maps,
        tuple(row.get("updates", ())),
    )
    return Accepted(loaded, image)


@dataclass(slots=True)
class Golden:
    """The record of one architecture, read when it is first asked."""

    arch: str
    path: Path
    _data: dict[str, Any] | None = field(default=None, init=False)
    _trampolines: dict[str, Any] | None = field(default=None, init=False)

    @property
    def data(self) -> dict[str, Any]:
        """The whole file. Raises GoldenError."""
        if self._data is None:
            self._data = read(self.path)
        return self._data

    @property
    def release(self) -> str | None:
        """Of the kernel that answered."""
        return str(self.data["release"]) if self.path.exists() else None

    def announce(self, bodies: Iterable[Body]) -> None:
        """Nothing to make ready."""

    def announce_trampolines(self, requests: Iterable[Request]) -> None:
        """Nothing to make ready."""

    def trampoline(self, request: Request) -> Made | Unsupported | Died:
        """What is on record for exactly this prototype and these programs."""
        path = trampolines_of(self.path)
        if not path.exists():
            return Unsupported(f"there is no record of a Linux's trampolines for {self.arch}: {UPDATE}")
        if self._trampolines is None:
            self._trampolines = read(path, "trampolines")["trampolines"]
        row = self._trampolines.get(key_of(request))
        if row is None:
            return Unsupported(f"the record of Linux's trampolines ({self.arch}) has no such one: {UPDATE}")
        try:
            return to_made(row)
        except (KeyError, ValueError, TypeError) as error:
            raise GoldenError(f"{path.name}: {key_of(request)}: the record is damaged: {error!r}") from error

    def close(self) -> None:
        """Nothing to end."""

    def reply(self, job: Job) -> Reply:
        """What is on record for exactly this program."""
        if not self.path.exists():
            return Unsupported(f"there is no record of a Linux for {self.arch}: {UPDATE}")
        if (old := too_old(job, str(self.release))) is not None:
            return old
        row = self.data["cases"].get(job.case)
        if row is None:
            return Unsupported(f"the record of Linux {self.release} ({self.arch}) has no such case: {UPDATE}")
        if not isinstance(row, dict) or "prog" not in row:
            raise GoldenError(f"{self.path.name}: {job.case}: the record is damaged")
        if row["prog"] != digest(job):
            return Unsupported(f"the record of Linux {self.release} ({self.arch}) is of another program: {UPDATE}")
        try:
            return to_reply(self.arch, job, row)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise GoldenError(f"{self.path.name}: {job.case}: the record is damaged: {error!r}") from error


# --- trampolines


def trampolines_of(path: Path) -> Path:
    """The record of trampolines that belongs to a record of programs."""
    return path.with_name(f"trampolines-{path.name}")


def key_of(request: Request) -> str:
    """What a trampoline is on record by: `u64 f(u64 a); fentry, fexit`, `bpf: u64 f(u64 a); fexit`."""
    asks = ["bpf_get_func_ip"] if request.func_ip else []
    asks += ["bpf_tail_call"] if request.tail_call else []
    head = "" if request.target is Target.KERNEL else f"{request.target.value}: "
    return "; ".join([f"{head}{request.proto}", ", ".join(_named(*one) for one in request.programs), *asks])


def _named(kind: Kind, cookie: int) -> str:
    return f"{kind.value} {cookie:#x}" if cookie else kind.value


def from_made(made: Made) -> dict[str, Any]:
    """A trampoline or a refusal as plain data."""
    if isinstance(made, RefusedError):
        return {"at": made.at, "errno": made.errno, "message": made.message}
    hooks = {name: f"{address:#x}" for address, name in made.hooks.items()}
    return {
        "address": f"{made.address:#x}", "function": f"{made.function:#x}", "body": f"{made.body:#x}", "code": made.code.hex(),
        "programs": [f"{address:#x}" for address in made.programs], "hooks": hooks,
    }  # fmt: skip


def to_made(row: Mapping[str, Any]) -> Made:
    """What a row stands for. Raises KeyError, ValueError or TypeError where it is damaged."""
    if "errno" in row:
        return RefusedError(str(row["at"]), int(row["errno"]), str(row["message"]))
    programs = tuple(int(address, 16) for address in row["programs"])
    hooks = {int(address, 16): str(name) for name, address in row["hooks"].items()}
    return Native(
        int(row["address"], 16),
        bytes.fromhex(row["code"]),
        int(row["function"], 16),
        int(row["body"], 16),
        programs,
        hooks,
    )


def read(path: Path, part: str = "cases") -> dict[str, Any]:
    """A record. Raises GoldenError where it cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GoldenError(f"{path.name}: cannot be read: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise GoldenError(f"{path.name}: expected a record of schema {SCHEMA}")
    if not isinstance(data.get("release"), str) or not isinstance(data.get(part), dict):
        raise GoldenError(f"{path.name}: expected a release and {part}")
    return data


def write(path: Path, head: Mapping[str, Any], cases: Mapping[str, Any], part: str = "cases") -> None:
    """A record: a line per case, sorted, so that a change shows as the lines it changes."""
    path.parent.mkdir(exist_ok=True)
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(cases[name])}" for name in sorted(cases))
    top = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in {"schema": SCHEMA, **head}.items())
    path.write_text(f'{{{top},\n"{part}": {{\n{rows}\n}}}}\n', encoding="utf-8")
