"""The trainer in another container, reached by nothing but small files on the shared volume.

Two cases, told apart by whether `.syncd/trainer.json` changes: with-syncd is there and obeys orders; or nobody
obeys, and all that is known is that `progress.json` changes and `finished.json` appears. No times are compared across
containers: a sign of life is a file that changed since we last looked, on our monotonic clock.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

from syncd.local.files import parse_noun, read_stamped, write_noun, write_small
from syncd.local.tree import OWN
from syncd.model.local import Order, TrainerState
from syncd.trainer_care import Exit

PRESENCE = 10.0
"""Seconds in which a with-syncd that is there changes trainer.json for certain: it does every two seconds."""
MARGIN = 12.0
"""Seconds beyond `grace` for with-syncd to look, to end what is left of the group, and to say so."""

RESTART_GRACE = 30.0
"""Seconds for a life that still runs when another one is ordered, instead of being adopted or stopped before."""

Stamp = tuple[bytes, int] | None
UNKNOWN: Stamp = (b"", -1)


def install_script(root: Path) -> Path:
    """Put with-syncd on the volume and remove the order of a former daemon; returns the script's path.

    Call it when the daemon has the root's lock, before it reports ready. Raises `OSError`.
    """
    folder = root / OWN / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    (root / OWN / "order.json").unlink(missing_ok=True)
    script = folder / "with-syncd"
    data = resources.files("syncd.trainer_care").joinpath("with-syncd").read_bytes()
    write_small(script, data, 0o755)
    return script


class SidecarTrainer:
    """A `Trainer` in another container.

    `poll`: seconds between two looks. `silence`: seconds without any sign of with-syncd after which a life that it
    ran counts as lost; long, since a saturated disk holds up its small writes too.
    """

    def __init__(self, root: Path, poll: float = 0.5, silence: float = 60.0) -> None:
        self._root = root
        self._poll = poll
        self._silence = silence
        self._said: Stamp = UNKNOWN
        self._state: TrainerState | None = None
        self._heard = -math.inf  # when trainer.json was last seen to change, monotonic
        self._progress: Stamp = UNKNOWN
        self._moved = -math.inf  # when progress.json was last seen to change, monotonic
        self._finished_before: Stamp = None
        self._before: str | None = None
        self._life: str | None = None
        self._begun = False
        self._asked = False
        self._exit: Exit | None = None

    @property
    def alive(self) -> bool:
        """with-syncd says so and was heard lately; without it: the progress file changed lately."""
        self._look()
        now = time.monotonic()
        if self._heard > -math.inf:
            running = self._state is not None and self._state.state == "running"
            return running and now - self._heard < self._silence
        return now - self._moved < self._silence and self._finish_stamp() == self._finished_before

    async def start(self, env: Mapping[str, str]) -> None:
        """Order a new life; call it after ready.json is written, by which a waiting with-syncd starts too, once.

        `env` is not used: the other container has its own. The life begins when with-syncd is there, perhaps much
        later. Without with-syncd nothing is started: a `finished.json` that is there now is taken for an old one.
        """
        self._look()
        self._forget()
        self._before = self._state.id if self._state else None
        self._finished_before = self._finish_stamp()
        self._begun = True
        await self._order("restart", grace=RESTART_GRACE, life=self._before)

    async def adopt(self, patience: float = PRESENCE) -> bool:
        """Go on with the life that a former daemon of the same attempt began; whether there is one.

        Takes up to `patience` seconds: only a file that changes tells a trainer from a relic on an old volume. A life
        that ended while no daemon looked is adopted too, so that `wait` gives its exit code, which nobody has judged.
        """
        self._forget()
        deadline = time.monotonic() + patience
        while self._is_worth_a_look() and time.monotonic() < deadline:
            if self._heard > -math.inf:
                self._life = self._state.id if self._state and _ran(self._state) else None
                self._begun = self._life is not None
                return self._begun
            if self._said is None and self._moved > -math.inf:
                break
            await asyncio.sleep(self._poll)
        self._begun = self._moved > -math.inf or self._finish_stamp() is not None
        return self._begun

    async def wait(self) -> Exit:
        """As in `Trainer`; raises `RuntimeError` before `start` or a successful `adopt`."""
        if not self._begun:
            raise RuntimeError("the trainer was neither started nor adopted")
        while (result := self._ended()) is None:  # noqa: ASYNC110 - files have no events on every volume
            await asyncio.sleep(self._poll)
        return result

    async def stop(self, grace: float) -> Exit:
        """As in `Trainer`; works on a trainer that was not adopted as well, such as a superseded daemon's.

        Where with-syncd is not there, nobody can be stopped: returns after `finished.json` or when the progress file
        has not changed for `PRESENCE` seconds, at most `grace`. The order stays for a with-syncd that comes later.
        """
        if result := self._ended():
            return result
        self._asked = True
        order = await self._order("stop", grace=grace)
        begin = time.monotonic()
        while (result := self._ended() or self._stopped_by(order)) is None:
            if self._is_given_up(begin, grace):
                result = Exit(137 if self._state or self._begun else 143, True, time.time(), seen=False)
                break
            await asyncio.sleep(self._poll)
        self._exit = result
        return result

    async def kill(self) -> None:
        """As in `Trainer`."""
        await self.stop(0)

    async def leave(self, exit_code: int, patience: float = 5.0) -> bool:
        """Let with-syncd end its container with `exit_code`; whether it said within `patience` seconds that it does.

        Stop the trainer before: one that still runs is given no grace.
        """
        order = await self._order("exit", exit_code=exit_code)
        deadline = time.monotonic() + patience
        while not self._is_obeyed(order) and time.monotonic() < deadline:  # noqa: ASYNC110 - as above
            await asyncio.sleep(self._poll)
        return self._is_obeyed(order)

    async def _order(
        self,
        action: Literal["stop", "restart", "exit"],
        grace: float = 0.0,
        exit_code: int = 0,
        life: str | None = None,
    ) -> Order:
        name = secrets.token_hex(8)
        order = Order(id=name, action=action, exit_code=exit_code, grace=grace, life=life, time=time.time())
        await asyncio.to_thread(write_noun, self._root / OWN / "order.json", order)
        return order

    def _forget(self) -> None:
        self._exit = self._life = self._before = None
        self._finished_before = None
        self._begun = self._asked = False
        self._heard = self._moved = -math.inf

    def _look(self) -> None:
        """Note what changed. The first look at a file is no sign of life: it may be of years ago."""
        path = self._root / OWN / "trainer.json"
        said = read_stamped(path)
        if said != self._said:
            if said is not None:
                self._state = parse_noun(said[0], TrainerState, path)
                self._heard = time.monotonic() if self._said != UNKNOWN else self._heard
            self._said = said
        progress = read_stamped(self._root / "progress.json")
        if progress != self._progress:
            self._moved = time.monotonic() if self._progress != UNKNOWN else self._moved
            self._progress = progress

    def _finish_stamp(self) -> Stamp:
        return read_stamped(self._root / "finished.json")

    def _is_worth_a_look(self) -> bool:
        self._look()
        return self._said is not None or self._progress is not None

    def _ended(self) -> Exit | None:
        """The end of the life that was started or adopted, once it is known."""
        self._look()
        if self._exit is None and self._begun:
            self._exit = self._end_by_files()
        return self._exit

    def _end_by_files(self) -> Exit | None:
        if self._heard == -math.inf:
            finished = self._finish_stamp()
            if finished is not None and finished != self._finished_before:
                return Exit(0, self._asked, time.time())
            return None
        state = self._state
        if state is None:
            return None  # no valid JSON: a newer or a foreign with-syncd; the next look may tell
        if self._life is None and state.id != self._before and _ran(state):
            self._life = state.id
        if self._life is None:
            return None
        if state.id != self._life or state.state == "waiting":  # its container began anew, or another start was made
            return Exit(137, self._asked, time.time(), seen=False)
        if state.state == "exited":
            return _exit_of(state)
        silent = time.monotonic() - self._heard >= self._silence
        return Exit(137, self._asked, time.time(), seen=False) if silent else None

    def _stopped_by(self, order: Order) -> Exit | None:
        """The end of whatever ran, of a life that is not ours too, once with-syncd says that it obeyed."""
        state = self._state
        if state is None or state.order != order.id or state.state != "exited":
            return None
        return _exit_of(state)

    def _is_obeyed(self, order: Order) -> bool:
        self._look()
        return self._state is not None and self._state.order == order.id

    def _is_given_up(self, begin: float, grace: float) -> bool:
        now = time.monotonic()
        if self._heard > -math.inf:
            return now >= begin + grace + MARGIN or now - max(self._heard, begin) >= self._silence
        if self._said is None and self._progress is None:
            return True
        quiet = now - max(self._moved, begin) >= PRESENCE
        return quiet or now >= begin + max(grace, PRESENCE)


def _ran(state: TrainerState) -> bool:
    return state.state == "running" or (state.state == "exited" and state.exit_code is not None)


def _exit_of(state: TrainerState) -> Exit:
    if state.exit_code is None:  # stopped before it was ever started
        return Exit(143, True, time.time(), seen=False)
    return Exit(state.exit_code, state.requested, time.time())
