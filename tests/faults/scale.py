"""How much of the campaign is played: all of it by `make faults`, a part by `make test`."""

import os

import pytest

ALL = bool(os.environ.get("SYNCD_TEST_ALL_FAULTS"))
campaign = pytest.mark.skipif(not ALL, reason="make faults plays it (SYNCD_TEST_ALL_FAULTS=1)")
