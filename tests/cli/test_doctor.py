"""`syncd doctor` as a person or a program calls it: lines, JSON, exit codes; what is odd is told, nothing is left."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from syncd.cli import doctor
from syncd.decide.doctor import QUESTIONS
from syncd.errors import Transient
from syncd.local.lock import locked
from syncd.move.doctor import Doctor
from syncd.testing.servers import Minio, free_port
from tests.s3.rights import keys_with

from .conftest import Call


@pytest.fixture
def call(with_root: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """`syncd doctor` that does not wait for what it asks."""
    monkeypatch.setenv("SYNCD_LOG_FORMAT", "text")
    monkeypatch.setattr(doctor, "PATIENCE", 0.0)
    return partial(with_root, "doctor")


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture
def s3(call: Call, minio: Minio, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The same with a MinIO for its store."""
    for name, value in minio.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SYNCD_STORE", "s3://bucket/runs")
    return call


def in_bucket(minio: Minio) -> list[str]:
    bucket = minio.directory / "data" / "bucket"
    return sorted(str(path.parent.relative_to(bucket)) for path in bucket.rglob("xl.meta"))


def answers(out: str) -> dict[str, Any]:
    return {line["key"]: line for line in json.loads(out)["answers"]}


def line_of(out: str, key: str) -> str:
    (found,) = (line for line in out.splitlines() if line[4:].startswith(QUESTIONS[key].asks))
    return found


def test_a_directory_has_a_line_for_each_question_and_nothing_is_left(call: Call, tmp_path: Path) -> None:
    code, out, err = call("--bytes", "2MiB")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1].startswith("a run would work")
    assert any(f"directory: {tmp_path / 'store'}" in line for line in lines)
    for key in ("root", "links", "put", "create", "list", "ranges"):
        assert line_of(out, key).startswith("yes "), key
    assert line_of(out, "apart").startswith("no  "), "the store is on the root's disk"
    assert re.fullmatch(r"    the rate of uploads: [0-9.]+ [MK]iB a second", line_of(out, "up"))
    assert list((tmp_path / "root").iterdir()) == []
    assert [path.name for path in (tmp_path / "store").rglob("*")] == [".tmp"]


def test_json_has_the_documented_shape(call: Call) -> None:
    code, out, _ = call("--json", "--bytes", "0", "--task", "t")
    document = json.loads(out)
    assert set(document) == {
        "version",
        "store",
        "task",
        "exit_code",
        "verdict",
        "about",
        "answers",
        "left",
        "not_cleaned",
    }
    assert document["not_cleaned"] is None
    assert (document["version"], document["exit_code"], document["task"], document["left"]) == (1, code, "t", [])
    assert document["about"]["kind"] == "directory"
    found = answers(out)
    for key, line in found.items():
        assert set(line) == {"key", "question", "answer", "weight", "said", "value", "without", "now"}
        assert line["question"] == QUESTIONS[key].asks
        assert line["answer"] is {"yes": True, "note": False, "no": False, "unknown": None}[line["weight"]]
        assert (line["without"] is None) == (line["weight"] in ("yes", "unknown"))
    assert found["up"]["answer"] is None
    assert found["latency"]["value"] > 0


def test_the_memory_store_tells_nothing_of_itself_and_is_asked_all_the_same(call: Call) -> None:
    code, out, _ = call("--json", "--bytes", "0", "--store", "memory:")
    assert code == 0
    assert json.loads(out)["about"] == {}
    assert answers(out)["create"]["answer"] is True


def test_what_is_odd_on_this_machine_is_told(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root" / ".syncd").mkdir()
    monkeypatch.setenv("SYNCD_WATCH_EVENTS", "0")
    with locked(tmp_path / "root"):
        code, out, _ = call("--bytes", "0")
    assert code == 0
    assert line_of(out, "alone").startswith("no  ")
    assert f"pid {os.getpid()}" in line_of(out, "alone")
    assert line_of(out, "events").startswith("?   ")
    code, out, _ = call("--bytes", "0", "--root", str(tmp_path / "no" / "where"))
    assert code == 78
    assert line_of(out, "root").startswith("NO  ")
    assert out.splitlines()[-1].startswith("a run would not work")
    assert line_of(out, "create").startswith("yes "), "the store is asked all the same"


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ("nonsense://x/y", "no plugin opens nonsense://"),
        ("file:///nowhere/at/all", "create or mount it first"),
        ("file://host/x", "three slashes"),
        ("obstore+s3://bucket/x?sig=canary", "keys and signatures do not belong in the URL"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_line_and_78(call: Call, store: str, says: str) -> None:
    code, out, err = call("--store", store)
    assert (code, err) == (78, "")
    assert line_of(out, "reach").startswith("NO  ")
    assert says in line_of(out, "reach")
    code, out, _ = call("--store", store, "--json")
    document = json.loads(out)
    assert (code, document["exit_code"]) == (78, 78)
    assert says in document["error"]
    assert "canary" not in out


@pytest.mark.parametrize(("arguments", "code"), [(["--bytes", "much"], 64), (["--store", "no url"], 64), (["x"], 64)])
def test_a_wrong_command_line_is_one_line(call: Call, arguments: list[str], code: int) -> None:
    got, out, err = call(*arguments)
    assert (got, out) == (code, "")
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_store_that_is_away_is_75(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    endpoint = f"http://127.0.0.1:{free_port()}"
    code, out, err = call("--store", "s3://bucket/x", "--s3-endpoint-url", endpoint)
    assert code == 75
    assert line_of(out, "reach").startswith("?   ")
    assert endpoint in line_of(out, "reach")
    assert out.splitlines()[-1].startswith("the store is away")
    assert "store_away" in err
    assert "canary" not in out + err


def test_what_may_be_left_is_told_to_programs_too(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    async def clean(self: Doctor) -> None:
        raise Transient("connection refused")

    monkeypatch.setattr(Doctor, "_clean", clean)
    code, out, _ = call("--json", "--bytes", "0")
    assert (code, json.loads(out)["not_cleaned"]) == (0, "connection refused")
    code, out, _ = call("--bytes", "0")
    assert re.search(r"below file://\S+/-syncd-doctor/\w+/ may still be in the store: connection refused", out)


@pytest.mark.slow
def test_a_real_s3_before_the_first_run_without_a_task(s3: Call, minio: Minio) -> None:
    code, out, err = s3()
    assert code == 0
    lacking = [line for line in out.splitlines()[:-1] if not line.startswith(("yes ", "    "))]
    assert [line[:36] for line in lacking if not line.startswith("no  the root is on")] == [
        "no  the task has a name: on a store "
    ]
    for said in ("kind: generic", "server: MinIO", "large bodies: fast", "credentials: environment variables"):
        assert said in out
    assert minio.secret not in out + err
    assert in_bucket(minio) == []
    code, out, _ = s3("--json", "--bytes", "1MiB", "--task", "t")
    found = answers(out)
    assert found["named"]["answer"] is True
    assert found["clock"]["answer"] is True
    assert found["upload"]["answer"] is None
    assert found["resume"]["answer"] is True, "by the probe, without a large file"


@pytest.mark.slow
def test_keys_that_may_not_delete_are_told_in_one_clear_line_and_what_is_left_too(
    s3: Call, minio: Minio, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = keys_with(minio, "s3:ListBucket", "s3:GetObject", "s3:PutObject")
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    code, out, err = s3("--bytes", "2MiB", "--task", "t")
    assert code == 0
    line = line_of(out, "delete")
    assert line.startswith("no  ")
    for said in ("nothing is ever cleaned up", "lifecycle rule", "DeleteObject"):
        assert said in line
    (left,) = (each for each in out.splitlines() if each.startswith("left in the store"))
    where = re.search(r"s3://bucket/(runs/-syncd-doctor/\w+)/", left)
    assert where
    assert "(0 B)" in left
    there = in_bucket(minio)
    assert f"{len(there)} objects" in left
    assert all(key.startswith(where[1]) for key in there)
    for secret in keys.values():
        assert secret not in out + err


@pytest.mark.slow
def test_the_same_server_by_obstore(s3: Call, minio: Minio) -> None:
    before = in_bucket(minio)
    code, out, _ = s3("--json", "--store", "obstore+s3://bucket/others", "--task", "t")
    found = answers(out)
    assert code == 0
    assert json.loads(out)["about"]["kind"] == "S3"
    assert found["upload"]["answer"] is True
    assert found["resume"]["answer"] is False
    assert found["clock"]["answer"] is True
    assert found["checksums"]["answer"] is None
    assert in_bucket(minio) == before


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_doctor_that_is_ended_leaves_nothing(
    s3: Call, minio: Minio, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    before = in_bucket(minio)
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "syncd", "doctor", "--store", "s3://bucket/ended"]
    with subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if QUESTIONS["held"].asks in line:
                process.send_signal(number)
        assert process.wait(30) == code
    assert in_bucket(minio) == before
    assert not list((tmp_path / "root").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not here: apt-get install faketime")
@pytest.mark.parametrize(("ahead", "says"), [("+5m", "s behind"), ("-2m", "s ahead")])
def test_a_clock_that_differs_from_the_servers_is_told(s3: Call, tmp_path: Path, ahead: str, says: str) -> None:
    command = ["faketime", "-f", ahead, sys.executable, "-m", "syncd", "doctor", "--bytes", "0", "--task", "t"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    line = line_of(done.stdout, "clock")
    assert line.startswith("no  ")
    assert says in line
    assert "NTP" in line
