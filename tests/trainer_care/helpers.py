"""Small real trainers, and waiting for a condition instead of sleeping."""

import asyncio
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PATIENCE = 20.0


def script(tmp_path: Path, text: str, name: str = "trainer.py") -> list[str]:
    """A trainer in Python: the command that runs `text`."""
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return [sys.executable, "-I", "-S", str(path)]


async def until(condition: Callable[[], object], what: str = "the condition", patience: float = PATIENCE) -> None:
    """Wait until `condition()` is true, or fail."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {patience} s"
        await asyncio.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_in(path: Path) -> int:
    """The number in a file that a trainer wrote; 0 while there is none."""
    text = path.read_text() if path.exists() else ""
    return int(text) if text.endswith("\n") else 0


def joined(chunks: Sequence[bytes]) -> bytes:
    return b"".join(chunks)
