"""A world without processes and without time: machines, daemons that stop between any two calls of the store, one store.

Every call of a daemon waits in `Life.calls` until the test lets it go, and says how it ends. All runs in one thread, so
a run is a function of the test's choices.
"""

import asyncio
import itertools
import os
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from syncd.errors import SyncdError, Torn, Transient
from syncd.keeper import Begun, Keeper
from syncd.local.digest import sum_bytes
from syncd.local.root import Root
from syncd.model.event import silent
from syncd.model.keys import Keys
from syncd.move.start import AlreadyDone
from syncd.store import Entry, Fetched, Gate, Source
from syncd.store.memory import MemoryStore
from syncd.store.wrap import Retrying
from syncd.testing import open_gate

KEYS = Keys("task")
URL = "memory://model"
MUTATIONS = frozenset({"put", "create", "upload", "delete"})
Ending = Literal["ok", "request lost", "answer lost", "late"]
"""How a call ends: answered; failed before it took effect; after; or before, and it takes effect some time later."""


@dataclass
class Call:
    """One call of the store that waits to be let go. `send` is what the daemon's side does, `effect` what the store does."""

    verb: str
    key: str
    send: Callable[[], None]
    effect: Callable[[], Awaitable[Any]]
    turn: "asyncio.Future[Ending]"

    @property
    def kind(self) -> str:
        """What the protocol calls it: `create resume.json` is another step than `create manifests`."""
        parts = self.key.removeprefix(KEYS.top).split("/")
        return f"create {parts[min(1, len(parts) - 1)]}" if self.verb == "create" else self.verb


class Watcher:
    """Told of each effect on the store; the oracle is one."""

    def changed(self, life: "Life", attempt: int, verb: str, key: str, before: bytes | None) -> None:
        """A call of `life` has just taken effect, sent when it owned `attempt` (0: none); `before`: what was there."""

    def listed(self, life: "Life", prefix: str) -> None:
        """`life` has just listed `prefix`."""

    def begins(self, life: "Life") -> None:
        """`life` is about to begin: it has seen nothing yet."""

    def begun(self, life: "Life", how: Begun) -> None:
        """`life` may start its trainer, or leave the one that lives."""

    def refused(self, life: "Life", error: Exception) -> None:
        """What `life` was doing ended so; its trainer is as the daemon left it."""


class Gated:
    """The store as one daemon sees it: each call waits for its turn."""

    def __init__(self, world: "World", life: "Life") -> None:
        self.world, self.life, self.inner = world, life, world.store

    async def _do(
        self, verb: str, key: str, call: Callable[[], Awaitable[Any]], send: Callable[[], None] = lambda: None
    ) -> Any:
        attempt = self.life.attempt

        async def effect() -> Any:
            before = self.inner.objects.get(key)
            result = await call()
            if verb in MUTATIONS:
                self.world.watcher.changed(self.life, attempt, verb, key, before)
            elif verb == "list":
                self.world.watcher.listed(self.life, key)
            return result

        waiting = Call(verb, key, send, effect, asyncio.get_running_loop().create_future())
        self.life.calls.append(waiting)
        try:
            ending = await waiting.turn
        except asyncio.CancelledError:  # a sibling failed
            self.life.calls = [each for each in self.life.calls if each is not waiting]
            raise
        if ending == "request lost" or (ending == "late" and verb not in MUTATIONS):
            raise Transient(f"{verb} {key}: request lost")
        send()
        if ending == "late":
            self.world.flying.append(effect)
            raise Transient(f"{verb} {key}: no answer")
        result = await effect()
        if ending == "answer lost":
            raise Transient(f"{verb} {key}: answer lost")
        return result

    async def put(self, key: str, data: bytes) -> None:
        await self._do("put", key, lambda: self.inner.put(key, data))

    async def create(self, key: str, data: bytes) -> None:
        await self._do("create", key, lambda: self.inner.create(key, data))

    async def upload(self, key: str, source: Source, gate: Gate) -> None:
        sent: list[bytes] = []

        def send() -> None:
            data = source.read(0, source.size)
            if sum_bytes(data) != source.sum:
                raise Torn(f"{key}: the bytes read are not those that were summed")
            sent.append(data)

        await self._do("upload", key, lambda: self.inner.put(key, sent[-1]), send)

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return bytes(await self._do("get", key, lambda: self.inner.get(key, offset, length)))

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        found: Fetched = await self._do("fetch", key, lambda: self.inner.fetch(key, offset, length, fd))
        return found

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        found: list[Entry] = await self._do("list", prefix, lambda: self.inner.list(prefix, shallow=shallow))
        return found

    async def delete(self, key: str) -> None:
        await self._do("delete", key, lambda: self.inner.delete(key))

    async def aclose(self) -> None:
        return None


@dataclass(frozen=True)
class Save:
    """What a trainer once saved: its number, the save that it trained on from (None: from zero), its step."""

    number: int
    parent: "Save | None"
    step: int

    @property
    def past(self) -> Iterator["Save"]:
        """Itself and all that it grew from."""
        save: Save | None = self
        while save:
            yield save
            save = save.parent

    @property
    def content(self) -> bytes:
        return f"save {self.number:06d} ".encode() * 4


@dataclass
class Machine:
    """A disk, a trainer that lives on it or not, in which attempt it started, and what it trains from."""

    world: "World"
    name: str
    training: bool = False
    attempt: int = 0
    state: Save | None = None
    step: int = 0

    @property
    def root(self) -> Path:
        return self.world.home / self.name

    def save(self, *, back: bool = False) -> Save:
        """The trainer saves; `back`: it first returned to the state before its last save, and learns it otherwise."""
        if back and self.state:
            self.state = self.state.parent
            self.step = self.state.step if self.state else 0
        self.step += 1
        self.state = self.world.new_save(self.state, self.step)
        path = self.root / f"checkpoint-{self.step}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        self.write(path, self.state)
        return self.state

    def write(self, path: Path, save: Save) -> None:
        for name in ("model.bin", "_SUCCESS"):
            with (path / name).open("r+b" if (path / name).exists() else "wb") as file:
                file.write(save.content)
            self.world.stamp(path / name)

    def rewrite(self) -> None:
        """The trainer writes its newest checkpoint anew, in place, without removing the marker first."""
        path = self.root / f"checkpoint-{self.step}"
        if self.state and path.is_dir():
            self.state = self.world.new_save(self.state.parent, self.step)
            self.write(path, self.state)

    def rotate(self) -> None:
        """The trainer deletes its oldest checkpoint but one: what was restored is older than what it saved since."""
        found = sorted(self.root.glob("checkpoint-*"), key=lambda path: self.read(path.name).number)
        for path in found[:-1][:1]:
            shutil.rmtree(path)

    def lose(self) -> None:
        """The trainer dies, and the disk loses all checkpoints."""
        self.training, self.state, self.step = False, None, 0
        for path in self.root.glob("checkpoint-*"):
            shutil.rmtree(path)

    def read(self, name: str) -> Save:
        """The save that a directory holds, whole. Raises AssertionError for anything else."""
        content = {(self.root / name / file).read_bytes() for file in ("model.bin", "_SUCCESS")}
        return self.world.save_of(content, f"{self.name}/{name}")


@dataclass
class Life:
    """One life of the daemon on a machine: its keeper, what it is doing, the calls that wait."""

    world: "World"
    machine: Machine
    number: int
    calls: list[Call] = field(default_factory=list)
    task: "asyncio.Task[Any] | None" = None
    begun: Begun | None = None
    over: str | None = None
    doing: str = "nothing"

    def __post_init__(self) -> None:
        self.keeper = self.world.keeper_for(self)

    @property
    def name(self) -> str:
        return f"{self.machine.name}.{self.number}"

    @property
    def attempt(self) -> int:
        return self.keeper.owner.attempt if self.keeper.owner else 0

    @property
    def busy(self) -> bool:
        """Whether it is in the midst of something."""
        return self.task is not None and self.over is None

    def start(self, doing: str, work: Coroutine[Any, Any, Any]) -> None:
        self.doing = doing
        self.task = self.world.loop.create_task(work)
        self.world.settle()
        self.look()

    def look(self) -> None:
        """Take in the end of what was being done. Raises what no operation may raise."""
        if self.task is None or not self.task.done():
            return
        task, self.task = self.task, None
        try:
            self._take(task)
        except BaseException:
            self.world.broken = True
            raise

    def _take(self, task: "asyncio.Task[Any]") -> None:
        try:
            result = task.result()
        except (SyncdError, AlreadyDone) as error:
            self.over = f"{type(error).__name__}: {error}"
            self.world.watcher.refused(self, error)
            self.machine.training = False
            return
        if self.doing == "begin":
            self.begun = result
            self.world.watcher.begun(self, result)
        elif self.doing == "finish":
            self.over = "finished"

    def begin(self) -> None:
        """Start as `syncd run` or a sidecar would: with the disk's lock, beside a living trainer or none."""

        async def end_writer() -> None:
            self.machine.training = False

        writer_alive = self.machine.training
        self.machine.root.mkdir(exist_ok=True)
        self.keeper.root.place.make()
        self.world.watcher.begins(self)
        self.start("begin", self.keeper.begin(writer_alive=writer_alive, end_writer=end_writer))

    def push(self) -> None:
        """Look, push what waits, and clean up after each commit."""

        async def work() -> None:
            await self.keeper.root.look()
            while self.keeper.root.waiting:
                if await self.keeper.push_next():
                    await self.keeper.clean_up()

        self.start("push", work())

    def finish(self, *, final: bool) -> None:
        """The trainer has ended with 0, and left `final/` or not."""
        machine = self.machine
        machine.training = False
        path = machine.root / "final"
        if final and machine.state and not path.exists():
            path.mkdir()
            (path / "model.bin").write_bytes(machine.state.content)
            self.world.stamp(path / "model.bin")
        self.start("finish", self.keeper.finish())


class World:
    """All machines and lives, the store, the loop, and what is still on its way to the store."""

    def __init__(self, home: Path, watcher: Watcher, *, keep: int = 2) -> None:
        self.home, self.keep = home, keep
        self.watcher = watcher
        self.store = MemoryStore()
        self.loop = asyncio.new_event_loop()
        self.machines: list[Machine] = []
        self.lives: list[Life] = []
        self.nothing = Save(0, None, 0)
        self.saves: dict[bytes, Save] = {}
        self.flying: list[Callable[[], Awaitable[Any]]] = []
        self.broken = False
        """Whether something that must not be was seen: what follows from it is no news."""
        self._clock = itertools.count(1_700_000_000)
        self._patches = _one_thread()
        self._patches.__enter__()

    def close(self) -> None:
        """End everything that still waits."""
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        self.loop.run_until_complete(asyncio.wait(left)) if left else None
        self.loop.close()
        self._patches.__exit__(None, None, None)

    # ---- machines and lives

    def new_machine(self) -> Machine:
        self.machines.append(Machine(self, f"m{len(self.machines) + 1}"))
        return self.machines[-1]

    def new_life(self, machine: Machine) -> Life:
        life = Life(self, machine, 1 + sum(each.machine is machine for each in self.lives))
        self.lives.append(life)
        return life

    def keeper_for(self, life: Life) -> Keeper:
        async def no_wait(seconds: float) -> None:
            return None

        return Keeper(
            store=Retrying(Gated(self, life), sleep=no_wait),
            store_url=URL,
            keys=KEYS,
            root=Root(life.machine.root, silent, quiet=0.0),
            node=life.name,
            gate=open_gate,
            download_gate=open_gate,
            say=silent,
            keep=self.keep,
            now=lambda: 1_700_000_000.0,
        )

    def new_save(self, parent: Save | None, step: int) -> Save:
        save = Save(len(self.saves) + 1, parent, step)
        self.saves[save.content] = save
        return save

    def save_of(self, contents: set[bytes], where: str) -> Save:
        """The one save that all of `contents` are of. Raises AssertionError for a mixture or what was never saved."""
        found = {self.saves.get(content) for content in contents}
        assert len(found) == 1 and None not in found, f"I5: {where} holds {sorted(contents)}"
        save = found.pop()
        assert save
        return save

    def stamp(self, path: Path) -> None:
        """Another second for each write: the kernel's own stamps are too coarse for a world without time."""
        now = next(self._clock)
        os.utime(path, (now, now))

    # ---- letting go

    def settle(self) -> None:
        """Run until nobody can go on without a turn."""

        async def quiet() -> None:
            while True:
                await asyncio.sleep(0)
                if not self.loop._ready:  # type: ignore[attr-defined]
                    return

        self.loop.run_until_complete(quiet())

    def let_go(self, life: Life, ending: Ending = "ok", which: int = 0) -> None:
        """One call of `life` ends so; then its operation's end, if it came, is taken in."""
        call = life.calls.pop(which % len(life.calls))
        call.turn.set_result(ending)
        self.settle()
        life.look()

    def arrive(self, which: int) -> None:
        """A request that was on its way reaches the store; its answer reaches nobody."""
        self._apply(self.flying.pop(which % len(self.flying)))

    def kill(self, life: Life, fate: Ending) -> None:
        """SIGKILL of the daemon alone: nothing of it runs any more; what it had sent takes effect now, later or never."""
        for call in life.calls if fate in ("ok", "late") else ():
            if call.verb in MUTATIONS:
                with suppress(SyncdError):
                    call.send()
                    self._apply(call.effect) if fate == "ok" else self.flying.append(call.effect)
        life.calls = []
        life.over = "killed"

    def _apply(self, effect: Callable[[], Awaitable[Any]]) -> None:
        async def take() -> None:
            with suppress(SyncdError):  # refused, and nobody hears it
                await effect()

        try:
            self.loop.run_until_complete(take())
        except BaseException:
            self.broken = True
            raise


@contextmanager
def _one_thread() -> Iterator[None]:
    """What runs in threads runs at once, in this one, and nobody sleeps: nothing depends on a scheduler but the test's."""
    yield_now = asyncio.sleep

    async def to_thread(work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)

    async def sleep(delay: float, result: Any = None) -> Any:
        return await yield_now(0, result)

    with mock.patch("asyncio.to_thread", to_thread), mock.patch("asyncio.sleep", sleep):
        yield
