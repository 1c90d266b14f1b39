"""What there is to know at a glance: the heartbeat's body and `.syncd/status.json`, from one snapshot."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from syncd.keeper import Keeper
from syncd.local.files import read_small
from syncd.model.heartbeat import HeartbeatBody
from syncd.model.local import Beat, parse_beat
from syncd.move.budget import Budget
from syncd.store.wrap import Health


@dataclass
class Board:
    """The daemon's own view of itself, written by its tasks and read by everything that shows it."""

    state: str = "starting"
    since: float = 0.0
    restarts: int = 0
    durable_at: float | None = None
    beat: Beat = field(default_factory=Beat)
    seq: int = 0

    def enter(self, state: str, now: float) -> None:
        """Change the state; `now` in seconds since the epoch."""
        self.state, self.since = state, now


def read_beat(root: Path) -> Beat | None:
    """The trainer's progress file, None where there is none or it says nothing. Blocks (a small read)."""
    try:
        data = read_small(root / "progress.json", 64 << 10)
    except OSError:
        return None
    return parse_beat(data) if data else None


@dataclass
class Reporter:
    """Builds what is shown."""

    board: Board
    keeper: Keeper
    budget: Budget
    health: Health
    session: str
    interval: float
    way: Callable[[], str | None]
    now: Callable[[], float] = time.time

    def heartbeat(self) -> HeartbeatBody | None:
        """The next heartbeat; None before there is an attempt."""
        keeper, board = self.keeper, self.board
        if keeper.owner is None:
            return None
        board.seq += 1
        waiting = keeper.root.waiting + ([keeper.pushing] if keeper.pushing else [])
        durable = keeper.newest.manifest if keeper.newest else None
        return HeartbeatBody(
            task=keeper.keys.task, attempt=keeper.owner.attempt, node=keeper.node, session=self.session, seq=board.seq,
            time=round(self.now(), 3), interval=self.interval, state=board.state,
            step=board.beat.step, total=board.beat.total, loss=board.beat.loss, phase=board.beat.phase,
            durable=durable.name if durable else None, durable_step=durable.step if durable else None,
            durable_at=board.durable_at, waiting=len(waiting), waiting_bytes=sum(pin.bytes for pin in waiting),
            restarts=board.restarts, store_error=self.health.error,
        )  # fmt: skip

    def status(self) -> dict[str, object]:
        """`.syncd/status.json`: for the trainer's contract file and for `syncd status`. Version 1."""
        keeper, board = self.keeper, self.board
        durable = keeper.newest.manifest if keeper.newest else None
        usage = psutil.disk_usage(str(keeper.root.path))
        pushing = keeper.pushing
        rate = self.budget.measured_rate
        left = sum(pin.bytes for pin in keeper.root.waiting) + (pushing.bytes if pushing else 0)
        return {
            "version": 1,
            "time": round(self.now(), 3),
            "state": board.state,
            "since": round(board.since, 3),
            "task": keeper.keys.task,
            "attempt": keeper.owner.attempt if keeper.owner else None,
            "node": keeper.node,
            "store": keeper.store_url,
            "store_error": self.health.error,
            "step": board.beat.step,
            "total": board.beat.total,
            "phase": board.beat.phase,
            "loss": board.beat.loss,
            "durable": durable.name if durable else None,
            "durable_step": durable.step if durable else None,
            "durable_at": board.durable_at,
            "uploading": pushing.name if pushing else None,
            "waiting": [pin.name for pin in keeper.root.waiting],
            "backlog_bytes": left,
            "upload_bytes_per_second": rate,
            "transfers_at_once": self.budget.at_once,
            "upload_limit": self.budget.rate or None,
            "store_path": self.way(),
            "seconds_to_durable": round(left / rate, 1) if rate and left else None,
            "disk_free_bytes": usage.free,
            "memory_free_bytes": psutil.virtual_memory().available,
            "daemon_rss_bytes": psutil.Process().memory_info().rss,
            "restarts": board.restarts,
            "retries": self.health.retries,
        }
