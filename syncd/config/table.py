"""The settings table: the core's fields, joined by those of the plugins."""

import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, cast, get_args, get_origin

from pydantic import AliasChoices, BaseModel, Field, PrivateAttr, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from syncd.config.values import (
    Bytes,
    Globs,
    Lower,
    Name,
    Period,
    Rate,
    Reserve,
    Root,
    Seconds,
    Shown,
    Url,
    clean_name,
    default_task,
)
from syncd.errors import ConfigError

PREFIX = "SYNCD_"
MASK = "********"
_TAKEN = re.compile(r"config|port(_.*)?|service_.*|.*_service_(host|port.*)|test_.*")
"""Names that a setting cannot have: SYNCD_CONFIG, the tests' own, and what Kubernetes sets for a Service `syncd`."""


def default_store(environ: Mapping[str, str] = os.environ) -> str:
    """The embedded store's URL, in the user's data directory (XDG)."""
    home = environ.get("XDG_DATA_HOME", "")
    data = Path(home) if home.startswith("/") else Path.home() / ".local" / "share"
    return (data / "syncd").as_uri()


class Settings(BaseSettings):
    """The settings of one process: made by `load`, or in a test by keyword. The class itself reads no environment."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        loc_by_alias=False,
        validate_by_alias=True,
        validate_by_name=True,
    )
    plugins: ClassVar[Mapping[str, str]] = {}
    """Whose a field is, for those that are not the core's."""
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    store: Url = Field(
        default_factory=default_store,
        description="where checkpoints go: s3://bucket/prefix, gs://, az://, file:///dir; default: in the user's data directory",
    )
    root: Root = Field(default=Path(), description="directory that the trainer writes into; it is watched")
    task: Name = Field(
        default_factory=lambda known: default_task(known["root"]),
        description="the training run's name in the store, one for each run; default: from the root's path",
    )
    project: Name = Field(default="default", description="name that several tasks share in MQTT topics")
    node: Name = Field(
        default_factory=lambda: clean_name(socket.gethostname()),
        description="this machine's name; default: its host name",
    )
    group: str | None = Field(
        default=None,
        min_length=1,
        description="a note in the claim, for people: job id and restart count; each node still has a task of its own",
    )
    checkpoints: Globs = Field(
        default=("*",), min_length=1, description="checkpoints' names under the root: patterns, with commas"
    )
    extra: Globs = Field(
        default=(), description="loose files to keep too: patterns, with commas, such as runs/**,*.log"
    )
    keep: int = Field(default=3, ge=2, description="committed checkpoints that the store keeps")
    backlog: int = Field(
        default=1, ge=1, description="checkpoints that may wait beside the one under way; older ones are skipped"
    )
    disk_reserve: Reserve = Field(
        default="auto",
        description="free bytes on the root's disk, such as 20GiB, below which pins of rotated checkpoints are let go;"
        " auto: what the last save took; 0: none",
    )
    grace: Seconds = Field(default=30.0, description="seconds from SIGTERM until everything must be over")
    stall_after: Seconds = Field(
        default=3600.0, description="seconds without progress until the trainer is restarted; 0: never"
    )
    max_restarts: int = Field(default=3, ge=0, description="trainer restarts without a new checkpoint before exit 76")
    concurrency: int = Field(default=4, ge=1, le=256, description="transfers at the same time")
    memory_budget: Bytes = Field(
        default=64 << 20, ge=1 << 20, description="bytes of memory for transfers, such as 64MiB"
    )
    upload_limit: Rate = Field(
        default=0,
        description="bytes per second of checkpoints' uploads, such as 10MB or 20Mbit, lifted in the drain; 0: no limit;"
        " auto: spread over half of the time between saves",
    )
    digest: Annotated[Literal["crc64nvme", "sha256", "blake3"], Lower] = Field(
        default="crc64nvme",
        description="sums of checkpoints' files; sha256 or blake3 beside them to see tampering too, which reads files twice",
    )
    scan_interval: Period = Field(
        default=10.0, description="seconds between scans of the root; file events only hurry one"
    )
    quiet: Seconds = Field(default=10.0, description="seconds that a checkpoint without a marker must be unchanged")
    watch_events: bool = Field(default=True, description="hurry scans by file events; turn off on network file systems")
    heartbeat: Period = Field(default=30.0, description="seconds between heartbeats")
    single_writer: bool = Field(
        default=False,
        description="take the risk of a store without create-only writes: two nodes may then own one task",
    )
    log_format: Annotated[Literal["auto", "text", "json"], Lower] = Field(
        default="auto", description="form of log lines; auto: text on a terminal, else JSON"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Lower] = Field(
        default="info", description="least important log lines that are shown"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *args: PydanticBaseSettingsSource,
        **kwargs: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed: `load` asks the other sources itself, to know and to tell where a value came from."""
        return (init_settings,)

    def origin(self, name: str) -> str:
        """Where a value comes from: `flag --keep`, `environment SYNCD_KEEP`, `.env line 3`, `syncd.toml`, `default`."""
        return self._origins.get(name, "argument" if name in self.model_fields_set else "default")


@dataclass(frozen=True, slots=True)
class Knob:
    """One line of the table, as flags, help and listings need it.

    `env`: environment names, ours first. `default`: as text, None for none and for those that the help explains.
    `plugin`: whose it is, None for the core. `secret`: never shown. `masked`: shows itself without its secret part.
    """

    name: str
    env: tuple[str, ...]
    help: str
    metavar: str
    default: str | None
    plugin: str | None
    is_flag: bool
    secret: bool
    masked: bool
    text: Callable[[Any], str]

    @property
    def flag(self) -> str | None:
        """`--upload-limit`; None for a secret, which the list of processes would show to everybody."""
        return None if self.secret else "--" + self.name.replace("_", "-")

    def show(self, value: object) -> str | None:
        """A value as people write it; None for none."""
        if value is None:
            return None
        if self.secret:
            return MASK
        return str(int(value)) if isinstance(value, bool) else self.text(value)

    def plain(self, value: object) -> object:
        """A value for JSON; secrets masked."""
        if isinstance(value, int | float) and not self.secret:
            return value
        return list(value) if isinstance(value, tuple) else self.show(value)


def knobs(table: type[Settings]) -> list[Knob]:
    """The whole table: the core's settings, then each plugin's."""
    others = sorted(table.plugins, key=table.plugins.__getitem__)
    return [_knob(table, name) for name in (*Settings.model_fields, *others)]


def _knob(table: type[Settings], name: str) -> Knob:
    info = table.model_fields[name]
    kinds = _kinds(info.annotation)
    plain = Shown(_metavar(kinds), "{:g}".format if float in kinds else str)
    shown = next((mark for mark in info.metadata if isinstance(mark, Shown)), plain)
    hidden = [kind for kind in kinds if hasattr(kind, "get_secret_value")]
    secret = any(kind.__module__.startswith("pydantic") for kind in hidden)
    return Knob(
        name=name,
        env=tuple(dict.fromkeys((PREFIX + name.upper(), *_aliases(info)))),
        help=info.description or "",
        metavar=shown.metavar,
        default=_default(info, shown),
        plugin=table.plugins.get(name),
        is_flag=bool in kinds,
        secret=secret,
        masked=bool(hidden) and not secret,
        text=shown.text,
    )


def _default(info: FieldInfo, shown: Shown) -> str | None:
    if info.default_factory or info.default in (None, ()) or info.is_required():
        return None
    return str(int(info.default)) if isinstance(info.default, bool) else shown.text(info.default)


def _kinds(annotation: Any) -> list[Any]:
    """The types that an annotation is made of: `Annotated[X, …] | None` → X."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for arg in get_args(annotation) for kind in _kinds(arg)]
    return [] if annotation is NoneType else [annotation]


def _metavar(kinds: Sequence[Any]) -> str:
    for kind in kinds:
        if get_origin(kind) is Literal:
            return "|".join(map(str, get_args(kind)))
    names = {int: "N", float: "NUMBER", Path: "FILE"}
    return next((text for kind, text in names.items() if kind in kinds), "TEXT")


def _aliases(info: FieldInfo) -> list[str]:
    alias = info.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [choice for choice in choices if isinstance(choice, str) and choice == choice.upper()]


def make_table(models: Sequence[tuple[str, type[BaseModel]]]) -> type[Settings]:
    """The table with the fields of `(plugin, model)` joined to it, and a `…_file` form of each secret.

    Raises `ConfigError` naming the plugin for what is no model, and for a name that is taken.
    """
    plugins: dict[str, str] = {}
    files: dict[str, Any] = {}
    for plugin, model in models:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise ConfigError(f"plugin {plugin}: settings() must return a pydantic model class, not {model!r}")
        for name, info in model.model_fields.items():
            whose = "syncd" if name in Settings.model_fields else plugins.get(name)
            if whose or _TAKEN.fullmatch(name) or hasattr(Settings, name):
                raise ConfigError(
                    f"plugin {plugin}: the setting {name!r} is taken by {whose or 'syncd'}; it needs another name"
                )
            plugins[name] = plugin
            if any(hasattr(kind, "get_secret_value") for kind in _kinds(info.annotation)):
                files[f"{name}_file"] = _file_form(name, info)
                plugins[f"{name}_file"] = plugin
    # Settings comes last: of several bases' configurations pydantic lets the last win.
    bases: tuple[type[Any], ...] = (*(model for _, model in models), Settings)
    table = cast("type[Settings]", create_model("Settings", __base__=bases, **files))
    table.plugins = plugins
    return table


def _file_form(name: str, info: FieldInfo) -> tuple[Any, FieldInfo]:
    aliases = [f"{alias}_FILE" for alias in _aliases(info)]
    field = Field(
        default=None,
        description=f"file that holds {name}",
        validation_alias=AliasChoices(f"{name}_file", *aliases),
    )
    return (Path | None, cast(FieldInfo, field))
