"""What plugins may hear and do: the events, the hooks, how they are called and loaded."""

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

__all__ = [
    "Attach",
    "CheckpointCommitted",
    "CheckpointSeen",
    "EventRecord",
    "Heartbeat",
    "Restored",
    "StoreRequest",
    "TaskDone",
]
