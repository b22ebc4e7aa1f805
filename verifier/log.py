"""The verifier's log: level 0 the verdict, 1 the failing path, 2 every insn with what it changed."""

from harness.isa.disasm import insn_text
from harness.isa.insn import Prog
from verifier.state import NotInit, State, reg_text


class Log:
    """Gathers lines; at level 1 only those since the last path began are kept."""

    def __init__(self, prog: Prog, level: int) -> None:
        self._prog, self._level = prog, level
        self._lines: list[str] = []
        self._told = False  # the insn at hand

    def begin(self) -> None:
        """The next insn is about to be looked at."""
        self._told = False

    def path(self, at: int, state: State) -> None:
        """Control goes on at `at` in another place than the next insn."""
        if self._level == 0:
            return
        if self._level == 1 and len(state.frames) == 1:
            self._lines.clear()
        self._lines.append(f"{at}: {self._registers(state, range(11))}")

    def insn(self, at: int, state: State, written: int | None) -> None:
        """One insn, and the register that it wrote; once, even if it is refused after it was told."""
        if self._level == 0 or self._told:
            return
        self._told = True
        change = "" if written is None else f" ; {self._registers(state, (written,))}"
        self._lines.append(f"{at}: {insn_text(self._prog, at)}{change}")

    def _registers(self, state: State, numbers: "range | tuple[int, ...]") -> str:
        frame = f"frame{len(state.frames) - 1}: " if len(state.frames) > 1 else ""
        regs = state.top.regs
        shown = [f"R{n}={reg_text(regs[n])}" for n in numbers if not isinstance(regs[n], NotInit)]
        return frame + " ".join(shown)

    def text(self, message: str, processed: int, limit: int) -> str:
        """The whole log; it ends as Linux's does."""
        lines = self._lines if self._level > 1 or message else []
        end = f"processed {processed} insns (limit {limit})"
        return "\n".join([*lines, *([message] if message else []), end]) + "\n"
