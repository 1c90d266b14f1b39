"""The two ways to care for a trainer: as our child, or in another container."""

from pathlib import Path
from typing import Protocol

from syncd.local.files import read_noun, read_small
from syncd.local.tree import OWN
from syncd.model.local import TrainerState
from syncd.trainer_care import Trainer
from syncd.trainer_care.child import ChildTrainer, stop_orphan
from syncd.trainer_care.sidecar import SidecarTrainer, install_script


class Care(Protocol):
    """A trainer, and what differs around it. Called by the daemon alone, with the root's lock held."""

    trainer: Trainer

    async def prepare(self) -> bool:
        """Before anything else: whether a trainer of an earlier daemon's life goes on (or ended unjudged)."""

    def may_write_on(self) -> bool:
        """Whether the trainer, which said that it has finished, may still be writing."""

    async def leave(self, code: int) -> None:
        """At the end: let the platform see `code`."""


class RunCare:
    """`syncd run`: the trainer is our child; what a killed daemon left of one is ended first."""

    def __init__(self, trainer: ChildTrainer, root: Path, grace: float) -> None:
        self.trainer: Trainer = trainer
        self._root, self._grace = root, grace

    async def prepare(self) -> bool:
        await stop_orphan(self._root, self._grace)
        return False

    def may_write_on(self) -> bool:
        return False

    async def leave(self, code: int) -> None:
        return None


class SidecarCare:
    """`syncd sidecar`: the trainer is in another container and may have outlived our last life."""

    def __init__(self, trainer: SidecarTrainer, root: Path) -> None:
        self.trainer: Trainer = trainer
        self._sidecar, self._root = trainer, root

    async def prepare(self) -> bool:
        ready = self._root / OWN / "ready.json"
        adopted = read_small(ready) is not None and await self._sidecar.adopt()
        if not adopted:
            ready.unlink(missing_ok=True)  # of a former life: nobody may start by it before we have restored
        install_script(self._root)
        return adopted

    def may_write_on(self) -> bool:
        """Without with-syncd nobody saw its process end."""
        state = read_noun(self._root / OWN / "trainer.json", TrainerState)
        return state is None or state.state != "exited"

    async def leave(self, code: int) -> None:
        await self._sidecar.leave(code)
