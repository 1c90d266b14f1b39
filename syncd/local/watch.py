"""Waking up when something happens below the root. Events only nudge; a rescan decides.

inotify drops events under load and network file systems have none, so a nudge also comes every scan interval.
"""

import asyncio
import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from syncd.local.tree import OWN

log = logging.getLogger(__name__)
DEEPEST = 2_500
"""Calls within one another that watchdog may need, which walks by recursion (os.walk does until Python 3.12): a path of 4,096
bytes leads through 2,048 directories at most."""


class Nudge:
    """Set from any thread, awaited by the scanner; many settings before a scan are one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """Safe from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout: float) -> bool:
        """Until nudged, or `timeout` seconds are over; True when nudged."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class _Handler(FileSystemEventHandler):
    def __init__(self, root: Path, nudge: Nudge) -> None:
        self._root, self._own, self._nudge = str(root), str(root / OWN), nudge

    def on_any_event(self, event: FileSystemEvent) -> None:
        # Files in the root itself (progress.json) are no checkpoints, and change every second.
        if not event.is_directory and str(event.src_path).rpartition("/")[0] == self._root:
            return
        # Opens and reads are our own scan's as well: to act on them would never end.
        if event.event_type not in ("opened", "closed_no_write") and not str(event.src_path).startswith(self._own):
            self._nudge.set()


@contextlib.contextmanager
def watching(root: Path, nudge: Nudge, *, enabled: bool) -> Iterator[bool]:
    """Nudge on every change below `root` while the context lasts; yields whether events are to be had."""
    if not enabled:
        yield False
        return
    # watchdog warns, with a repr of megabytes, for each nested directory that it finds twice
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="watchdog")
    # and, as an error, when it is stopped while events are under way
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)
    sys.setrecursionlimit(max(sys.getrecursionlimit(), DEEPEST))
    observer = Observer()
    try:
        observer.schedule(_Handler(root, nudge), str(root), recursive=True)
        observer.start()
    except OSError as error:
        log.warning("no file system events below %s (%s): scanning only", root, error)
        yield False
        return
    try:
        yield True
    finally:
        observer.stop()
        observer.join(5)
