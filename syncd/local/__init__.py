"""The disk: watching, scanning, completion, pins, staging, safe opening of names."""
