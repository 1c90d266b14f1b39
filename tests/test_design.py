"""The documents are tested: each invariant has tests that carry its name, the README's tables are the source's."""

import re
from pathlib import Path

from syncd_mqtt import Mqtt
from syncd_obstore import ObstoreSettings
from syncd_s3 import S3Settings

from syncd.cli import VERBS
from syncd.config import Settings, make_table
from syncd.config.table import knobs
from syncd.hooks.loading import hook_names
from syncd.show.events import LOUD

HERE = Path(__file__).parent
ROOT = HERE.parent
DESIGN = (ROOT / "syncd" / "DESIGN.md").read_text()
README = (ROOT / "README.md").read_text()
NEEDED = {"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9", "I10"}


def declared() -> set[str]:
    return set(re.findall(r"^- \*\*(I\d+) ", DESIGN, re.MULTILINE))


def carried() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in [*HERE.rglob("test_*.py"), ROOT / "syncd" / "testing" / "suite.py"]:
        for name in re.findall(r"def (test_\w+)", path.read_text()):
            for invariant in re.findall(r"(?<=_)I\d+(?=_)", name):
                found.setdefault(invariant, []).append(name)
    return found


def test_every_invariant_has_tests_that_carry_its_name() -> None:
    assert declared() == NEEDED
    missing = NEEDED - set(carried())
    assert not missing, f"no test carries the name of {sorted(missing)}"


def test_no_test_cites_an_invariant_that_design_does_not_know() -> None:
    assert set(carried()) <= NEEDED | {"I8"}


def test_design_is_short_and_every_file_that_it_names_is_there() -> None:
    assert len(DESIGN.splitlines()) <= 150
    for module, name in re.findall(r"`(start|push|retain|objects|disk)\.(\w+)`", DESIGN):
        source = (ROOT / "syncd" / "move" / f"{module}.py").read_text()
        assert re.search(rf"(def|class) {name}\b", source), f"{module}.{name}"


def test_readme_has_every_setting_with_its_default() -> None:
    table = make_table([("s3", S3Settings), ("obstore", ObstoreSettings), ("mqtt", Mqtt().settings())])
    for knob in knobs(table):
        assert f"`{knob.env[0]}`" in README, f"README lacks {knob.env[0]}"


def test_readme_has_every_verb_hook_and_exit_code() -> None:
    for verb in VERBS:
        assert f"`syncd {verb}" in README, f"README lacks syncd {verb}"
    for hook in hook_names():
        assert f"`{hook}`" in README, f"README lacks the hook {hook}"
    for code in (0, 64, 75, 76, 77, 78):
        assert re.search(rf"^\| {code} \|", README, re.MULTILINE), code


def test_readme_names_every_event_that_people_should_look_at() -> None:
    for event in LOUD:
        assert f"`{event}`" in README, f"README lacks the event {event}"


def test_settings_have_a_line_of_help_each() -> None:
    for name, info in Settings.model_fields.items():
        assert info.description, name


def test_nothing_is_ever_unpickled_I9_() -> None:
    """No module of syncd or of its plugins imports what loads pickles."""
    for path in [*(ROOT / "syncd").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        assert not re.search(
            r"^\s*(import|from) (pickle|dill|torch|shelve|marshal)\b", path.read_text(), re.MULTILINE
        ), path
