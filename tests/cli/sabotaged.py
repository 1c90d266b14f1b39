"""syncd over a store that breaks its promises, each in another way: `python sabotaged.py KIND run -- CMD`.

What loses data here is what `syncd chaos` must find: a rehearsal that cannot fail proves nothing.
"""

import os
import sys

from syncd import hookimpl
from syncd.__main__ import CORE, main
from syncd.errors import NotFound
from syncd.hooks.events import StoreRequest
from syncd.hooks.loading import load, open_store
from syncd.local.digest import sum_bytes
from syncd.model.keys import attempt_number
from syncd.store import Entry, Fetched, Store
from syncd.store.around import Around


class Forgets(Around):
    """No attempt seems to have recorded a start: everyone begins from zero."""

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if key.endswith("/resume.json"):
            raise NotFound(key)
        return await super().get(key, offset, length)


class Loses(Around):
    """Manifests are taken and never stored."""

    async def create(self, key: str, data: bytes) -> None:
        if "/manifests/" not in key:
            await super().create(key, data)


class Lies(Around):
    """What is fetched is damaged, and vouched for all the same."""

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        fetched = await super().fetch(key, offset, length, fd)
        data = os.pread(fd, fetched.nbytes, offset)
        os.pwrite(fd, bytes([data[0] ^ 1]), offset)
        return Fetched(fetched.nbytes, sum_bytes(data).digest)


class Hides(Around):
    """Whoever owned the task never sees that another took over."""

    own: int | None = None

    async def create(self, key: str, data: bytes) -> None:
        await super().create(key, data)
        if key.endswith("/attempt.json"):
            self.own = attempt_number(key.split("/")[-2])

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        found = await super().list(prefix, shallow=shallow)
        return [each for each in found if self.own is None or not self._newer(each.key)]

    def _newer(self, key: str) -> bool:
        number = attempt_number(key.split("/")[1])
        return number is not None and self.own is not None and number > self.own


KINDS = {kind.__name__.lower(): kind for kind in (Forgets, Loses, Lies, Hides)}


class Saboteur:
    def __init__(self, kind: type[Around]) -> None:
        self.kind = kind

    @hookimpl(tryfirst=True)
    async def open_store(self, event: StoreRequest) -> Store:
        return self.kind(await open_store(load(extra=CORE), event.settings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], beside={"saboteur": Saboteur(KINDS[sys.argv[1]])}))
