"""For the tests of syncd and of its plugins: the suite that every store passes, and stores that misbehave on purpose."""

from syncd.testing.node import Node, verify
from syncd.testing.stores import CrashingStore, FlakyStore, NodeDied, SlowStore
from syncd.testing.suite import StoreSuite, open_gate, source_of

__all__ = [
    "CrashingStore",
    "FlakyStore",
    "Node",
    "NodeDied",
    "SlowStore",
    "StoreSuite",
    "open_gate",
    "source_of",
    "verify",
]
