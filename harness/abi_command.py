"""`callconv abi`: where the arguments and the result of a C prototype are. Imports little, so that it answers at once."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from harness.isa.proto import ProtoError, parse_proto

ARCHES: Final = ("arm64", "x86_64")  # as backends.abis has them
PASSED, WRONG_INPUT = 0, 2
ABOUT: Final = "where the arguments and the result of a C prototype are, rule by rule"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_INPUT, f"callconv: {message}\n{self.format_usage()}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "prototype",
        metavar="PROTOTYPE",
        help="e.g. 'int f(int a, struct {long x, y;} b, __int128 c)', declarations before it; - reads standard input",
    )
    parser.add_argument("--arch", choices=ARCHES, help="one architecture (default: both)")
    parser.add_argument(
        "--json", action="store_true", help="an object for the architecture, a list of objects for both"
    )
    parser.add_argument("--svg", metavar="FILE", help="write the picture of one architecture to FILE as well")


def main(arguments: Sequence[str]) -> int:
    """The command by itself."""
    parser = _Parser(prog="callconv abi", description=ABOUT, allow_abbrev=False)
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """The exit status."""
    from backends.abi import LayoutError
    from harness.abi_view import json_of, text_lines, view_of

    text = sys.stdin.read() if options.prototype == "-" else options.prototype
    if options.svg and not options.arch:
        return _refused("--svg needs --arch")
    try:
        proto = parse_proto(text)
        views = [view_of(proto, arch) for arch in ([options.arch] if options.arch else ARCHES)]
    except ProtoError as error:
        return _refused(_pointed(text, error))
    except LayoutError as error:
        return _refused(str(error))
    if options.svg:
        from harness.abi_svg import svg

        try:
            Path(options.svg).write_text(svg(views[0]), encoding="utf-8")
        except OSError as error:
            return _refused(f"the picture cannot be written: {error}")
    if options.json:
        data = [json_of(view) for view in views]
        _say(json.dumps(data[0] if options.arch else data, indent=1))
    else:
        _say("\n\n".join("\n".join(text_lines(view)) for view in views))
    return PASSED


def _pointed(text: str, error: ProtoError) -> str:
    """The message, and the line with a mark below the column."""
    start = text.rfind("\n", 0, error.column) + 1
    line = text[start:].partition("\n")[0]
    number = text.count("\n", 0, start) + 1
    column = error.column - start
    place = f"line {number}, column {column + 1}" if "\n" in text.strip() else f"column {column + 1}"
    return f"{place}: {error.message}\n  {line}\n  {' ' * column}^"


def _refused(message: str) -> int:
    sys.stderr.write(f"callconv: abi: {message}\n")
    return WRONG_INPUT


def _say(text: str) -> None:
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; Python would complain at exit
