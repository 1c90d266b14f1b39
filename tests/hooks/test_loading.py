"""Which plugins are taken, and what is said of the others."""

import importlib.metadata
import inspect
import re
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import pytest

from syncd import hookimpl
from syncd.config import Settings
from syncd.errors import ConfigError, Denied
from syncd.hooks import StoreRequest, events, hookspecs
from syncd.hooks.loading import hook_names, load, open_store
from syncd.store import Store
from syncd.store.memory import MemoryStore


def refused(plugin: object) -> str:
    with pytest.raises(ConfigError) as error:
        load(extra={"demo": plugin}, entry_points=False)
    return str(error.value)


# ---- the specification


def test_the_hooks_stand_in_the_order_of_a_checkpoints_life() -> None:
    assert hook_names() == [
        *("settings", "commands", "open_store", "completion_rules"),
        *("attach", "restored", "checkpoint_seen", "checkpoint_committed"),
        *("heartbeat", "event", "task_done"),
    ]


@pytest.mark.parametrize("name", hook_names())
def test_every_hook_says_when_how_long_what_kind_and_how_often(name: str) -> None:
    spec = getattr(hookspecs, name)
    last = (inspect.getdoc(spec) or "").split("\n\n")[-1]
    assert re.fullmatch(r"[^·]+ · [^·]+ · (observer|gate) · [^·]+\.", " ".join(last.split()))
    assert list(inspect.signature(spec).parameters) in ([], ["event"])


def test_every_event_is_frozen_and_has_a_hook() -> None:
    kinds = [kind for _, kind in inspect.getmembers(events, inspect.isclass) if kind.__module__ == events.__name__]
    named = {str(inspect.signature(getattr(hookspecs, name)).parameters.get("event")) for name in hook_names()}
    for kind in kinds:
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert any(kind.__name__ in text for text in named)


# ---- what is refused


def test_a_misspelt_hook_is_refused_with_the_right_name() -> None:
    class Misspelt:
        @hookimpl
        def hartbeat(self, event: object) -> None: ...

    assert "plugin demo (syncd" in refused(Misspelt)
    assert "no hook 'hartbeat'; did you mean 'heartbeat'?" in refused(Misspelt)


def test_a_hook_of_a_later_version_may_be_marked_optional() -> None:
    class Newer:
        @hookimpl(optionalhook=True)
        def preemption_notice(self, event: object) -> None: ...

    load(extra={"demo": Newer}, entry_points=False)


def test_a_wrapper_is_refused() -> None:
    class New:
        @hookimpl(wrapper=True)
        def heartbeat(self, event: object) -> Generator[None]:
            yield

    class Old:
        @hookimpl(hookwrapper=True)
        def heartbeat(self, event: object) -> Generator[None]:
            yield

    assert "wrapper" in refused(New)
    assert "wrapper" in refused(Old)


def test_an_argument_that_the_hook_has_not_is_refused() -> None:
    class Greedy:
        @hookimpl
        def heartbeat(self, event: object, more: object) -> None: ...

    assert "more" in refused(Greedy)


def test_a_refused_plugin_is_not_called() -> None:
    class Misspelt:
        @hookimpl
        def hartbeat(self) -> None: ...

        @hookimpl
        def commands(self) -> Mapping[str, tuple[str, str]]:
            raise AssertionError

    plugins = load(extra={"demo": Misspelt}, entry_points=False, strict=False)
    assert len(plugins.problems) == 1
    assert plugins.ask("commands") == []


def test_a_plugins_failing_answer_names_it() -> None:
    class Failing:
        @hookimpl
        def commands(self) -> Mapping[str, tuple[str, str]]:
            raise ZeroDivisionError("oh")

    plugins = load(extra={"demo": Failing}, entry_points=False)
    with pytest.raises(ConfigError, match=r"plugin demo \(syncd .*commands\(\) failed: ZeroDivisionError: oh"):
        plugins.ask("commands")


# ---- entry points


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make a distribution with entry points, findable in sys.path."""

    def make(name: str, *points: str, code: str = "") -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[syncd]\n" + "\n".join(points) + "\n")
        (tmp_path / f"{name}_mod.py").write_text(code)
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(tmp_path)
    return make


def test_every_plugin_that_cannot_be_imported_gets_a_line(install: Install) -> None:
    install("broken_one", "one = broken_one_mod", code="import no_such_module")
    install("broken_two", "two = broken_two_mod:Missing")
    install("broken_three", "three = broken_three_mod", code="1/0")
    install("fine", "fine = fine_mod", code="x = 1")
    plugins = load(strict=False)
    found = "\n".join(plugins.problems)
    assert len(plugins.problems) == 3
    for text in (
        "plugin one (broken_one 1.0) cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'",
        "plugin two (broken_two 1.0)",
        "plugin three (broken_three 1.0) cannot be loaded: ZeroDivisionError",
        "pip uninstall broken_one",
    ):
        assert text in found
    assert plugins.has_plugin("fine")
    with pytest.raises(ConfigError, match="broken_two"):
        load()


def test_two_plugins_of_one_name_are_refused(install: Install) -> None:
    install("first_dist", "same = first_dist_mod")
    install("second_dist", "same = second_dist_mod")
    plugins = load(strict=False)
    assert len(plugins.problems) == 1
    assert "two plugins are called 'same'" in plugins.problems[0]
    assert plugins.has_plugin("same")


def test_a_class_is_made_anew_for_each_manager(install: Install) -> None:
    install("classy", "classy = classy_mod:Plugin", code="class Plugin: ...")
    one, two = load().get_plugin("classy"), load().get_plugin("classy")
    assert type(one) is type(two)
    assert one is not two


# ---- the store


class Stores:
    """Opens demo: URLs; what `answer` holds is given or raised."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    @hookimpl
    async def open_store(self, event: StoreRequest) -> object:
        if not event.url.startswith("demo:"):
            return None
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def opened(answer: object, url: str = "demo:x") -> Store:
    return await open_store(load(extra={"demo": Stores(answer)}, entry_points=False), Settings(store=url))


async def test_the_first_plugin_that_knows_the_scheme_opens_the_store() -> None:
    store = MemoryStore()
    assert await opened(store) is store


async def test_an_unknown_scheme_is_told_with_what_brings_it() -> None:
    with pytest.raises(ConfigError, match=r"no plugin opens s3:// stores; pip install 'syncd\[s3\]'"):
        await opened(None, "s3://bucket/x")
    with pytest.raises(ConfigError, match=r"no plugin opens gs:// stores; install the plugin"):
        await opened(None, "gs://bucket/x")


async def test_what_a_store_says_passes_and_what_a_plugin_breaks_is_named() -> None:
    with pytest.raises(Denied, match="no such bucket"):
        await opened(Denied("no such bucket"))
    with pytest.raises(ConfigError, match=r"SYNCD_STORE=demo:x cannot be opened: ZeroDivisionError"):
        await opened(ZeroDivisionError())
    with pytest.raises(ConfigError, match=r"plugin demo .* gave a str, not a store"):
        await opened("not a store")
