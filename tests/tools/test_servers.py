"""The servers that tests start: they answer, come back with what they held, and are gone afterwards."""

import subprocess
from pathlib import Path

import pytest
from _pytest.outcomes import Skipped

from syncd.testing import servers
from syncd.testing.servers import Minio, Mosquitto, find_minio, listens

GET_MINIO = Path(__file__).with_name("get-minio")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Minio, Mosquitto])
def test_a_server_answers_comes_back_and_ends(tmp_path: Path, kind: type[Minio | Mosquitto]) -> None:
    with kind(tmp_path / "server") as server:
        first = server.pid
        server.restart()
        assert server.pid != first
        assert server.answers()
        server.kill()
        assert not listens(server.port)
        server.start()
    assert not listens(server.port)
    server.stop()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        Mosquitto(tmp_path / "server", lines=("nonsense true",)).start()


def test_a_server_that_is_not_here_skips_the_test_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "find_minio", lambda: None)
    with pytest.raises(Skipped, match=r"MinIO is not here: .*get-minio"):
        Minio(tmp_path)


def test_minio_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINIO_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_minio() is None
    for place in (tmp_path / "syncd/bin/minio", tmp_path / "minio"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch(0o755)
        assert find_minio() == place
    monkeypatch.setenv("MINIO_BIN", "/opt/minio")
    assert find_minio() == Path("/opt/minio")


def test_get_minio_builds_nothing_when_there_is_one(tmp_path: Path) -> None:
    there = tmp_path / "minio"
    there.touch(0o755)
    said = subprocess.check_output(
        [GET_MINIO], env={"MINIO_BIN": str(there), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    )
    assert said.decode() == f"get-minio: {there}\n"
    assert not (tmp_path / ".cache").exists()
