"""I10: the look at every test's output sees what it is for."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from syncd.testing.servers import SECRETS

from . import canaries
from .canaries import CANARIES, look_through

REPOSITORY = Path(__file__).parents[1]
SHOWING = """
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import pytest

from syncd.testing.servers import Minio

SECRET = os.environ["HF_TOKEN"]
SHOW = [sys.executable, "-c", "import os; print(os.environ['HF_TOKEN'])"]
TO_ERRORS = [sys.executable, "-c", "import os, sys; print(os.environ['HF_TOKEN'], file=sys.stderr)"]


@pytest.mark.parametrize("command", [SHOW, TO_ERRORS], ids=["stdout", "stderr"])
def test_run(command):
    subprocess.run(command, capture_output=True, check=True)


def test_check_output():
    subprocess.check_output(SHOW)


def test_communicate():
    with subprocess.Popen(SHOW, stdout=subprocess.PIPE, text=True) as process:
        process.communicate()


def test_readline():
    with subprocess.Popen(SHOW, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == SECRET + "\\n"


def test_in_two_reads():
    with subprocess.Popen(SHOW, stdout=subprocess.PIPE) as process:
        while os.path.exists(f"/proc/{process.pid}/fd") and process.stdout.read(7):
            pass


async def test_asyncio():
    process = await asyncio.create_subprocess_exec(*SHOW, stdout=subprocess.PIPE)
    await process.communicate()


def test_capsys(capsys):
    print(SECRET)
    capsys.readouterr()


def test_capfd(capfd):
    os.write(2, SECRET.encode())
    capfd.readouterr()


@pytest.mark.parametrize("name", ["0.log", "life-1.out", "log", "stdout", "weights.bin"])
def test_file(tmp_path, name):
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / name).write_text(SECRET)


def test_large_log(tmp_path):
    (tmp_path / "0.log").write_bytes(b"x" * (6 << 20) + SECRET.encode())


@pytest.fixture
def late(tmp_path):
    yield
    (tmp_path / "events.jsonl").write_text(SECRET)


def test_teardown(late):
    pass


def test_ram(ram_path):
    (ram_path / "status.json").write_text(SECRET)


def test_removed():
    made = tempfile.mkdtemp(prefix="syncd-chaos-")
    Path(made, "life-1.out").write_text(SECRET)
    shutil.rmtree(made)


def test_summary(sum_up):
    sum_up("campaign", SECRET)


def test_minio(tmp_path):
    from botocore.session import Session

    with Minio(tmp_path / "minio") as server:
        client = Session().create_client(
            "s3", region_name="us-east-1", endpoint_url=server.endpoint,
            aws_access_key_id=server.key_id, aws_secret_access_key=server.secret,
        )
        client.put_object(Bucket=server.make_bucket("bucket"), Key="task/attempt-0001/heartbeat.json", Body=SECRET.encode())
        long = b"x" * (2 << 20) + SECRET.encode()
        client.put_object(Bucket="bucket", Key="task/attempt-0001/logs/000001.log", Body=long)
        client.close()


def test_nothing(tmp_path, capsys):
    print("canary")
    capsys.readouterr()
    subprocess.run([sys.executable, "-c", "print('canary')"], capture_output=True, check=True)
    (tmp_path / "0.log").write_text("canary")
    (tmp_path / "credentials").write_text(SECRET)
    (tmp_path / ".minio.sys").mkdir()
    (tmp_path / ".minio.sys" / "0.log").write_text(SECRET)
"""
FACTORY = """
import os

def test_first(tmp_path_factory):
    (tmp_path_factory.mktemp("minio") / "minio.log").write_text(os.environ["HF_TOKEN"])

def test_last():
    pass
"""


def run(home: Path, text: str) -> tuple[int, str]:
    """Pytest with this tree's conftest in a process of its own, on tests that show what they should not."""
    place = home / "tests_that_show"
    place.mkdir()
    (place / "test_it.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(REPOSITORY),
         "--basetemp", str(home / "base"), "-p", "no:cacheprovider", "-v", "--tb=short", str(place)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_I10_a_test_that_shows_a_canary_fails_whichever_way_it_does(tmp_path: Path) -> None:
    code, said = run(tmp_path, SHOWING)
    assert code == 1, said
    names = set(re.findall(r"::test_(\S+) (?:PASSED|FAILED|ERROR|SKIPPED)", said))
    told = set(re.findall(r"^(?:FAILED|ERROR) \S+::test_(\S+)", said, re.MULTILINE))
    skipped = {"minio"} if "::test_minio SKIPPED" in said else set()
    assert len(names) == 21, said
    assert told == names - {"nothing"} - skipped, said
    assert said.count("I10: a secret is shown: ") >= len(told), said
    if not skipped:
        for key in ("heartbeat.json", "logs/000001.log"):
            assert re.search(rf"HF_TOKEN in minio/data/bucket/task/attempt-0001/{key}/\S*(xl.meta|part.1)", said), said


@pytest.mark.slow
def test_I10_what_belongs_to_no_test_is_looked_at_in_the_end(tmp_path: Path) -> None:
    code, said = run(tmp_path, FACTORY)
    assert code == 1, said
    assert "2 passed, 1 error" in said, said
    assert "I10: a secret is shown: HF_TOKEN in minio0/minio.log" in said, said


def test_I10_a_servers_secret_is_seen_too() -> None:
    assert os.environ["HF_TOKEN"] == CANARIES["HF_TOKEN"]
    SECRETS.append("a-secret-of-a-server")
    try:
        with tempfile.TemporaryDirectory() as made:  # not this test's own directory, which is looked at too
            home = Path(made)
            (home / "status.json").write_text('{"why": "a-secret-of-a-server was refused"}')
            (home / "across.log").write_bytes(b"x" * (canaries.PIECE - 5) + b"a-secret-of-a-server")
            (home / "fine.log").write_text("canary")
            found = look_through(home)
    finally:
        SECRETS.pop()
    assert found == [f"secret of server {len(SECRETS)} in {name}" for name in ("across.log", "status.json")]


@pytest.mark.parametrize(("name", "value"), [("MOST", 2), ("LARGEST", 5)])
def test_more_than_one_look_reads_is_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    for each in range(3):
        (tmp_path / f"{each}.log").write_text("fine")
    assert look_through(tmp_path) == []
    monkeypatch.setattr(canaries, name, value)
    (told,) = look_through(tmp_path)
    assert told.startswith(f"not all of {tmp_path} was looked at")
    monkeypatch.undo()
