"""Where each object of a task lies in the store: the one place that spells a key."""

import re
from dataclasses import dataclass

_ATTEMPT = re.compile(r"attempt-([0-9]{4,12})")
MOST_ATTEMPTS = 10**12 - 1


def attempt_name(number: int) -> str:
    """`attempt-0007`.

    >>> attempt_name(7)
    'attempt-0007'
    """
    return f"attempt-{number:04d}"


def attempt_number(name: str) -> int | None:
    """The number in `attempt-0007`, or None for any other spelling (also a needlessly padded one)."""
    found = _ATTEMPT.fullmatch(name)
    if not found or attempt_name(int(found[1])) != name:
        return None
    return int(found[1])


def scratch(token: str) -> str:
    """The prefix below which `syncd doctor` tries a store. No task has such a name: none begins with `-`.

    >>> scratch("4f1a")
    '-syncd-doctor/4f1a/'
    """
    return f"-syncd-doctor/{token}/"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one task. `task` is one path component; every key begins with it and a slash."""

    task: str

    @property
    def top(self) -> str:
        """Prefix of everything the task owns. Ends in `/`: without it `run-1` would list `run-10` too."""
        return f"{self.task}/"

    @property
    def done(self) -> str:
        return f"{self.task}/done.json"

    def attempt(self, attempt: int) -> str:
        """Prefix of one attempt, with its slash."""
        return f"{self.task}/{attempt_name(attempt)}/"

    def attempt_of(self, key: str) -> int | None:
        """The attempt that a key of the task belongs to; None for those of no attempt.

        >>> Keys("run").attempt_of("run/attempt-0007/checkpoint-1/model.bin")
        7
        """
        head, slash, _ = key.removeprefix(self.top).partition("/")
        return attempt_number(head) if slash else None

    def claim(self, attempt: int) -> str:
        return self.attempt(attempt) + "attempt.json"

    def record(self, attempt: int) -> str:
        return self.attempt(attempt) + "resume.json"

    def closed(self, attempt: int) -> str:
        return self.attempt(attempt) + "closed.json"

    def manifests(self, attempt: int) -> str:
        """Prefix of an attempt's manifests, with its slash."""
        return self.attempt(attempt) + "manifests/"

    def manifest(self, attempt: int, commit: str) -> str:
        return self.manifests(attempt) + commit + ".json"

    def files(self, attempt: int, commit: str) -> str:
        """Prefix of a checkpoint's files, with its slash."""
        return f"{self.attempt(attempt)}{commit}/"

    def file(self, attempt: int, commit: str, path: str) -> str:
        return self.files(attempt, commit) + path

    def kept_prefix(self, attempt: int) -> str:
        return self.attempt(attempt) + "kept/"

    def events(self, attempt: int) -> str:
        return self.attempt(attempt) + "events/"

    def logs(self, attempt: int) -> str:
        return self.attempt(attempt) + "logs/"

    def extra(self, attempt: int) -> str:
        return self.attempt(attempt) + "extra/"

    def heartbeat(self, attempt: int) -> str:
        return self.attempt(attempt) + "heartbeat.json"

    def commit_of(self, attempt: int, manifest_key: str) -> str | None:
        """The commit name in a manifest's key, or None where the key is none."""
        prefix = self.manifests(attempt)
        if not manifest_key.startswith(prefix) or not manifest_key.endswith(".json"):
            return None
        return manifest_key[len(prefix) : -len(".json")] or None
