"""Secrets that every test has about it, and looking whether one is shown (I10)."""

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from syncd.testing.servers import SECRETS

CANARIES = {name: f"canary{secrets.token_hex(12)}" for name in ("HF_TOKEN", "WANDB_API_KEY", "MY_SERVICE_PASSWORD")}
"""The trainer's own, in the environment of every test and of all that it starts."""
SHOWN = {".log", ".json", ".jsonl", ".txt"}
"""Files that people and machines read; the rest are checkpoints, and what a test itself wrote secrets into."""
LARGEST, MOST = 4 << 20, 2_000


def leaks(texts: Mapping[str, bytes]) -> list[str]:
    """`secret in place`, for each text that holds one: a canary's, or one that a server here was started with."""
    known = {**CANARIES, **{f"secret of server {n}": secret for n, secret in enumerate(SECRETS)}}
    return [
        f"{name} in {where}"
        for where, text in texts.items()
        for name, secret in known.items()
        if secret.encode() in text
    ]


def documents(homes: Iterable[Path]) -> dict[str, bytes]:
    """The readable files below some directories, but for a MinIO's own."""
    found: dict[str, bytes] = {}
    for home in homes:
        for directory, names, files in os.walk(home):
            names[:] = [name for name in names if name != ".minio.sys"]
            for name in files:
                path = Path(directory, name)
                if path.suffix in SHOWN and len(found) < MOST and path.is_file() and path.stat().st_size <= LARGEST:
                    found[str(path.relative_to(home))] = path.read_bytes()
    return found
