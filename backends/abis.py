"""Each architecture's ABI document and argument layout."""

from collections.abc import Callable, Mapping
from typing import Final

from backends.abi import Abi, Layout
from backends.arm64 import abi as arm64
from backends.x86_64 import abi as x86_64
from harness.isa.proto import Proto

ARCHES: Final[Mapping[str, tuple[Abi, Callable[[Proto], Layout]]]] = {
    "arm64": (arm64.ABI, arm64.layout),
    "x86_64": (x86_64.ABI, x86_64.layout),
}
