"""What is wrong with an S3 store is said in one clear line with exit code 78; a server that is away is waited for."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.testing.servers import Minio, free_port


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        server.make_bucket("bucket")
        yield server


def env_of(home: Path, **more: str) -> dict[str, str]:
    (home / "root").mkdir(exist_ok=True)
    base = {"PATH": os.environ["PATH"], "HOME": str(home), "SYNCD_ROOT": str(home / "root"), "SYNCD_TASK": "t"}
    return base | {"SYNCD_LOG_FORMAT": "text", "AWS_EC2_METADATA_DISABLED": "true"} | more


def call(home: Path, *arguments: str, **env: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "syncd", *arguments]
    done = subprocess.run(
        command, env=env_of(home, **env), cwd=home, check=False, capture_output=True, text=True, timeout=90
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("what", "changes", "word"),
    [
        ("missing bucket", {"SYNCD_STORE": "s3://no-such-bucket/x"}, "no-such-bucket"),
        ("wrong secret", {"AWS_SECRET_ACCESS_KEY": "wrong-secret-canary"}, "AWS_SECRET_ACCESS_KEY"),
        ("wrong key id", {"AWS_ACCESS_KEY_ID": "nobody-we-know"}, "AWS_ACCESS_KEY_ID"),
        ("unknown host", {"AWS_ENDPOINT_URL_S3": "http://nosuchhost.invalid:9000"}, "nosuchhost.invalid"),
        ("no bucket in the URL", {"SYNCD_STORE": "s3:///prefix"}, "s3://"),
        ("a bucket's name that cannot be", {"SYNCD_STORE": "s3://No_Bucket!/x"}, "No_Bucket!"),
    ],
)
@pytest.mark.slow
def test_a_store_that_cannot_be_used_ends_the_start_with_78(
    minio: Minio, tmp_path: Path, what: str, changes: dict[str, str], word: str
) -> None:
    env = minio.env | {"SYNCD_STORE": "s3://bucket/runs"} | changes
    code, err = call(tmp_path, "run", "--", "true", **env)
    lines = [line for line in err.splitlines() if line.startswith("syncd: ")]
    assert code == 78, err
    assert len(lines) == 1, err
    assert word in lines[0]
    assert "canary" not in err


@pytest.mark.slow
def test_a_server_that_is_away_is_waited_for_and_the_wait_can_be_ended(tmp_path: Path) -> None:
    env = env_of(tmp_path, SYNCD_STORE="s3://bucket/x", AWS_ACCESS_KEY_ID="abc", AWS_SECRET_ACCESS_KEY="abcdefgh")
    env["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "syncd", "run", "--", "true"]
    with subprocess.Popen(command, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            line = process.stderr.readline()
            assert "store_away" in line, line
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert process.returncode == 75, rest
    assert "Traceback" not in rest
