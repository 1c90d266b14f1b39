"""What is wrong with the input is said in one clear line with the right exit code, without a traceback; nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from syncd.local.digest import sum_bytes
from syncd.model import canonical
from syncd.model.checkpoint import FileEntry, Manifest

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", "--clear-groups")


class Caller:
    """`python -m syncd` as another process, as another user where asked."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "root").mkdir()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "SYNCD_STORE": (home / "store").as_uri(),
            "SYNCD_ROOT": str(home / "root"),
            "SYNCD_TASK": "t",
            "SYNCD_LOG_FORMAT": "text",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def __call__(self, *arguments: str, as_user: tuple[str, ...] = (), **env: str) -> tuple[int, str]:
        done = subprocess.run(
            [*as_user, sys.executable, "-m", "syncd", *arguments],
            env=self.env | env, cwd=self.home, check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        return done.returncode, done.stderr + done.stdout


@pytest.fixture
def call(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def one_line(text: str, *words: str) -> None:
    lines = [line for line in text.splitlines() if line.startswith("syncd: ")]
    assert len(lines) == 1, text
    for word in words:
        assert word in lines[0], lines[0]


def test_a_root_that_is_a_file(call: Caller) -> None:
    (call.home / "file").write_text("x")
    code, text = call("run", "--", "true", SYNCD_ROOT=str(call.home / "file"))
    assert code == 78
    one_line(text, "is no directory", str(call.home / "file"))


def test_a_root_whose_parent_is_missing(call: Caller) -> None:
    code, text = call("run", "--", "true", SYNCD_ROOT=str(call.home / "nowhere" / "out"))
    assert code == 78
    one_line(text, "does not exist")
    assert not (call.home / "nowhere").exists()


def test_a_root_that_alone_is_missing_is_made_for_the_next_machine_is_empty(call: Caller) -> None:
    code, text = call("run", "--", "true", SYNCD_ROOT=str(call.home / "out"))
    assert code == 0, text
    assert (call.home / "out").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
@pytest.mark.parametrize("what", ["root", ".syncd"])
def test_a_root_that_may_not_be_read_and_an_own_directory_that_may_not_be_written(what: str) -> None:
    import tempfile

    home = Path(tempfile.mkdtemp(dir="/tmp"))
    home.chmod(0o755)
    call = Caller(home)
    (home / "store").mkdir()
    os.chown(home / "store", NOBODY, NOBODY)
    root = home / "root"
    if what == ".syncd":
        (root / ".syncd").mkdir()
        (root / ".syncd").chmod(0o555)
    else:
        root.chmod(0o000)
    code, text = call("run", "--", "true", as_user=AS_NOBODY)
    assert code == 78
    one_line(text, "Permission denied", "read and write")
    assert not list((home / "store").glob("t/*"))


def test_a_parent_of_the_store_that_is_missing(call: Caller) -> None:
    code, text = call("run", "--", "true", SYNCD_STORE="file:///nowhere/at/all")
    assert code == 78
    one_line(text, "create or mount it first")


def test_an_unknown_checkpoint_name(call: Caller) -> None:
    path = call.home / "root" / "checkpoint-1"
    path.mkdir()
    (path / "_SUCCESS").write_text("")
    assert call("push", str(path))[0] == 0
    code, text = call("restore", "checkpoint-9")
    assert code == 64
    one_line(text, "checkpoint-9", "there are: checkpoint-1")


def test_a_command_that_does_not_exist_is_refused_before_anything_is_claimed(call: Caller) -> None:
    code, text = call("run", "--", "no-such-program")
    assert code == 64
    one_line(text, "no-such-program")
    assert not (call.home / "store" / "t").exists()


def test_all_mistakes_in_the_settings_are_told_at_once(call: Caller) -> None:
    code, text = call("ls", SYNCD_KEPE="3", SYNCD_GRACE="soon", SYNCD_KEEP="0")
    assert code == 78
    assert "did you mean SYNCD_KEEP" in text
    assert "SYNCD_GRACE" in text
    assert "SYNCD_KEEP='0'" in text


def put_manifest(call: Caller, path: str) -> None:
    """A commit whose manifest names `path`, with everything else in order."""
    task = call.home / "store" / "t" / "attempt-0001"
    (task / "manifests").mkdir(parents=True)
    entry = FileEntry(path, 5, 0o644, sum_bytes(b"owned"))
    manifest = Manifest(
        task="t", attempt=1, number=1, name="checkpoint-1", commit="checkpoint-1", kind="directory", step=1, rule="r", time=0.0, files=(entry,)
    )  # fmt: skip
    (task / "manifests" / "checkpoint-1.json").write_bytes(canonical.encode(manifest))
    (task / "attempt.json").write_text(
        json.dumps({"task": "t", "attempt": 1, "node": "n", "nonce": "0" * 32, "time": 0})
    )
    (task / "resume.json").write_text(json.dumps({"line": [], "nonce": "0" * 32}))


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a\\..\\x", "", ".", "a//b", "x\n"])
def test_I9_a_manifest_that_leads_outside_is_refused_and_named(call: Caller, path: str) -> None:
    put_manifest(call, path)
    (call.home / "store" / "t" / "attempt-0001" / "x").write_bytes(b"owned")
    code, text = call("restore")
    assert code in (64, 78)
    assert not (call.home / "x").exists()
    assert not (call.home / "root" / "x").exists()
    code, text = call("verify")
    assert code == 1
    assert "manifests/checkpoint-1.json" in text


def test_I9_two_files_of_which_one_is_the_others_directory_are_refused(call: Caller) -> None:
    put_manifest(call, "a")
    path = call.home / "store" / "t" / "attempt-0001" / "manifests" / "checkpoint-1.json"
    said = json.loads(path.read_bytes())
    said["files"].append(said["files"][0] | {"path": "a/b"})
    path.write_text(json.dumps(said))
    assert call("verify")[0] == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"[" * 5000,
        b'{"version":2}',
        b"\xff\xfe",
        b'{"line":["../x sha256:00"],"nonce":"00"}',
    ],
)
def test_nonsense_in_the_stores_small_objects_never_gives_a_traceback(call: Caller, data: bytes) -> None:
    path = call.home / "root" / "checkpoint-1"
    path.mkdir()
    (path / "_SUCCESS").write_text("")
    assert call("push", str(path))[0] == 0
    task = call.home / "store" / "t" / "attempt-0001"
    for name in ("resume.json", "manifests/checkpoint-1.json", "attempt.json", "../done.json"):
        target = task / name
        before = target.read_bytes() if target.exists() else None
        target.write_bytes(data)
        assert call("verify")[0] == 1, name
        if before is None:
            target.unlink()
        else:
            target.write_bytes(before)
    assert call("verify")[0] == 0


def test_nonsense_in_the_disks_own_files_never_gives_a_traceback(call: Caller) -> None:
    own = call.home / "root" / ".syncd"
    (own / "pins" / "000001").mkdir(parents=True)
    for name in (
        "attempt.json",
        "ready.json",
        "child.json",
        "order.json",
        "trainer.json",
        "status.json",
        "pins/000001/pin.json",
    ):
        (own / name).write_bytes(b"\x00{[")
    (call.home / "root" / "progress.json").write_text('{"step": "NaN", "loss": NaN')
    code, text = call("run", "--", "true")
    assert code == 0, text
