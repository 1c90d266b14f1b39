"""The plugin: a store, an observer, a setting and a command.

This module is loaded by every command: whatever is heavy is imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncd import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from syncd.hooks import Attach, CheckpointCommitted, StoreRequest
    from syncd.store import Store
    from syncd_sample.settings import SampleSettings


class Sample:
    """A class as the entry point: each process's plugin manager makes its own, so the state is in no global."""

    def __init__(self) -> None:
        self.log: Path | None = None

    @hookimpl
    def settings(self) -> type[SampleSettings]:
        from syncd_sample.settings import SampleSettings

        return SampleSettings

    @hookimpl
    def commands(self) -> Mapping[str, tuple[str, str]]:
        return {"sample": ("syncd_sample.command:command", "Print the commits that were listed.")}

    @hookimpl
    async def open_store(self, event: StoreRequest) -> Store | None:
        if not event.url.startswith("sample:"):
            return None
        from syncd_sample.store import SampleStore

        return SampleStore.open(event.url)

    @hookimpl
    def attach(self, event: Attach) -> None:
        from syncd_sample.settings import SampleSettings

        assert isinstance(event.settings, SampleSettings)
        self.log = event.settings.sample_log

    @hookimpl
    def checkpoint_committed(self, event: CheckpointCommitted) -> None:
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{event.name}\n")
