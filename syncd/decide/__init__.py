"""Decisions: pure functions over values. No I/O and no clock; time is an argument, steps are the answer."""
