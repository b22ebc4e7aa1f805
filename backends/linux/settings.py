"""What a user chose of kernels; costs nothing to import."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "linux"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose: kernel images, and the emulator; None is what the cache and PATH have."""

    images: tuple[Path, ...] = ()
    qemu: str | None = None
    cache: Path = CACHE
