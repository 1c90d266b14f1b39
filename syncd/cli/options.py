"""What all verbs share: a flag for every setting, --config, --json, and examples in the help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from syncd.cli import App
from syncd.errors import ConfigError

if TYPE_CHECKING:
    from syncd.config import Knob, Settings

_FLAG = "setting_"
"""Before the names of settings among a command's parameters."""


class Size(click.ParamType[int]):
    """Bytes, written as the settings' sizes are."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from syncd.config.values import parse_bytes

        try:
            size = parse_bytes(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        assert isinstance(size, int)
        return size


def verb(*, examples: str, settings: bool = True, needs_task: bool = True) -> Callable[[Callable[..., Any]], Verb]:
    """Make a function the command of its module; it is called with its own options and these:

    `as_json` (--json), `settings` (the loaded `Settings`: one flag for each setting, and --config), and first the
    `App` where the function is decorated with `@click.pass_obj`. It returns its exit code, or None for 0.

    `examples`: one command line each, for the help. `settings=False`: a verb that works without them;
    `needs_task=False`: one that works with no task.
    """

    def decorate(function: Callable[..., Any]) -> Verb:
        command = click.command("command", cls=Verb)(function)
        lines = (line.strip() for line in examples.splitlines())
        command.examples, command.with_settings = [line for line in lines if line], settings
        command.needs_task = needs_task
        return command

    return decorate


class Verb(click.Command):
    """A command with the options that all have. Those of the settings are made when the plugins are known."""

    examples: list[str]
    with_settings = True
    needs_task = True

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = [*super().get_params(ctx), *_common(self.with_settings)]
        taken = {opt for param in own for opt in param.opts}
        options = [option for _, option in self._settings_options(ctx)]
        return own + [option for option in options if not taken.intersection(option.opts)]

    def invoke(self, ctx: click.Context) -> Any:
        if self.with_settings:
            ctx.params["settings"] = self._load(ctx)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, then the settings by their owner."""
        settings = self._settings_options(ctx)
        hidden = {id(option) for _, option in settings}
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = None if id(param) in hidden else param.get_help_record(ctx)
            if record:
                sections["Options"].append(record)
        for knob, option in settings:
            title = f"Settings of the plugin {knob.plugin}" if knob.plugin else "Settings"
            record = option.get_help_record(ctx)
            if record:
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, unwrapped: they are for copying."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")

    def _settings_options(self, ctx: click.Context) -> list[tuple[Knob, click.Option]]:
        if not self.with_settings:
            return []
        key = "syncd.settings_options"
        if key not in ctx.meta:
            from syncd.config import knobs

            ctx.meta[key] = [(knob, _option(knob)) for knob in knobs(_table(ctx)) if knob.flag]
        options: list[tuple[Knob, click.Option]] = ctx.meta[key]
        return options

    def _load(self, ctx: click.Context) -> Settings:
        from syncd.config import load, secrets_of
        from syncd.show import logs

        given = {name: ctx.params.pop(name) for name in list(ctx.params) if name.startswith(_FLAG)}
        flags = {name.removeprefix(_FLAG): value for name, value in given.items() if value is not None}
        file = ctx.params.pop("config_file")
        settings = load(_table(ctx), flags=flags, config=file, needs_task=self.needs_task)
        app: App = ctx.obj
        app.debug = settings.log_level == "debug"
        app.secrets = secrets_of(settings)
        logs.set_up(settings.log_format, settings.log_level)
        return settings


def _table(ctx: click.Context) -> type[Settings]:
    """The settings table with all plugins' fields. Raises `ConfigError` when a plugin is missing from it."""
    from syncd.config import make_table

    app = ctx.find_object(App)
    assert app is not None
    if app.plugins.problems:
        raise ConfigError("\n".join(app.plugins.problems))
    key = "syncd.table"
    if key not in ctx.meta:
        ctx.meta[key] = make_table(app.plugins.ask("settings"))
    table: type[Settings] = ctx.meta[key]
    return table


def _common(with_settings: bool) -> list[click.Option]:
    options = [click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object, for programs.")]
    if with_settings:
        where = "TOML file of settings.  [SYNCD_CONFIG; default: syncd.toml here, if there is one]"
        options.append(
            click.Option(["--config", "config_file"], type=click.Path(path_type=Path), metavar="FILE", help=where)
        )
    return options


def _option(knob: Knob) -> click.Option:
    """A setting's flag. Its text is checked with all other sources' values, so that mistakes are told together."""
    assert knob.flag
    default = f"; default: {knob.default}" if knob.default else ""
    text = f"{knob.help[:1].upper()}{knob.help[1:]}.  [{', '.join(knob.env)}{default}]"
    name = _FLAG + knob.name
    if knob.is_flag:
        return click.Option([f"{knob.flag}/--no-{knob.flag[2:]}", name], default=None, help=text)
    return click.Option([knob.flag, name], default=None, metavar=knob.metavar, help=text)
