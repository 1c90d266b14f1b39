"""Putting the parts together for a command: the opened store with its wrappers, the keeper, the daemon."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from syncd.beside import Pace
from syncd.config import Settings
from syncd.config.values import AUTO
from syncd.daemon import Daemon
from syncd.hooks import events as told
from syncd.hooks.emit import attached, emit
from syncd.hooks.loading import Plugins, open_store
from syncd.keeper import Keeper
from syncd.local.completion import CORE_RULES, Rule
from syncd.local.digest import FAST, new_seal
from syncd.local.root import Root
from syncd.local.tree import OWN
from syncd.model.event import Say, silent
from syncd.model.keys import Keys
from syncd.move.budget import Budget
from syncd.move.loose import OutputLog
from syncd.show.events import EventLog
from syncd.store.wrap import Opening, Retrying
from syncd.trainer_care.child import ChildTrainer
from syncd.trainer_care.modes import Care, RunCare, SidecarCare
from syncd.trainer_care.sidecar import SidecarTrainer

log = logging.getLogger("syncd")
PATIENCE = 30.0
"""Seconds that a command which is not a daemon waits for a store that does not answer."""


@dataclass
class Parts:
    """What every command that touches the store works with."""

    settings: Settings
    plugins: Plugins
    store: Retrying
    keys: Keys
    budget: Budget
    say: Say = silent


@asynccontextmanager
async def opened(settings: Settings, plugins: Plugins, *, patience: float | None = PATIENCE) -> AsyncIterator[Parts]:
    """The parts; the store is opened at its first use.

    `patience`: seconds to wait for a store that does not answer, None: as long as it takes. A call then raises
    `ConfigError` or `Denied` for what the operator must mend, `Transient` when patience is over.
    """
    store = Retrying(Opening(lambda: open_store(plugins, settings)), patience=patience)
    if patience is not None:
        store.health.listeners.append(_say_away)
    try:
        limit = settings.upload_limit
        rate = limit if isinstance(limit, int) else 0  # auto: set before each push
        budget = Budget(settings.concurrency, settings.memory_budget, rate)
        store.health.slow_listeners.append(budget.slow_down)
        yield Parts(settings, plugins, store, Keys(settings.task), budget)
    finally:
        await store.aclose()


def _say_away(error: str | None) -> None:
    if error:
        log.warning("store_away", extra={"fields": {"why": error, "hint": "trying again"}})


def completion_rules(plugins: Plugins) -> Sequence[Rule]:
    """The core's rules and those of plugins."""
    return [*CORE_RULES, *(rule for _, rules in plugins.ask("completion_rules") for rule in rules)]


def new_keeper(parts: Parts, say: Say) -> Keeper:
    """The keeper of the settings' root."""
    settings = parts.settings
    rules = completion_rules(parts.plugins)
    reserve = settings.disk_reserve if isinstance(settings.disk_reserve, int) else 0
    root = Root(settings.root, say, globs=settings.checkpoints, rules=rules, quiet=settings.quiet, reserve=reserve)
    return Keeper(
        store=parts.store,
        store_url=settings.store,
        keys=parts.keys,
        root=root,
        node=settings.node,
        gate=parts.budget,
        download_gate=parts.budget.unpaced,
        say=say,
        keep=settings.keep,
        backlog=settings.backlog,
        group=settings.group,
        single_writer=settings.single_writer,
        seal=_seal(settings.digest),
    )


def _seal(digest: str) -> str | None:
    """The seals' algorithm, None where the fast sums are enough. Raises `ConfigError` for a package that is not here."""
    if digest == FAST:
        return None
    new_seal(digest)
    return digest


def new_daemon(parts: Parts, command: Sequence[str] | None, env: Mapping[str, str]) -> Daemon:
    """The daemon beside a child (`command`) or, without one, beside another container."""
    settings = parts.settings
    own = settings.root / OWN
    events = EventLog(own / "events.jsonl")
    keeper = new_keeper(parts, events)
    keeper.root.place.make()
    daemon: Daemon | None = None

    def on_output(data: bytes) -> None:
        assert daemon
        daemon.beside.on_output(data)

    if command:
        care: Care = RunCare(ChildTrainer(command, settings.root, on_output), settings.root, settings.grace)
    else:
        care = SidecarCare(SidecarTrainer(settings.root), settings.root)
    daemon = Daemon(
        keeper=keeper,
        store=parts.store,
        budget=parts.budget,
        events=events,
        output=OutputLog(own / "logs"),
        care=care,
        pace=Pace(
            grace=settings.grace,
            stall_after=settings.stall_after,
            max_restarts=settings.max_restarts,
            scan_interval=settings.scan_interval,
            heartbeat=settings.heartbeat,
            watch_events=settings.watch_events,
            extra=settings.extra,
            auto_rate=settings.upload_limit == AUTO,
            disk_reserve=settings.disk_reserve if isinstance(settings.disk_reserve, int) else None,
        ),
        env=env,
        attach=lambda attempt: _attach(parts, attempt),
        tell=lambda hook, body: _tell(parts.plugins, hook, body),
    )
    return daemon


def _attach(parts: Parts, attempt: int) -> AbstractAsyncContextManager[None]:
    return attached(parts.plugins, told.Attach(parts.settings, parts.settings.task, attempt, parts.settings.node))


async def _tell(plugins: Plugins, hook: str, body: Mapping[str, object]) -> None:
    """One event or heartbeat to the observers: as itself, and by the hook of its own where it has one."""
    if hook == "heartbeat":
        await emit(plugins, "heartbeat", told.Heartbeat(body))
        return
    fields = {key: value for key, value in body.items() if key not in ("event", "time")}
    name = str(body["event"])
    await emit(plugins, "event", told.EventRecord(name, float(str(body["time"])), fields))
    own = _own_hook(name, fields)
    if own:
        await emit(plugins, *own)


def _own_hook(name: str, f: Mapping[str, object]) -> tuple[str, object] | None:
    def number(key: str) -> int:
        return int(str(f.get(key) or 0))

    step = int(str(f["step"])) if f.get("step") is not None else None
    if name == "attempt_begun":
        checkpoint = str(f["checkpoint"]) if f.get("checkpoint") else None
        return "restored", told.Restored(checkpoint, step, number("bytes"), float(str(f.get("seconds") or 0)))
    if name == "checkpoint_seen":
        return "checkpoint_seen", told.CheckpointSeen(str(f["checkpoint"]), step, number("bytes"), number("files"))
    if name == "checkpoint_committed":
        committed = told.CheckpointCommitted(
            str(f["checkpoint"]), str(f["commit"]), number("number"), step, number("bytes"), float(str(f["seconds"]))
        )
        return "checkpoint_committed", committed
    if name == "task_done":
        return "task_done", told.TaskDone(number("attempt"), str(f["result"]) if f.get("result") else None, step)
    return None
