"""`syncd config`: every setting, its value and where that comes from."""

from syncd.cli.options import verb
from syncd.cli.output import show
from syncd.config import Settings, knobs


@verb(
    examples="""
    syncd config
    SYNCD_KEEP=5 syncd config --json
    syncd config --config /etc/syncd.toml
    """
)
def command(settings: Settings, as_json: bool) -> None:
    """Show every setting: its value, where that comes from, what it means.

    Values come from flags, then the environment, then .env, then syncd.toml, then the default. Secrets are masked.
    All mistakes are reported at once, with exit code 78 (64 when they are all flags').

    --json: {"version": 1, "settings": [{"name", "value", "origin", "env", "flag", "default", "help", "plugin"}]}
    """
    table = knobs(type(settings))
    rows = [
        (line.name, line.show(getattr(settings, line.name)), settings.origin(line.name), line.help) for line in table
    ]
    document = [
        {
            "name": line.name,
            "value": line.plain(getattr(settings, line.name)),
            "origin": settings.origin(line.name),
            "env": line.env,
            "flag": line.flag,
            "default": line.default,
            "help": line.help,
            "plugin": line.plugin,
        }
        for line in table
    ]
    show(as_json, {"settings": document}, ("setting", "value", "from", "meaning"), rows)
