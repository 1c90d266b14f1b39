"""The page cache, which a trainer's data wants more than a checkpoint that was sent."""

import os
from pathlib import Path

from syncd.errors import Torn
from syncd.local.tree import files_below, open_beneath, opened


def drop_pages(path: Path) -> None:
    """Let the kernel forget the clean pages of a directory's files. Blocks for milliseconds a GiB. What is gone is passed
    over: a rotation may be at work."""
    try:
        with opened(path) as base:
            for below, found in files_below(base).items():
                if found.regular:
                    fd = open_beneath(base, below)
                    try:
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    finally:
                        os.close(fd)
    except (OSError, Torn):
        return
