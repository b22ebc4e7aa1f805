"""A native-image plugin: another compiler in a process of its own, asked in JSON lines; its images are judged like everybody's.

docs/native-image-plugin.md is the protocol. The plugin is not trusted: what it says is checked before it is used.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, assert_never

from backends.abis import ARCHES
from backends.base import Died, Job, Outcome, Unsupported
from backends.image import Image
from backends.interp import FEATURES
from backends.maps import resolved
from backends.native import Bench, addresses_of
from backends.plugin_answer import Fields, image_of
from backends.plugin_process import PluginError, Process, SilentError, brief
from harness.isa.calls import HELPERS
from harness.isa.ctypes import POINTER_BYTES, CInt, CPtr, CStruct, CType, CVoid, bpf_type, type_text
from harness.isa.insn import Prog
from harness.isa.proto import Proto
from harness.isa.slots import value_bytes
from harness.isa.verified import Verified

PROTOCOL: Final = 1
ANSWER_SECONDS: Final = 10.0
MAX_SILENCES: Final = 5  # in a row; a plugin that hangs as often is not asked again
MAX_BAD_STARTS: Final = 3  # in a row


class RefusedError(Exception):
    """The plugin says that it cannot compile this program; the text is its reason."""


def _type(ctype: CType) -> dict[str, object]:
    match bpf_type(ctype):
        case CInt(name, size, signed):
            return {"kind": "int", "text": name, "size": size, "signed": signed}
        case CPtr(to, ctx):
            return {"kind": "pointer", "size": POINTER_BYTES, "to": _type(to), "ctx": ctx}
        case CStruct() as struct:
            known = value_bytes(struct)
            return {"kind": struct.keyword, "text": type_text(ctype), **({} if known is None else {"size": known})}
        case CVoid():
            return {"kind": "void", "text": "void"}
        case _:
            assert_never(ctype)


def _proto(proto: Proto | None) -> dict[str, object] | None:
    if proto is None:
        return None
    params = [{"name": param.name, "type": _type(param.type)} for param in proto.params]
    return {"text": str(proto), "result": _type(proto.result), "params": params}


def _insns(prog: Prog) -> str:
    return b"".join(insn.to_bytes() for insn in prog.insns).hex()


def _subprogs(prog: Prog) -> list[dict[str, object]]:
    return [
        {"name": s.name, "start": s.start, "end": s.end, "global": s.is_global, "proto": _proto(s.proto)}
        for s in prog.subprogs
    ]


def _rewritten(verified: Verified) -> dict[str, object]:
    rows = zip(_subprogs(verified.prog), verified.funcs, strict=True)
    subprogs = [
        {
            **row,
            "stack_depth": facts.stack_depth,
            "incoming_slots": facts.incoming_slots,
            "outgoing_slots": facts.outgoing_slots,
        }
        for row, facts in rows
    ]
    return {"insns": _insns(verified.prog), "subprogs": subprogs, "origin": list(verified.origin)}


def request_of(job: Job, number: int, arch: str) -> dict[str, object]:
    """What a plugin is asked about a job."""
    assert job.verified is not None
    addresses = addresses_of(job)
    wanted = [("helper", number, helper.proto) for number, helper in HELPERS.items()]
    wanted += [("kfunc", number, proto) for number, proto in enumerate(job.prog.kfuncs, 1)]
    externs = [
        {"kind": kind, "id": id_, "name": proto.name, "address": addresses.externs[proto.name], "proto": _proto(proto)}
        for kind, id_, proto in wanted
    ]
    return {
        "type": "compile", "id": number, "arch": arch, "case": job.case, "base": addresses.base,
        "ctx_size": len(job.ctx), "length_in_r2": job.length_in_r2,
        "program": {"insns": _insns(job.prog), "subprogs": _subprogs(job.prog)},
        "rewritten": _rewritten(resolved(job.verified)), "externs": externs,
    }  # fmt: skip


class ImagePlugin:
    """A back end whose images come from a plugin. It starts when it is first asked, and serves the run."""

    features = FEATURES

    def __init__(self, name: str, command: Sequence[str], seconds: float = ANSWER_SECONDS) -> None:
        """`command`: the program and its arguments; `seconds`: how long each answer may take."""
        self.name, self.seconds, self._command = name, seconds, tuple(command)
        self._process: Process | None = None
        self._label, self._arch = "", ""
        self._asked = self._silences = self._bad_starts = 0
        self._gave_up = ""
        self._last: tuple[Job, Image | Unsupported | Died] | None = None
        self._bench = Bench()

    def describe(self) -> str:
        """What the plugin calls itself, as far as it is known by now."""
        return self._label or "the plugin has not answered"

    @property
    def arch(self) -> str:
        """The architecture that the plugin compiles for; empty until it has answered."""
        return self._arch

    def run(self, job: Job) -> Outcome:
        """The plugin's native code, run and judged."""
        image = self._reply(job)
        return self._bench.judge(job, image) if isinstance(image, Image) else image

    def close(self) -> None:
        """Ends the plugin and everything that it started in its process group."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _reply(self, job: Job) -> Image | Unsupported | Died:
        """The answer; a job that comes again, for a detailed report, is answered from memory."""
        if self._last is not None and replace(self._last[0], detail=job.detail) == job:
            return self._last[1]
        reply = self._compiled(job)
        self._last = job, reply
        return reply

    def _compiled(self, job: Job) -> Image | Unsupported | Died:
        if self._gave_up:
            return Died(self._gave_up)
        try:
            image = self._image(job)
        except RefusedError as error:
            self._silences = 0
            return Unsupported(str(error))
        except (PluginError, RecursionError) as error:  # a deep answer may be too deep to be quoted
            self.close()
            self._silences = self._silences + 1 if isinstance(error, SilentError) else 0
            if self._silences >= MAX_SILENCES or self._bad_starts >= MAX_BAD_STARTS:
                self._gave_up = f"not asked again, since it failed too often; at last: {error}"
            return Died(str(error))
        self._silences = 0
        return image

    def _image(self, job: Job) -> Image:
        process = self._ready()
        self._asked += 1
        answer = process.ask(request_of(job, self._asked, self._arch), self.seconds)
        fields = Fields("answer", answer)
        if fields.get("id", int) != self._asked:
            raise PluginError(f"answer: `id` must be {self._asked}, as in the request, found {fields.get('id', int)}")
        if "unsupported" in answer:
            raise RefusedError(brief(fields.get("unsupported", str)) or "the plugin gives no reason")
        return image_of(fields.get("image", dict), job, self._arch)

    def _ready(self) -> Process:
        """The running plugin, or a new one where it has ended or said something unasked."""
        if self._process is not None and self._process.idle():
            return self._process
        self.close()
        self._bad_starts += 1
        process = self._process = Process(self._command)
        hello = Fields("hello", process.ask({"type": "hello", "protocol": PROTOCOL}, self.seconds))
        if hello.get("protocol", int) != PROTOCOL:
            raise PluginError(f"hello: `protocol` must be {PROTOCOL}, found {hello.get('protocol', int)}")
        arch = hello.get("arch", str)
        if arch not in ARCHES or (self._arch and arch != self._arch):
            wanted = self._arch or " or ".join(ARCHES)
            raise PluginError(f"hello: `arch` must be {wanted}, found {brief(arch)!r}")
        self._label, self._arch = brief(hello.get("name", str)), arch
        self._bad_starts = 0
        return process
