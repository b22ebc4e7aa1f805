"""Case files to frozen cases; everything that is wrong with one is told by file, line and column."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from backends.base import ExpectedPlace
from backends.calls import Body
from harness.expect import Expect, ExpectedCall, build_expect, entries_of, hex_bytes
from harness.isa.asm import Assembled, Source, assemble
from harness.isa.insn import Prog, joined
from harness.isa.maps import Map, MapError, check
from harness.isa.proto import Proto, ProtoError, parse_bpf_proto
from harness.isa.tokens import AsmError
from harness.isa.traced import KINDS, TracedCtx
from harness.params import Budget, Notes, Variant, variants
from harness.schema import MAX_ERRORS, found_words, is_valid, problems, suggestion
from harness.yamldoc import MAX_BYTES, CaseError, Document, decode, parse, quoted
from harness.yamldoc import Path as At

if TYPE_CHECKING:
    from harness.graph import Scene
    from harness.traced import OwnText, TracedCase

__all__ = [
    "Case", "CaseError", "Expect", "ExpectedCall", "ExpectedPlace", "LoadedFile", "find_files", "load_file",
]  # fmt: skip

MAX_LINE: Final = 8192  # characters of a line of assembly, or of a prototype
SUFFIXES: Final = (".yaml", ".yml")


@dataclass(frozen=True)
class Case:
    """One case, or one variant of it; `line` is where the case begins in its file."""

    name: str
    file: str
    line: int
    about: str
    spec: tuple[str, ...]
    needs: tuple[str, ...]
    type: str
    ctx: bytes
    kfuncs: tuple[Body, ...]
    assembled: Assembled
    expect: Expect
    sources: tuple[Source, ...]
    lines: Mapping[int, str] = field(default_factory=dict)  # of the program's own source, by insn
    traced: "TracedCase | None" = None  # a trampoline instead of a program
    section: str = ""  # of an object's program
    scenes: "tuple[Scene, ...]" = ()  # of programs that tail call each other
    since: str = ""  # the first Linux that it is about

    @property
    def id(self) -> str:
        """`FILE::NAME`, as every command takes it."""
        return f"{self.file}::{self.name}"


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """The cases of a file that can be used, and the errors of the others."""

    cases: tuple[Case, ...]
    errors: tuple[CaseError, ...]


def find_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Case files, each once: files as they are named, folders searched and sorted. Raises CaseError where there is none."""
    return tuple(dict.fromkeys(found for path in paths for found in _files_at(path)))


def _files_at(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            path.stat()
            return [path]
        found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    except OSError as error:
        raise _unreadable(str(path), error) from None
    except ValueError:
        raise CaseError(str(path), 1, 1, "this is no name of a file") from None
    if not found:
        raise CaseError(str(path), 1, 1, "there is no case file (*.yaml, *.yml) in this folder")
    return found


def _unreadable(file: str, error: OSError) -> CaseError:
    return CaseError(file, 1, 1, f"cannot be read: {error.strerror or error}")


def _read(path: Path, file: str) -> bytes:
    try:
        path.stat()
        if not path.is_file():
            raise CaseError(file, 1, 1, "cannot be read: it is not a file")
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(file, error) from None
    except ValueError:
        raise CaseError(file, 1, 1, "this is no name of a file") from None


def load_file(path: Path, *, shown: str | None = None) -> LoadedFile:
    """The cases of one file; `shown` names it in errors. Never raises for what the file holds."""
    file = str(path) if shown is None else shown
    try:
        doc = parse(decode(_read(path, file), file), file)
    except CaseError as error:
        return LoadedFile((), (error,))
    if not isinstance(doc.data, list) or not doc.data:
        found = "an empty list" if doc.data == [] else found_words(doc.data)
        return LoadedFile((), _told([*doc.errors, doc.error((), f"expected a list of cases, found {found}")]))
    return _Loader(doc, doc.data, path.parent).load()


def _told(errors: list[CaseError]) -> tuple[CaseError, ...]:
    """One error a place at most for each thing said, in the order of the file."""
    unique = {(e.line, e.column, e.message): e for e in errors}
    errors = sorted(unique.values(), key=lambda e: (e.line, e.column))
    if len(errors) <= MAX_ERRORS:
        return tuple(errors)
    kept, last = errors[:MAX_ERRORS], errors[MAX_ERRORS]
    return (*kept, CaseError(last.file, last.line, last.column, "there are more errors, from here on"))


class _Loader:
    """Takes the items of one document one by one."""

    def __init__(self, doc: Document, items: list[Any], folder: Path) -> None:
        self.doc, self.items, self.folder = doc, items, folder
        self.budget = Budget()
        self.cases: list[Case] = []
        self.errors: list[CaseError] = list(doc.errors)
        self.known: dict[str, int] = {}  # index of each case, by name

    def load(self) -> LoadedFile:
        """Every case that can be used, and all errors, up to a number that no one reads."""
        starts = [self.doc.line((index,)) for index in range(len(self.items))] + [len(self.doc.lines) + 1]
        for index, item in enumerate(self.items):
            if len(self.errors) > MAX_ERRORS or self.budget.left < 0:
                break
            refused = [
                e for e in self.doc.errors if starts[index] <= e.line <= max(starts[index], starts[index + 1] - 1)
            ]
            self._item(index, item, {(e.line, e.column) for e in refused})
        return LoadedFile(tuple(self.cases), _told(self.errors))

    def _item(self, index: int, item: Any, refused: set[tuple[int, int]]) -> None:
        """One item; it is not used where YAML may read it differently (at the places `refused`), whatever its shape."""
        if not is_valid(item):
            found = [self.doc.error((index, *p.path), p.message, key=p.key) for p in problems(item)]
            self.errors += [e for e in found if (e.line, e.column) not in refused]
            return
        known = self.known.setdefault(item["case"], index)
        if known != index:
            message = f"there is a case {quoted(item['case'])} already, at line {self.doc.line((known,))}"
            self.errors.append(self.doc.error((index, "case"), message))
        self._variants(index, item, use=known == index and not refused)

    def _variants(self, index: int, item: dict[str, Any], *, use: bool) -> None:
        told: set[tuple[int, int, str]] = set()
        for variant in variants(self.doc, (index,), item, self.budget, self.errors):
            case, errors = _build(variant, self.folder)
            for error in errors:
                if (said := (error.line, error.column, error.message)) not in told:
                    told.add(said)
                    self.errors.append(_named(error, variant))
            if case is not None and use:
                self.cases.append(case)
            if len(self.errors) > MAX_ERRORS:
                return


def _named(error: CaseError, variant: Variant) -> CaseError:
    """The error, with the variant it was found in."""
    suffix = f" (in {variant.name})" if variant.suffix else ""
    return CaseError(error.file, error.line, error.column, error.message + suffix)


def _build(variant: Variant, folder: Path) -> tuple[Case | None, list[CaseError]]:
    """A case from one variant, or what is wrong with it."""
    if variant.suffix and not is_valid(variant.data):
        return None, [variant.error(p.path, p.message, key=p.key) for p in problems(variant.data)]
    builder = _Builder(variant, folder)
    case = builder.build()
    return (None if builder.notes.errors else case), builder.notes.errors


_NOTHING: Final = Assembled(Prog((), ()), ())  # the program of a case that has none
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def prefixed(program: str, number: int, subprog: str) -> str:
    """What a subprog of one of several programs is called: a main prog as its program."""
    return f"{program}.{subprog}" if number else program


class _Builder:
    """Makes a case of data that has the right shape."""

    def __init__(self, variant: Variant, folder: Path) -> None:
        self.variant, self.notes, self.folder = variant, Notes(variant), folder
        self.data: dict[str, Any] = dict(variant.data)
        self.paths: dict[str, At] = {}  # of subprogs and kfuncs, by name
        self.all_read = True  # no prototype is missing that an expectation may speak of

    def build(self) -> Case | None:
        """The case, or None; what is wrong is in `notes`."""
        found = [key for key in ("prog", "progs", "elf", "trampoline") if key in self.data]
        if found[:1] != ["prog"]:
            for key in ("type", "func"):
                if key in self.data and (key, self.data[key]) != ("type", "syscall"):
                    self.notes.at((key,), f"{key} goes with prog", key=True)
        if len(found) != 1:
            self.notes.at((), f"expected one of prog, progs, elf and trampoline, found {' and '.join(found) or 'none'}")
            return None
        if "steps" in self.data and found != ["progs"]:
            self.notes.at(("steps",), "steps goes with progs", key=True)
        if found == ["progs"]:
            return self._graph()
        if found == ["elf"]:
            return self._object()
        if "trampoline" in self.data:
            return self._traced()
        ctx = hex_bytes(self.notes, ("ctx",), self.data.get("ctx", ""))
        traces = self._traced_ctx(ctx)
        kfuncs, maps, sources = tuple(self._kfuncs()), tuple(self._maps()), tuple(self._sources())
        assembled = None if self.notes.errors else self._assembled(sources, [kfunc.proto for kfunc in kfuncs], maps)
        if assembled is not None and traces is not None:
            assembled = replace(assembled, prog=replace(assembled.prog, traced=traces))
        protos = {s.name: s.proto for s in sources} | {k.proto.name: k.proto for k in kfuncs}
        expect = build_expect(self.notes, self.data["expect"], protos if self.all_read else None, assembled, ctx)
        if assembled is None or ctx is None:
            return None
        return self._case(ctx, kfuncs, assembled, expect, sources)

    def _case(
        self,
        ctx: bytes,
        kfuncs: tuple[Body, ...],
        assembled: Assembled,
        expect: Expect,
        sources: tuple[Source, ...],
        traced: "TracedCase | None" = None,
    ) -> Case:
        data, variant = self.data, self.variant
        spec = data["spec"].split(";") if isinstance(data["spec"], str) else data["spec"]
        return Case(
            name=variant.name,
            file=variant.doc.file,
            line=variant.doc.line(variant.at),
            about=data["about"].strip(),
            spec=tuple(text.strip() for text in spec if text.strip()),
            needs=tuple(data.get("needs", ())),
            type=data.get("type", "syscall"),
            ctx=ctx,
            kfuncs=kfuncs,
            assembled=assembled,
            expect=expect,
            sources=sources,
            traced=traced,
            since=data.get("since", ""),
        )

    def _traced_ctx(self, ctx: bytes | None) -> TracedCtx | None:
        """What a program that traces a function is given; what is wrong with it is noted."""
        kind, text = self.data.get("type", "syscall"), self.data.get("func")
        if text is None and kind != "syscall":
            self.notes.at(("type",), f"type: {kind} needs func, the prototype of what it traces")
        if text is not None and kind == "syscall":
            self.notes.at(("func",), f"func goes with a type of {', '.join(KINDS)}", key=True)
        if text is None or kind == "syscall":
            return None
        if "kfuncs" in self.data:
            self.notes.at(("kfuncs",), f"no kfuncs are there for {kind}", key=True)
        for name, map_ in self.data.get("maps", {}).items():
            if map_["type"] == "prog_array":
                self.notes.at(("maps", name), f"no prog arrays are there for {kind}", key=True)
        from backends.trampoline import Mode  # most cases do without
        from harness.traced import read_proto, why_untraced

        proto = read_proto(self.notes, ("func",), text)
        if proto is None:
            return None
        if (why := why_untraced(proto, kind, (Mode.FULL, Mode.LINUX))) is not None:
            self.notes.at(("func",), f"func: no {kind} program traces it: {why}")
            return None
        found = TracedCtx(kind, proto)
        if ctx is not None and len(ctx) != found.size:
            where: At = ("ctx",) if "ctx" in self.data else ("func",)
            self.notes.at(where, f"ctx: expected {found.size} bytes, the words of {found.holds}, found {len(ctx)}")
        return found

    def _graph(self) -> Case | None:
        """Programs that tail call each other."""
        from harness.graph import build_scenes

        ctx = hex_bytes(self.notes, ("ctx",), self.data.get("ctx", ""))
        kfuncs, maps = tuple(self._kfuncs()), tuple(self._maps())
        found: list[Assembled] = []
        protos: dict[str, Proto | None] = {kfunc.proto.name: kfunc.proto for kfunc in kfuncs}
        sources: list[Source] = []
        for name, texts in self.data["progs"].items():
            self.paths = {kfunc.proto.name: ("kfuncs",) for kfunc in kfuncs}
            part = tuple(self._sources_of(("progs", name), texts))
            protos |= {prefixed(name, number, source.name): source.proto for number, source in enumerate(part)}
            sources += [
                Source(prefixed(name, number, source.name), source.text, source.proto)
                for number, source in enumerate(part)
            ]
            assembled = None if self.notes.errors else self._assembled(part, [kfunc.proto for kfunc in kfuncs], maps)
            if assembled is not None:
                subprogs = tuple(
                    replace(subprog, name=prefixed(name, number, subprog.name))
                    for number, subprog in enumerate(assembled.prog.subprogs)
                )
                found.append(replace(assembled, prog=replace(assembled.prog, subprogs=subprogs)))
        whole = None
        if len(found) == len(self.data["progs"]):
            whole = Assembled(joined([one.prog for one in found]), tuple(p for one in found for p in one.places))
        expect = build_expect(self.notes, self.data["expect"], protos if self.all_read else None, whole, ctx)
        if whole is None or ctx is None:
            return None
        scenes = build_scenes(self.notes, self.data, expect, whole.prog)
        if self.notes.errors:
            return None
        return replace(self._case(ctx, kfuncs, whole, expect, tuple(sources)), scenes=scenes)

    def _object(self) -> Case | None:
        """A program that a compiler made."""
        from harness.isa.elf import ElfError  # brings a library, which other cases can do without
        from harness.objects import read_object, wrong_section

        given = self.data["elf"]
        name, wanted = (given, None) if isinstance(given, str) else (given["file"], given.get("function"))
        path: At = ("elf",) if isinstance(given, str) else ("elf", "file")
        if "maps" in self.data:
            self.notes.at(("maps",), "maps goes with prog: an object has its own", key=True)
        try:
            programs = {program.name: program for program in read_object(self.folder / name)}
        except ElfError as error:
            self.notes.at(path, f"{name}: {error}")
            return None
        if wanted is None and len(programs) > 1:
            self.notes.at(path, f"{name} has several functions, and `function` names none: {', '.join(programs)}")
            return None
        chosen = next(iter(programs)) if wanted is None else wanted
        if chosen not in programs:
            self.notes.at(("elf", "function"), f"{name} has no function {quoted(chosen)}{suggestion(chosen, list(programs))}"
                                               f" (functions: {', '.join(programs)})")  # fmt: skip
            return None
        program = programs[chosen]
        if (why := wrong_section(program)) is not None:
            self.notes.at(path, why)
        bodies = tuple(self._bodies_of(program.prog))
        ctx = hex_bytes(self.notes, ("ctx",), self.data.get("ctx", ""))
        assembled = Assembled(program.prog, ())
        protos = {s.name: s.proto for s in program.prog.subprogs} | {k.name: k for k in program.prog.kfuncs}
        expect = build_expect(self.notes, self.data["expect"], protos, assembled, ctx)
        if ctx is None or self.notes.errors:
            return None
        case = self._case(ctx, bodies, assembled, expect, ())
        return replace(case, lines={insn: str(line) for insn, line in program.lines.items()}, section=program.section)

    def _bodies_of(self, prog: Prog) -> Iterator[Body]:
        """What each kfunc of an object returns; BTF has no names of their parameters, so `kfuncs` has."""
        given = {body.proto.name: body for body in self._kfuncs()}
        for proto in prog.kfuncs:
            body = given.pop(proto.name, None)
            if body is None:
                self.notes.at(("elf",), f"the object calls {proto}: kfuncs has to say what it returns", key=True)
                continue
            names = [param.name for param in body.proto.params]
            if len(names) != len(proto.params):
                self.notes.at(
                    ("kfuncs",), f"{proto.name}: the object calls it with {len(proto.params)} arguments", key=True
                )
            elif body.returns in names:
                yield Body(proto, proto.params[names.index(str(body.returns))].name)
            else:
                yield Body(proto, body.returns)
        for name in given:
            self.notes.at(("kfuncs",), f"the object calls no {name}", key=True)

    def _traced(self) -> Case | None:
        """A call of a traced function."""
        from harness.traced import build_traced  # brings the emulator, which other cases can do without

        for key in ("ctx", "kfuncs", "maps", "needs", "since"):
            if key in self.data:
                self.notes.at((key,), f"{key} goes with prog", key=True)
        for key in ("calls", "memory", "maps", "at"):
            if key in self.data["expect"]:
                self.notes.at(("expect", key), f"{key} goes with prog", key=True)
        traced = build_traced(self.notes, self.data, list(self._attached()))
        expect = build_expect(self.notes, self.data["expect"], None, None, b"")
        return None if traced is None else self._case(b"", (), _NOTHING, expect, (), traced)

    def _attached(self) -> "Iterator[OwnText | None]":
        """The text of each program on a traced function that has one."""
        from harness.traced import OwnText

        for number, item in enumerate(self.data["trampoline"]["progs"]):
            kind, more = next(iter(item.items())) if isinstance(item, dict) else (item, None)
            texts = more.get("prog") if isinstance(more, dict) else None
            if texts is None:
                yield None
                continue
            self.paths = {}
            sources = tuple(self._sources_of(("trampoline", "progs", number, kind, "prog"), texts))
            assembled = None if self.notes.errors else self._assembled(sources, (), ())
            yield None if assembled is None else OwnText(assembled, dict(self.paths))

    def _kfuncs(self) -> Iterator[Body]:
        for text, returns in self.data.get("kfuncs", {}).items():
            path = ("kfuncs", text)
            proto = self._proto(path, text)
            if proto is None:
                continue
            if proto.is_global:
                self.notes.at(path, "a kfunc is neither global nor static", key=True)
            names = ["sum", *(param.name for param in proto.params)]
            if isinstance(returns, str) and returns not in names:
                expected = f"an integer, sum, or a parameter of {proto.name}"
                hint = suggestion(returns, names)
                self.notes.at(path, f"{proto.name}: expected {expected}, found {quoted(returns)}{hint}")
            yield Body(proto, returns)

    def _maps(self) -> Iterator[Map]:
        for name, data in self.data.get("maps", {}).items():
            path = ("maps", name)
            if data["type"] == "prog_array":
                yield from self._prog_array(name, data, path)
                continue
            content = entries_of(self.notes, (*path, "content"), data.get("content", {}))
            shape = (data["type"], data["key"], data["value"], data["entries"])
            rdonly, frozen = data.get("access") == "read", data.get("frozen", False)
            try:
                if content is not None:
                    yield check(Map(name, *shape, rdonly, frozen, content))
            except MapError as error:
                self.notes.at(path, f"{name}: {error}", key=True)

    def _prog_array(self, name: str, data: Mapping[str, Any], path: At) -> Iterator[Map]:
        """Its content are numbers of programs."""
        known, slots = list(self.data.get("progs", {})), data.get("progs", [])
        content: list[tuple[bytes, bytes]] = []
        for slot, prog in enumerate(slots):
            if prog is not None and prog not in known:
                self.notes.at((*path, "progs", slot), f"there is no program {quoted(prog)}{suggestion(prog, known)}")
            elif prog is not None:
                content.append((slot.to_bytes(4, "little"), known.index(prog).to_bytes(4, "little")))
        try:
            yield check(Map(name, "prog_array", 4, 4, data.get("entries", len(slots)), content=tuple(content)))
        except MapError as error:
            self.notes.at(path, f"{name}: {error}", key=True)

    def _sources(self) -> Iterator[Source]:
        yield from self._sources_of(("prog",), self.data["prog"])

    def _sources_of(self, where: At, subprogs: Mapping[str, str]) -> Iterator[Source]:
        for head, text in subprogs.items():
            path = (*where, head)
            if _NAME.match(head):
                self._claim(head, path)
                yield Source(head, text)
            elif proto := self._proto(path, head):
                yield Source(proto.name, text, proto)

    def _proto(self, path: At, text: str) -> Proto | None:
        if len(text) > MAX_LINE:
            self.notes.at(path, f"a prototype of more than {MAX_LINE} characters", key=True)
            self.all_read = False
            return None
        try:
            proto = parse_bpf_proto(text)
        except ProtoError as error:
            self.notes.within(path, 0, error.column, error.message, key=True)
            self.all_read = False
            return None
        self._claim(proto.name, path)
        return proto

    def _claim(self, name: str, path: At) -> None:
        if name in self.paths:
            self.notes.at(path, f"there is a function {quoted(name)} already", key=True)
        self.paths.setdefault(name, path)

    def _assembled(self, sources: Sequence[Source], kfuncs: Sequence[Proto], maps: Sequence[Map]) -> Assembled | None:
        for source in sources:
            for number, line in enumerate(source.text.split("\n")):
                if len(line) > MAX_LINE:
                    self.notes.within(self.paths[source.name], number, 0, f"a line of more than {MAX_LINE} characters")
                    return None
        try:
            return assemble(sources, kfuncs, maps)
        except AsmError as error:
            self.notes.within(self.paths[error.subprog], error.line, error.column, error.message)
            return None
