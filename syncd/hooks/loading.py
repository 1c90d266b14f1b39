"""Find the plugins, check them, and ask them what is needed before the daemon runs."""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

from syncd import __version__
from syncd.errors import ConfigError, SyncdError
from syncd.hooks import hookspecs

if TYPE_CHECKING:
    from syncd.config import Settings
    from syncd.store import Store

GROUP = "syncd"
"""The entry-point group that plugins are found by."""
_EXTRAS = {"s3": "syncd[s3]"}
"""What brings a scheme that is not here, where we know it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a plugin comes from: the distribution's name and version."""

    distribution: str
    version: str


class Plugins(pluggy.PluginManager):
    """The plugins of one process: passed to whoever calls hooks, never a global.

    `failures` counts what observers did wrong, by (plugin, hook). `problems` has a line for each plugin that is not
    here because it could not be loaded.
    """

    def __init__(self) -> None:
        super().__init__("syncd")
        self.add_hookspecs(hookspecs)
        self.origins: dict[str, Origin] = {}
        self.failures: Counter[tuple[str, str]] = Counter()
        self.problems: list[str] = []

    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """In the order in which they are called: pluggy's own (last registered first, `tryfirst`, `trylast`)."""
        return list(reversed(getattr(self.hook, hook).get_hookimpls()))

    def ask(self, hook: str) -> list[tuple[str, Any]]:
        """Call a plain hook without arguments: (plugin, answer) for each that gave one, in the order of loading.

        Raises `ConfigError` naming the plugin that fails.
        """
        answers = []
        for impl in getattr(self.hook, hook).get_hookimpls():
            try:
                answer = impl.function()
            except SyncdError:
                raise
            except Exception as error:
                raise ConfigError(f"{self.describe(impl.plugin_name)}: {hook}() failed: {told(error)}") from error
            if answer is not None:
                answers.append((impl.plugin_name, answer))
        return answers

    def describe(self, name: str) -> str:
        """`plugin mqtt (syncd 0.1.0)`."""
        origin = self.origins.get(name)
        return f"plugin {name} ({origin.distribution} {origin.version})" if origin else f"plugin {name}"

    def add(self, name: str, plugin: object, origin: Origin) -> None:
        """Register one plugin; a class is made an object first, so that its state belongs to this manager.

        Raises `ConfigError` for a hook that does not exist or has other arguments, for a wrapper, for a taken name.
        """
        self.origins.setdefault(name, origin)
        if self.has_plugin(name):
            raise ConfigError(
                f"two plugins are called {name!r}: {origin.distribution} and {self.describe(name)}; uninstall one"
            )
        self.register(plugin() if inspect.isclass(plugin) else plugin, name)
        self._check(name)

    def _check(self, name: str) -> None:
        for caller in self.get_hookcallers(self.get_plugin(name)) or ():
            impl = next(impl for impl in caller.get_hookimpls() if impl.plugin_name == name)
            if not caller.has_spec() and not impl.optionalhook:
                raise ConfigError(f"there is no hook {caller.name!r}{nearest(caller.name, hook_names())}")
            if impl.wrapper or impl.hookwrapper:
                raise ConfigError(
                    f"{caller.name} is a hook wrapper: plugins observe and provide, they do not wrap others"
                )


def load(*, extra: Mapping[str, object] | None = None, entry_points: bool = True, strict: bool = True) -> Plugins:
    """The manager with the core's own plugins (`extra`: name → object or class) and those of the entry points.

    Raises one `ConfigError` with a line for each plugin that cannot be used; not `strict`: these are left out, their
    lines are in `problems`.
    """
    plugins = Plugins()
    for name, plugin in (extra or {}).items():
        _add(plugins, name, plugin, Origin("syncd", __version__))
    for point in importlib.metadata.entry_points(group=GROUP) if entry_points else ():
        _add_entry_point(plugins, point)
    if plugins.problems and strict:
        raise ConfigError("\n".join(plugins.problems))
    plugins.check_pending()
    return plugins


def hook_names() -> list[str]:
    """All hooks, in the order of the specification."""
    return [name for name, value in vars(hookspecs).items() if hasattr(value, "syncd_spec")]


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'heartbeat'?`, or nothing when nothing is near."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def told(error: BaseException) -> str:
    """An unexpected error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def open_store(plugins: Plugins, settings: Settings) -> Store:
    """The store that SYNCD_STORE names.

    Raises `ConfigError` for a scheme that no plugin knows and for whatever a plugin does wrong; its own errors
    (`Denied`, `Transient`, `ConfigError`) pass.
    """
    from syncd.hooks.emit import first
    from syncd.hooks.events import StoreRequest
    from syncd.store import Store

    url = settings.store
    try:
        found = await first(plugins, "open_store", StoreRequest(url, settings))
    except SyncdError:
        raise
    except Exception as error:
        raise ConfigError(f"SYNCD_STORE={url} cannot be opened: {told(error)}") from error
    if found and isinstance(found[1], Store):
        return found[1]
    if found:
        kind = type(found[1]).__name__
        raise ConfigError(
            f"SYNCD_STORE={url}: {plugins.describe(found[0])} gave a {kind}, not a store; mend or uninstall it"
        )
    scheme = url.partition(":")[0].lower()
    now = f"pip install '{_EXTRAS[scheme]}'" if scheme in _EXTRAS else "install the plugin that brings it"
    raise ConfigError(
        f"SYNCD_STORE={url}: no plugin opens {scheme}:// stores; {now} ('syncd plugins' lists what is here)"
    )


def _add_entry_point(plugins: Plugins, point: importlib.metadata.EntryPoint) -> None:
    dist = point.dist
    origin = Origin(dist.name, dist.version) if dist else Origin("unknown distribution", "?")
    try:
        plugin = point.load()
    except Exception as error:
        _note(plugins, point.name, origin, told(error))
    else:
        _add(plugins, point.name, plugin, origin)


def _add(plugins: Plugins, name: str, plugin: object, origin: Origin) -> None:
    try:
        plugins.add(name, plugin, origin)
    except Exception as error:
        _note(plugins, name, origin, str(error) if isinstance(error, ConfigError) else told(error))
        if plugins.has_plugin(name) and plugins.origins.get(name) == origin:
            plugins.unregister(name=name)


def _note(plugins: Plugins, name: str, origin: Origin, why: str) -> None:
    plugins.problems.append(
        f"plugin {name} ({origin.distribution} {origin.version}) cannot be loaded: {why}; "
        f"repair it, or: pip uninstall {origin.distribution}"
    )
