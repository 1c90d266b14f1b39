"""What a plugin can do, in the order of a checkpoint's life.

Each docstring ends with: when it is called · whether it may block · observer (a failure is logged and counted) or gate
(a failure stops the command) · how often. A hook may be a plain function or `async`. A plain one must return at once:
the daemon's event loop waits for it. An implementation takes the argument `event`, or none.
"""

from __future__ import annotations  # types for the checker only: a plugin's import must stay cheap

from typing import TYPE_CHECKING

from pluggy import HookspecMarker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from pydantic import BaseModel

    from syncd.hooks.events import (
        Attach,
        CheckpointCommitted,
        CheckpointSeen,
        EventRecord,
        Heartbeat,
        Restored,
        StoreRequest,
        TaskDone,
    )
    from syncd.local.completion import Rule
    from syncd.store import Store

hookspec = HookspecMarker("syncd")


# ---- before the start


@hookspec
def settings() -> type[BaseModel] | None:
    """A model whose fields join the settings table: `SYNCD_<FIELD>`, a flag and a key in syncd.toml for each.

    Begin the fields with the plugin's name. A field's `validation_alias` gives further environment names. A
    `SecretStr` field gets a `…_file` form, and no flag that would show it in the list of processes.

    Before any command that has settings · no · gate · once.
    """


@hookspec
def commands() -> Mapping[str, tuple[str, str]] | None:
    """Further verbs: name → (`module:attribute` of a click command, one line of help); imported when called.

    At each start of the command line · no · gate · once.
    """


@hookspec
def open_store(event: StoreRequest) -> Store | Awaitable[Store | None] | None:
    """The store for a URL of this plugin's scheme, checked and ready; None for any other scheme.

    Plugins are asked one after another; the first store is taken. Raises `ConfigError` for what the operator must
    mend, `Transient` for a server that is away.

    When a command needs the store · async may · gate · once, again after `Transient`.
    """


@hookspec
def completion_rules() -> Sequence[Rule] | None:
    """Rules that tell when a directory of some trainer's making is a finished checkpoint.

    Before the first scan · no · gate · once.
    """


# ---- an attempt and its checkpoints


@hookspec
def attach(event: Attach) -> AbstractAsyncContextManager[None] | None:
    """A context that is entered now and left when the daemon stops: the place for long-lived connections.

    It runs in a task of its own. Entering and leaving have a few seconds each; then the daemon goes on without.

    Once an attempt is claimed · entering and leaving may, for a few seconds · observer · once an attempt.
    """


@hookspec
def restored(event: Restored) -> Awaitable[None] | None:
    """The resume point lies on the disk, or it is known that there is none; the trainer starts next.

    Before the trainer's first start · async may, for a few seconds · observer · once an attempt.
    """


@hookspec
def checkpoint_seen(event: CheckpointSeen) -> Awaitable[None] | None:
    """A complete checkpoint was found and pinned. It may still be superseded before it is pushed.

    After the pin · async may, for a few seconds · observer · at least once for each.
    """


@hookspec
def checkpoint_committed(event: CheckpointCommitted) -> Awaitable[None] | None:
    """A checkpoint is durable: its manifest is in the store.

    After the commit · async may, for a few seconds · observer · at most once: not if the node dies in between.
    """


# ---- what the world hears


@hookspec
def heartbeat(event: Heartbeat) -> Awaitable[None] | None:
    """The daemon is alive, and this is what it knows.

    Every SYNCD_HEARTBEAT seconds and at each change of state · async may, for a few seconds · observer · latest wins.
    """


@hookspec
def event(event: EventRecord) -> Awaitable[None] | None:
    """Something happened: every line of events.jsonl.

    After the line was written · async may, for a few seconds · observer · at most once.
    """


# ---- the end


@hookspec
def task_done(event: TaskDone) -> Awaitable[None] | None:
    """The task has its result: done.json is in the store, by this node or by another.

    Before the daemon ends · async may, for a few seconds · observer · at least once a task.
    """
