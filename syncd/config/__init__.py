"""Every setting: name, type, default, and one line of help with its unit.

flag > environment `SYNCD_*` > .env > syncd.toml > default; `load` reads them, and knows where each value came from.
"""

from syncd.config.load import handed_on, load, secrets_of
from syncd.config.table import Knob, Settings, default_store, knobs, make_table

__all__ = ["Knob", "Settings", "default_store", "handed_on", "knobs", "load", "make_table", "secrets_of"]
