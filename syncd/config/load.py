"""Read the settings from all their places, and report every mistake at once."""

import difflib
import io
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream
from pydantic import ValidationError

from syncd.config.table import MASK, PREFIX, Knob, Settings, knobs
from syncd.errors import ConfigError, UsageError

CONFIG = "SYNCD_CONFIG"
"""Names the file that is read instead of `syncd.toml` in the current directory; the flag is --config."""
MAX_SECRET = 64 << 10
"""Bytes of a `…_file`."""
_IGNORED = re.compile(r"SYNCD_(CONFIG|TEST_.*)")
_KUBERNETES = re.compile(
    r"SYNCD_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes sets in every container for a Service called `syncd` or `syncd-…`."""


@dataclass
class _Found:
    """What the sources gave so far. `values`: field → (value, origin), of the highest source that has it."""

    knobs: Mapping[str, Knob]
    values: dict[str, tuple[object, str]] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    usage: list[str] = field(default_factory=list)

    def add(self, name: str, value: object, origin: str) -> None:
        self.values.setdefault(name, (value, origin))

    def secrets(self) -> set[str]:
        """Texts that no message may contain."""
        found = {str(value) for name, (value, _) in self.values.items() if self.knobs[name].secret}
        return {text for text in found if len(text) > 2}


def load(
    table: type[Settings],
    *,
    flags: Mapping[str, object] | None = None,
    config: Path | None = None,
    environ: MutableMapping[str, str] = os.environ,
    directory: Path | None = None,
    needs_task: bool = True,
) -> Settings:
    """The settings, each with its origin.

    `flags`: field → text. `config`: the file that stands for `directory`/syncd.toml. AWS_* names of .env are put into
    `environ`, where the S3 client looks for them. `needs_task`: on a store that machines share the task must have been
    given its name. Raises one error with a line for each mistake: `UsageError` when
    all are flags', else `ConfigError`.
    """
    found = _Found({line.name: line for line in knobs(table)})
    directory = directory or Path.cwd()
    _read_flags(found, flags or {})
    _read_names(found, environ, lambda name: f"environment {name}")
    dotenv = _read_dotenv(found, directory / ".env")
    for name, value in dotenv.items():
        if name.startswith("AWS_"):
            environ.setdefault(name, value)
    named = config or (Path(environ[CONFIG]) if environ.get(CONFIG) else None)
    _read_toml(found, named or directory / "syncd.toml", required=named is not None)
    _read_secret_files(found)
    if needs_task:
        _see_task(found)
    return _validated(table, found)


def _read_flags(found: _Found, flags: Mapping[str, object]) -> None:
    for name, value in flags.items():
        line = found.knobs[name]
        if line.masked and "@" in str(value):
            found.usage.append(
                f"{line.flag}: everybody can read a password in the list of processes; set {line.env[-1]} instead"
            )
        else:
            found.add(name, value, f"flag {line.flag}")


def _read_names(found: _Found, names: Mapping[str, str], origin: Callable[[str], str]) -> None:
    """Take the settings from names like SYNCD_KEEP. An empty value is none: compose and Kubernetes make them."""
    known = {env: line for line in found.knobs.values() for env in reversed(line.env)}
    for line in found.knobs.values():
        for env in line.env:
            if names.get(env):
                found.add(line.name, names[env], origin(env))
    unknown = [name for name in sorted(names) if name.startswith(PREFIX) and name not in known]
    unknown = [name for name in unknown if not _IGNORED.fullmatch(name)]
    injected = [name for name in unknown if _KUBERNETES.fullmatch(name)]
    for name in unknown:
        if name not in injected:
            found.mistakes.append(f"{origin(name)}: there is no such setting{_nearest(name, known)}")
    if injected:
        more = f" and {len(injected) - 1} more" if len(injected) > 1 else ""
        found.mistakes.append(
            f"{origin(injected[0])}{more}: set by Kubernetes for a Service called syncd…; "
            "put enableServiceLinks: false into the pod's spec, or rename the Service"
        )


def _read_dotenv(found: _Found, path: Path) -> dict[str, str]:
    """All names of .env; those that are settings are taken."""
    text = _read_text(found, path)
    names: dict[str, str] = {}
    lines: dict[str, int] = {}
    for binding in parse_stream(io.StringIO(text or "")):
        if binding.error:
            found.mistakes.append(f"{path} line {binding.original.line}: not a line of the form NAME=value")
        elif binding.key and binding.value is not None:
            names[binding.key] = binding.value
            lines[binding.key] = binding.original.line
    _read_names(found, names, lambda name: f"{path.name} line {lines[name]}, {name}")
    return names


def _read_toml(found: _Found, path: Path, *, required: bool) -> None:
    text = _read_text(found, path, required=required)
    try:
        keys = tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        found.mistakes.append(f"{path}: not TOML: {error}")
        return
    for name, value in keys.items():
        if name in found.knobs:
            found.add(name, value, f"{path.name} {name}")
        else:
            found.mistakes.append(f"{path.name} {name}: there is no such setting{_nearest(name, found.knobs)}")


def _read_text(found: _Found, path: Path, *, required: bool = False) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if required:
            found.mistakes.append(f"{path}: {error.strerror}")
    except OSError as error:
        found.mistakes.append(f"{path}: {error.strerror}")
    except UnicodeDecodeError:
        found.mistakes.append(f"{path}: not UTF-8")
    return None


def _read_secret_files(found: _Found) -> None:
    """Replace each `x_file` that was given by the content that it names, as `x`."""
    for line in found.knobs.values():
        given = found.values.get(f"{line.name}_file")
        if not given or not (line.secret or line.masked):
            continue
        path, origin = Path(str(given[0])), given[1]
        if line.name in found.values:
            found.mistakes.append(f"{origin}: {line.name} is given too, by {found.values[line.name][1]}; take one away")
            continue
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SECRET + 1)
            if len(content) > MAX_SECRET:
                raise ValueError(f"more than {MAX_SECRET} bytes")
            found.add(line.name, content.decode().rstrip("\r\n"), f"{origin}, {path}")
        except OSError as error:
            found.mistakes.append(f"{origin}: {path}: {error.strerror}")
        except ValueError as error:
            why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            found.mistakes.append(f"{origin}: {path}: {why}")


def _see_task(found: _Found) -> None:
    """On a store that machines share, two runs under one name would take each other's place: the name must be given."""
    store = str(found.values.get("store", ("file:", ""))[0]).lower()
    remote = re.match(r"\w[\w+.-]*://[^@]*$", store) and not store.startswith(("file:", "memory:"))
    if remote and "task" not in found.values:
        found.mistakes.append("SYNCD_TASK: a name for this training run is needed: other machines share this store")


def _validated(table: type[Settings], found: _Found) -> Settings:
    try:
        values: dict[str, Any] = {name: value for name, (value, _) in found.values.items()}
        settings = table(**values)
    except ValidationError as error:
        for wrong in error.errors(include_url=False, include_input=False):
            # The default of `task` comes from `root`; where that is wrong, its own mistake is reported.
            if wrong["type"] != "default_factory_not_called":
                _blame(found, str(wrong["loc"][0]) if wrong["loc"] else "", wrong["msg"])
    if found.mistakes or found.usage:
        kind = ConfigError if found.mistakes else UsageError
        raise kind(_redacted("\n".join(found.usage + found.mistakes), found.secrets()))
    settings._origins.update({name: origin for name, (_, origin) in found.values.items()})
    return settings


def _blame(found: _Found, name: str, message: str) -> None:
    """Report what pydantic says of one field."""
    value, origin = found.values.get(name, (None, name))
    text = message.removeprefix("Value error, ")
    if text[1:2].islower():  # not of a name such as MQTT
        text = text[:1].lower() + text[1:]
    what = "" if value is None else f"={_shown(found.knobs[name], value)}"
    flag = origin.startswith("flag ")
    line = f"{origin.removeprefix('flag ')}{what}: {text}"
    (found.usage if flag else found.mistakes).append(line.removeprefix(": "))


def _shown(line: Knob, value: object) -> str:
    """A wrong value for a message: without what may be a password."""
    text = str(value)
    if line.secret:
        return MASK
    if "@" in text:
        scheme, mark, _ = text.partition("://")
        text = f"{scheme + mark if mark else ''}{MASK}@{text.rpartition('@')[2]}"
    return repr(text if len(text) <= 80 else text[:80] + "…")


def _redacted(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _nearest(name: str, known: Iterable[str]) -> str:
    """What was probably meant. Compared without the prefix, that makes any two names look alike."""
    bare = {other.removeprefix(PREFIX).lower(): other for other in known}
    near = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), bare, n=1, cutoff=0.6)
    return f"; did you mean {bare[near[0]]}?" if near else "; 'syncd config --help' lists all"


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Texts that no message may contain, the longest first."""
    values = (getattr(settings, line.name) for line in knobs(type(settings)) if line.secret or line.masked)
    texts = {str(value.get_secret_value()) for value in values if value is not None}
    return tuple(sorted((text for text in texts if len(text) > 2), key=len, reverse=True))


def handed_on(settings: Settings, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a child process that is to have the same settings, wherever ours came from."""
    table = knobs(type(settings))
    names = {env for line in table for env in line.env}
    env = {name: value for name, value in environ.items() if name not in names}
    for line in table:
        value = getattr(settings, line.name)
        from_file = getattr(settings, f"{line.name}_file", None) is not None  # which is handed on itself
        if value is None or from_file or settings.origin(line.name) == "default":
            continue
        secret = getattr(value, "get_secret_value", None)
        text = str(secret()) if secret else str(int(value)) if isinstance(value, bool) else line.text(value)
        if text:
            env[line.env[0]] = text
    return env
