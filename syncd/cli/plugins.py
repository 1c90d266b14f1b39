"""`syncd plugins`: what is plugged in."""

import click

from syncd.cli import App
from syncd.cli.options import verb
from syncd.cli.output import print_json, print_table
from syncd.hooks.loading import hook_names


@verb(
    examples="""
    syncd plugins
    syncd plugins --json
    """,
    settings=False,
)
@click.pass_obj
def command(app: App, as_json: bool) -> int:
    """Show the plugins, where they come from, and the hooks that each implements.

    Exit code 78 when one cannot be loaded: no other command runs then.

    --json: {"version": 1, "plugins": [{"name", "distribution", "version", "hooks"}], "problems": [text]}
    """
    plugins = app.plugins
    order = hook_names()
    found = []
    for name, plugin in plugins.list_name_plugin():
        hooks = sorted((caller.name for caller in plugins.get_hookcallers(plugin) or ()), key=order.index)
        origin = plugins.origins[name]
        found.append({"name": name, "distribution": origin.distribution, "version": origin.version, "hooks": hooks})
    if as_json:
        print_json({"plugins": found, "problems": plugins.problems})
    else:
        rows = [(line["name"], f"{line['distribution']} {line['version']}", ", ".join(line["hooks"])) for line in found]
        print_table(("plugin", "from", "hooks"), rows)
    for line in plugins.problems:
        click.echo(f"syncd: {line}", err=True)
    return 78 if plugins.problems else 0
