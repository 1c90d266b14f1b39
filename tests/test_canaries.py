"""I10: the look at every test's output sees what it is for."""

import os
import tempfile
from pathlib import Path

from syncd.testing.servers import SECRETS

from .canaries import CANARIES, documents, leaks


def test_I10_a_canary_or_a_servers_secret_that_is_shown_is_seen() -> None:
    assert os.environ["HF_TOKEN"] == CANARIES["HF_TOKEN"]
    SECRETS.append("a-secret-of-a-server")
    try:
        with tempfile.TemporaryDirectory() as made:  # not this test's own directory, which is looked at too
            home = Path(made)
            (home / "node").mkdir()
            (home / "node" / "0.log").write_text(f"token={CANARIES['HF_TOKEN']}")
            (home / "status.json").write_text('{"why": "a-secret-of-a-server was refused"}')
            (home / "fine.log").write_text("canary")
            (home / "model.bin").write_text(CANARIES["HF_TOKEN"])
            found = leaks(documents([home]))
    finally:
        SECRETS.pop()
    assert sorted(found) == ["HF_TOKEN in node/0.log", f"secret of server {len(SECRETS)} in status.json"]
