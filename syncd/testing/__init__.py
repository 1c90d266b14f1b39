"""For the tests of syncd and of its plugins: the suite of all stores, and stores and networks that misbehave on purpose."""

from syncd.testing.node import Node, verify
from syncd.testing.proxy import Fault, FaultProxy, first, s3_error
from syncd.testing.stores import CrashingStore, FlakyStore, NodeDied, SlowStore
from syncd.testing.suite import StoreSuite, open_gate, source_of

__all__ = [
    "CrashingStore",
    "Fault",
    "FaultProxy",
    "FlakyStore",
    "Node",
    "NodeDied",
    "SlowStore",
    "StoreSuite",
    "first",
    "open_gate",
    "s3_error",
    "source_of",
    "verify",
]
