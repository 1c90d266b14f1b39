"""The composition root: plugins and stores, then the command; and how every error becomes a line and an exit code."""

import os
import select
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from syncd import __version__, hookimpl
from syncd.cli import App, Group
from syncd.errors import ConfigError, SyncdError, UsageError
from syncd.hooks.loading import load, told

if TYPE_CHECKING:
    from syncd.hooks import StoreRequest
    from syncd.store import Store

INTERNAL = 70
"""Exit code of an error that nobody foresaw (EX_SOFTWARE)."""
INTERRUPTED = 130


class EmbeddedStores:
    """The plugin of the stores that need nothing else: `file:///directory`, and `memory:` for tests."""

    @hookimpl
    def open_store(self, event: "StoreRequest") -> "Store | None":
        scheme = event.url.partition(":")[0].lower()
        if scheme == "memory":
            from syncd.store.memory import MemoryStore

            return MemoryStore()
        if scheme != "file":
            return None
        from syncd.config import default_store
        from syncd.store.file import FileStore

        place, root = file_path(event.url), event.settings.root
        if place.resolve() == root:
            raise ConfigError(
                f"SYNCD_STORE={event.url} is SYNCD_ROOT itself: its objects would be taken for checkpoints"
            )
        return FileStore.open(place, create=event.url == default_store())


def file_path(url: str) -> Path:
    """The directory of a `file:` URL. Raises `ConfigError` for one that has a host, or is not absolute."""
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise ConfigError(f"SYNCD_STORE={url}: file:///directory is expected: three slashes, %23 for #, %3F for ?")
    return Path(unquote(parts.path))


@click.group(
    cls=Group,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 120,
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
    epilog="Exit codes: 0 done · 64 usage · 70 internal error · 75 go on elsewhere · 76 no progress · 77 superseded · "
    "78 configuration.",
)
@click.version_option(__version__, prog_name="syncd")
def syncd() -> None:
    """Get a trainer's checkpoints off machines that vanish, and back onto the next one.

    SYNCD_STORE says where they go; 'syncd config' shows all settings.
    """


CORE: Mapping[str, object] = {"embedded": EmbeddedStores}
"""The core's own plugins."""


def main(argv: Sequence[str] | None = None, *, beside: Mapping[str, object] | None = None) -> int:
    """Run a command line; the exit code. No exception leaves but those that end the interpreter.

    `beside`: plugins of another composition, beside the core's and those that are installed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    app = None
    try:
        app = App(load(extra={**CORE, **(beside or {})}, strict=False))
        app.debug = os.environ.get("SYNCD_LOG_LEVEL", "").lower() == "debug"
        return _run(app, arguments)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except Exception as error:
        return _report(error, app, _wants_json(arguments))


def _run(app: App, arguments: list[str]) -> int:
    """As click's own `main`, which hides broken pipes of any kind and turns errors into its exit codes."""
    if instruction := os.environ.get("_SYNCD_COMPLETE"):
        from click.shell_completion import shell_complete

        return shell_complete(syncd, {"obj": app}, "syncd", "_SYNCD_COMPLETE", instruction)
    try:
        with syncd.make_context("syncd", arguments, obj=app) as ctx:
            result = syncd.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    return result if isinstance(result, int) else 0


def _report(error: Exception, app: App | None, as_json: bool) -> int:
    """Tell people on stderr, programs on stdout; the exit code."""
    if isinstance(error, BrokenPipeError) and _stdout_is_gone():
        return 0
    text, code = _told(error)
    if app:
        text = app.redact(text)
        if app.debug and code == INTERNAL:
            traceback.print_exception(error)
    for line in text.splitlines():
        click.echo(f"syncd: {line}", err=True)
    if as_json:
        from syncd.cli.output import print_json

        print_json({"error": text, "exit_code": code})
    return code


def _told(error: Exception) -> tuple[str, int]:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message(), UsageError.exit_code
    if isinstance(error, click.ClickException):
        where = getattr(error, "ctx", None)
        return f"{error.format_message()} ('{where.command_path if where else 'syncd'} --help')", UsageError.exit_code
    leaves = list(_leaves(error))
    unforeseen = [leaf for leaf in leaves if not isinstance(leaf, SyncdError)]
    if not unforeseen and isinstance(leaves[0], SyncdError):
        return str(leaves[0]), leaves[0].exit_code
    return f"internal error: {told(unforeseen[0])} (run with SYNCD_LOG_LEVEL=debug for the traceback)", INTERNAL


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors themselves, out of the groups that task groups make."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _stdout_is_gone() -> bool:
    """Whether it is our reader who left; stdout then leads nowhere, so that closing it does not fail again."""
    try:
        stdout = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(stdout, 0)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return True


def _wants_json(arguments: list[str]) -> bool:
    """Whether --json was asked for, also where the command line itself is wrong. After `--` it is the trainer's."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return "--json" in arguments[:end]


if __name__ == "__main__":
    sys.exit(main())
