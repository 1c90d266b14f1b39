"""The command line: its verbs, each in a module of its own that is imported when it is called."""

import importlib
from collections.abc import Mapping

import click

from syncd.errors import ConfigError
from syncd.hooks.loading import Plugins, nearest, told

VERBS: Mapping[str, tuple[str, str]] = {
    "run": ("syncd.cli.run:command", "Restore, start a trainer, push its checkpoints, restart it when it hangs."),
    "sidecar": ("syncd.cli.sidecar:command", "The same for a trainer in another container."),
    "push": ("syncd.cli.push:command", "Commit one finished checkpoint by hand."),
    "restore": ("syncd.cli.restore:command", "Fetch the newest good checkpoint, or the one that is named."),
    "status": ("syncd.cli.status:command", "What the task's attempt is doing, and what is durable."),
    "ls": ("syncd.cli.ls:command", "The committed checkpoints of a task."),
    "verify": ("syncd.cli.verify:command", "Check that everything committed is stored whole."),
    "doctor": (
        "syncd.cli.doctor:command",
        "What the store, the disk and the link can do, and what will be done without.",
    ),
    "reset": ("syncd.cli.reset:command", "Give a task up: the next start is from zero."),
    "gc": ("syncd.cli.gc:command", "Delete from the store what no line needs."),
    "chaos": (
        "syncd.cli.chaos:command",
        "Rehearse on a scratch task: kills and faults, and a report of what was lost.",
    ),
    "config": ("syncd.cli.config:command", "All settings: value, and where it comes from."),
    "plugins": ("syncd.cli.plugins:command", "The plugins that are here, and the hooks they implement."),
}
"""name → (`module:attribute` of the click command, one line of help), in the order of the help."""


class App:
    """What every command gets as its context's object.

    `debug`: unexpected errors are shown with their traceback. `secrets`: texts that no message may contain.
    """

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self.debug = False
        self.secrets: tuple[str, ...] = ()

    def verbs(self) -> dict[str, tuple[str, str]]:
        """The core's verbs, then the plugins'. Raises `ConfigError` for a name that is taken."""
        verbs = dict(VERBS)
        for plugin, more in self.plugins.ask("commands"):
            for name in more:
                if name in verbs:
                    raise ConfigError(
                        f"{self.plugins.describe(plugin)}: there is a command {name!r} already; uninstall one"
                    )
            verbs |= more
        return verbs

    def redact(self, text: str) -> str:
        """`text` without secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "********")
        return text


class Group(click.Group):
    """`syncd`: looks its verbs up in the table and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_app(ctx).verbs())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _app(ctx).verbs().get(cmd_name)
        if found is None:
            return None
        module, _, attribute = found[0].partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except Exception as error:
            if cmd_name in VERBS:
                raise
            raise ConfigError(f"the command {cmd_name!r} of a plugin cannot be loaded: {told(error)}") from error
        assert isinstance(command, click.Command)
        command.name = cmd_name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            ctx.fail(f"there is no command {name!r}{nearest(name, known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table as it stands: importing every verb for its help would cost a second."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _app(ctx).verbs().items()])
        if problems := _app(ctx).plugins.problems:
            with formatter.section("Plugins that cannot be loaded"):
                for line in problems:
                    formatter.write_text(line)


def _app(ctx: click.Context) -> App:
    app = ctx.find_object(App)
    assert app is not None
    return app
