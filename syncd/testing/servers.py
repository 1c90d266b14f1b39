"""Real servers for tests: MinIO and mosquitto, each its own process on a free loopback port, gone with its `with`."""

import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import pytest

SECRETS: list[str] = []
"""Secrets that servers here were started with: for whoever looks that none is shown anywhere."""
START = 30.0
"""Seconds within which a server must answer."""


def free_port() -> int:
    """A loopback port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cache_bin() -> Path:
    """Where `tests/tools/get-minio` puts what it builds."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "syncd", "bin")


def find_minio() -> Path | None:
    """`MINIO_BIN`, else `minio` in PATH, else the one in the cache; None when there is none."""
    for found in (os.environ.get("MINIO_BIN"), shutil.which("minio"), shutil.which("minio", path=cache_bin())):
        if found:
            return Path(found)
    return None


def find_mosquitto() -> Path | None:
    """`mosquitto` in PATH, else where Debian puts it, outside of a user's PATH."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin")
    return Path(found) if found else None


def skip(server: str, now: str) -> NoReturn:
    """Skip the test by the missing server's name and what brings it."""
    pytest.skip(f"{server} is not here: {now}")


class Server(ABC):
    """A process that serves on one loopback port and that only this object starts and stops."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The command line."""

    def environment(self) -> dict[str, str]:
        """Variables beside a bare PATH and HOME."""
        return {}

    @abstractmethod
    def answers(self) -> bool:
        """Whether it is up."""

    @property
    def pid(self) -> int:
        """The process id; raises RuntimeError when it does not run."""
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    def start(self) -> Self:
        """Start it and wait until it answers. Raises RuntimeError with its last words."""
        self.directory.mkdir(parents=True, exist_ok=True)
        base = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.directory)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                env=base | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.name} did not start: {self._log.read_text(errors='replace')[-1000:]}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not heed it in 10 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: as when its node vanishes."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop, then start on the same port with the same data and credentials."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: it still accepts connections (the kernel does) but answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _log(self) -> Path:
        return self.directory / f"{self.name}.log"

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Minio(Server):
    """A MinIO with a data directory and root keys of its own; skips the test where no MinIO is.

    `domain`: serve buckets as host names below it too (virtual-host addressing). `certificates`: a directory with
    `public.crt` and `private.key`, for TLS.
    """

    def __init__(self, directory: Path, *, domain: str | None = None, certificates: Path | None = None) -> None:
        super().__init__(directory, "minio")
        self._binary = find_minio() or skip("MinIO", "set MINIO_BIN, or run tests/tools/get-minio (make minio)")
        self._domain, self._certificates = domain, certificates
        self.key_id, self.secret = f"TEST{secrets.token_hex(8).upper()}", secrets.token_hex(20)
        SECRETS.append(self.secret)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"{'https' if self._certificates else 'http'}://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """What a client needs in its environment; to replace, not to join, whatever AWS_ variables are there."""
        return {
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def command(self) -> list[str]:
        address = f"127.0.0.1:{self.port}"
        certificates = ["--certs-dir", str(self._certificates)] if self._certificates else []
        data = str(self.directory / "data")
        return [
            str(self._binary),
            "server",
            data,
            "--address",
            address,
            "--console-address",
            "127.0.0.1:0",
            "--quiet",
            *certificates,
        ]

    def environment(self) -> dict[str, str]:
        domain = {"MINIO_DOMAIN": self._domain} if self._domain else {}
        return {
            "MINIO_ROOT_USER": self.key_id,
            "MINIO_ROOT_PASSWORD": self.secret,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            # Two cores are shared with everything else here.
            "GOMAXPROCS": "2",
        } | domain

    def answers(self) -> bool:
        # Not health/live, which is answered before objects are served.
        try:
            with _DIRECT.open(f"{self.endpoint}/minio/health/cluster", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def make_bucket(self, name: str) -> str:
        """Make a bucket; its name. A directory in the data of a MinIO on one disk is one: no S3 client is needed."""
        (self.directory / "data" / name).mkdir(parents=True, exist_ok=True)
        return name


class Mosquitto(Server):
    """A mosquitto that anybody may use; skips the test where none is. `lines` are added to its configuration."""

    def __init__(self, directory: Path, *, lines: tuple[str, ...] = ()) -> None:
        super().__init__(directory, "mosquitto")
        self._binary = find_mosquitto() or skip("mosquitto", "apt-get install mosquitto")
        self._lines = lines

    @property
    def host(self) -> str:
        """Its address."""
        return "127.0.0.1"

    @property
    def url(self) -> str:
        """Its URL."""
        return f"mqtt://{self.host}:{self.port}"

    def command(self) -> list[str]:
        config = self.directory / "mosquitto.conf"
        access = () if any(line.startswith("allow_anonymous") for line in self._lines) else ("allow_anonymous true",)
        lines = (f"listener {self.port} 127.0.0.1", *access, "persistence false", "log_dest stderr", *self._lines)
        config.write_text("\n".join(lines) + "\n")
        return [str(self._binary), "-c", str(config)]

    def answers(self) -> bool:
        return listens(self.port)


def listens(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _any_certificate() -> ssl.SSLContext:
    """Whether a server's certificate is trusted is the test's matter, not that of who waits for its start."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_DIRECT = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_any_certificate())
)
