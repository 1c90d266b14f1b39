"""The plugin's settings: SYNCD_SAMPLE_LOG, --sample-log, `sample_log` in syncd.toml."""

from pathlib import Path

from pydantic import BaseModel, Field


class SampleSettings(BaseModel):
    """The fields that join the settings table."""

    sample_log: Path | None = Field(
        default=None, description="file that the names of committed checkpoints are appended to"
    )
