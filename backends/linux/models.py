"""The data model of each architecture that Linux runs on here."""

from collections.abc import Mapping
from typing import Final

from harness.isa.ctypes import ARM64, X86_64, DataModel

MODELS: Final[Mapping[str, DataModel]] = {"x86_64": X86_64, "arm64": ARM64}
