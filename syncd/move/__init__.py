"""Carrying out plans against the store: claim, restore, push, retention, verify."""
