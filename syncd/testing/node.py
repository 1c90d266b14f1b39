"""A node without processes: a root, a keeper, a trainer that writes checkpoints when told. For tests of the protocol."""

import hashlib
import json
import shutil
from pathlib import Path

from syncd.keeper import Begun, Keeper
from syncd.local.lock import locked
from syncd.local.root import Root
from syncd.model.keys import Keys
from syncd.move.audit import Audit, audit
from syncd.store import Store
from syncd.testing.suite import open_gate


def content(step: int, name: str, lineage: str = "") -> bytes:
    """What a trainer writes at a step: the same in every life, so that a restored one can be told from a torn one."""
    return hashlib.sha256(f"{step} {name} {lineage}".encode()).digest() * (20 + step % 7)


class Node:
    """One machine: `root` is its disk. `boot()` is a start of the daemon, as often as one likes."""

    def __init__(
        self,
        store: Store,
        root: Path,
        *,
        task: str = "task",
        keep: int = 2,
        backlog: int = 1,
        seal: str | None = None,
        url: str = "test://store",
    ) -> None:
        """`url`: under which the disk knows the store; for a disk that a real daemon has, the daemon's."""
        self.store, self.root, self.task, self.url = store, root, task, url
        self.keep, self.backlog, self.seal = keep, backlog, seal
        self.events: list[tuple[str, dict[str, object]]] = []
        self.keeper = self.new_keeper()

    def new_keeper(self) -> Keeper:
        def say(event: str, /, **fields: object) -> None:
            self.events.append((event, fields))

        return Keeper(
            store=self.store,
            store_url=self.url,
            keys=Keys(self.task),
            root=Root(self.root, say, quiet=0.0),
            node=self.root.name,
            gate=open_gate,
            download_gate=open_gate,
            say=say,
            keep=self.keep,
            backlog=self.backlog,
            seal=self.seal,
        )

    async def boot(self) -> Begun:
        """Begin as a new daemon on this disk."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.keeper = self.new_keeper()
        self.keeper.root.place.make()
        with locked(self.root):
            return await self.keeper.begin()

    def save(self, step: int, *, marker: bool = True, lineage: str = "") -> Path:
        """The trainer writes `checkpoint-<step>`: two files and, unless it dies before, the marker."""
        path = self.root / f"checkpoint-{step}"
        shutil.rmtree(path, ignore_errors=True)
        (path / "sub").mkdir(parents=True)
        (path / "model.bin").write_bytes(content(step, "model.bin", lineage))
        (path / "sub" / "state.json").write_text(json.dumps({"step": step}))
        if marker:
            (path / "_SUCCESS").write_text("")
        return path

    async def push_all(self) -> None:
        """Look, then push and clean up until nothing waits."""
        await self.keeper.root.look()
        while self.keeper.root.waiting:
            if await self.keeper.push_next():
                await self.keeper.clean_up()

    def holds(self, step: int, lineage: str = "") -> bool:
        """Whether the disk has exactly what the trainer wrote at `step`."""
        path = self.root / f"checkpoint-{step}"
        try:
            return (path / "model.bin").read_bytes() == content(step, "model.bin", lineage) and json.loads(
                (path / "sub" / "state.json").read_text()
            ) == {"step": step}
        except FileNotFoundError:
            return False


async def verify(store: Store, task: str = "task") -> Audit:
    """`syncd verify --deep`; raises AssertionError with what it found."""
    result = await audit(store, Keys(task), deep=True, gate=open_gate)
    assert result.clean, "\n".join(result.problems)
    return result
