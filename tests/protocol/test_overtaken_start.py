"""A whole daemon whose start takes long, while somebody else takes its task over or finishes it."""

import asyncio
from pathlib import Path

import pytest

from syncd.cli.compose import Parts, new_daemon
from syncd.config import Settings
from syncd.hooks.loading import Plugins
from syncd.model.keys import Keys
from syncd.move.budget import Budget
from syncd.move.finish import finish
from syncd.move.start import claim
from syncd.store.around import Around
from syncd.store.memory import MemoryStore
from syncd.store.wrap import Retrying
from syncd.testing import Node

KEYS = Keys("task")


class Held(Around):
    """A store whose downloads stand still."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.fetching = asyncio.Event()

    async def before(self, verb: str, key: str) -> None:
        if verb == "fetch":
            self.fetching.set()
            await asyncio.Event().wait()


@pytest.mark.parametrize(("done", "code", "state"), [(False, 77, "superseded"), (True, 0, "done")])
async def test_a_start_that_is_overtaken_while_it_restores_says_so_by_its_code(
    tmp_path: Path, done: bool, code: int, state: str
) -> None:
    """Not 75: its platform would start it again, and it would take the task from its successor."""
    store = MemoryStore()
    before = Node(store, tmp_path / "before")
    await before.boot()
    before.save(1)
    await before.push_all()

    root = tmp_path / "root"
    root.mkdir()
    settings = Settings(root=root, task="task", heartbeat=0.05)
    held = Held(store)
    parts = Parts(settings, Plugins(), Retrying(held), KEYS, Budget(4, 64 << 20))
    daemon = new_daemon(parts, ["true"], {"PATH": "/bin:/usr/bin"})
    running = asyncio.create_task(daemon.run())
    await held.fetching.wait()
    if done:  # by a zombie: the first result stands, whoever made it
        assert before.keeper.owner and before.keeper.newest
        await finish(store, before.keeper.owner, before.keeper.newest, 1, 0.0)
    else:
        await claim(store, KEYS, node="other", now=0.0)
    async with asyncio.timeout(20):
        assert await running == code
    assert daemon.outcome(code)["state"] == state
    events = (root / ".syncd" / "events.jsonl").read_text()
    assert "trainer_started" not in events
    assert not list(root.glob("checkpoint-*"))
