"""`syncd sample`."""

from syncd.cli.options import verb
from syncd.cli.output import show
from syncd.config import Settings
from syncd_sample.settings import SampleSettings


@verb(examples="syncd sample --sample-log commits.txt")
def command(settings: Settings, as_json: bool) -> None:
    """Print the commits that were listed."""
    assert isinstance(settings, SampleSettings)
    log = settings.sample_log
    commits = log.read_text().splitlines() if log and log.exists() else []
    show(as_json, {"commits": commits}, ("commit",), [(name,) for name in commits])
