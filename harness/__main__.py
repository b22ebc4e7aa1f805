"""`python3 -m harness`: sets the checkout up for itself, then runs `callconv`, or the project's own tests.

Needs nothing but Python 3.11 and pip, leaves nothing outside the checkout, and does not touch the system's Python.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CACHE = ROOT / ".cache"
STAMP = VENV / "callconv-stamp"
EXTRAS = "test,lint"
STEPS = (
    ("ruff check", ("ruff", "check", "--quiet", ".")),
    ("ruff format", ("ruff", "format", "--quiet", "--check", ".")),
    ("mypy", ("mypy", "--no-error-summary")),
    ("format reference", ("harness.reference", "--check")),
    ("pytest", ("pytest", "-n", "auto", "-q", "-rs", "--linux")),
)


def say(text: str) -> None:
    """One line of progress, apart from what the command prints."""
    print(f"callconv: {text}", file=sys.stderr, flush=True)  # noqa: T201


def environment() -> dict[str, str]:
    """The process's own environment, with every cache inside the checkout."""
    inside = {
        "PIP_CACHE_DIR": CACHE / "pip",
        "PYTEST_DEBUG_TEMPROOT": CACHE / "pytest",
        "TMPDIR": CACHE / "tmp",
    }
    for path in inside.values():
        path.mkdir(parents=True, exist_ok=True)
    return {**os.environ, **{name: str(path) for name, path in inside.items()}, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def fingerprint() -> str:
    """Changes with the requirements, the interpreter and the place of the checkout."""
    text = f"{sys.version}\n{ROOT}\n{EXTRAS}\n".encode() + (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(text).hexdigest()


def ready() -> bool:
    """Whether the environment was set up completely, for these requirements; one that this very process uses is taken as it is."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        return True
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text(encoding="ascii") == fingerprint()


def set_up() -> None:
    """Makes `.venv` and installs the requirements. Ends the process with a message where that fails."""
    say("setting up .venv (once)")
    # Debian's python3 has no ensurepip unless python3-venv is installed; the pip at hand can serve the new environment.
    venv.create(VENV, with_pip=False, clear=True)
    pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet"]
    done = subprocess.run([*pip, "--editable", f"{ROOT}[{EXTRAS}]"], env=environment(), cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit("callconv: the set-up failed: pip's message is above (pip 22.3 or newer is needed)")
    STAMP.write_text(fingerprint(), encoding="ascii")


def test(arguments: list[str]) -> int:
    """Lint, types, unit tests and cases; every step runs, and the first failure decides. More arguments go to pytest."""
    failed: list[str] = []
    for name, command in STEPS:
        say(name)
        extra = arguments if name == "pytest" else []
        if subprocess.run([str(PYTHON), "-m", *command, *extra], env=environment(), cwd=ROOT, check=False).returncode:
            failed.append(name)
    say(f"failed: {', '.join(failed)}" if failed else "all steps passed")
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    """`test [PYTEST ARGUMENT...]`, or a command of `callconv`."""
    if not ready():
        set_up()
    if arguments[:1] == ["test"]:
        return test(arguments[1:])
    return os.execve(PYTHON, [str(PYTHON), "-m", "harness.entry", *arguments], environment())


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
