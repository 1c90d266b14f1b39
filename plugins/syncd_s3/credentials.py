"""Where keys come from: botocore's chain, files named by `AWS_…_FILE`, and both again when the server refuses a key."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError

KEY_ID, SECRET, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
NAMES = (KEY_ID, SECRET, TOKEN)


def new_session() -> AioSession:
    """A session whose chain begins with the files; new each time, since a session keeps what it once read."""
    session = AioSession()
    session.get_component("credential_provider").insert_before("env", FileProvider())
    return session


def mask(key_id: str) -> str:
    """A key id as it may be shown: enough to tell one's keys apart."""
    return f"{key_id[:4]}…{key_id[-4:]}" if len(key_id) >= 12 else f"{key_id[:2]}…"


class FileCredentials:
    """Keys whose values are the content of files, read again whenever a file is another than before.

    A mounted Kubernetes secret changes by a swapped symlink: device, inode, size and time of what it points to tell.
    """

    method = "env-file"

    def __init__(self) -> None:
        self._seen: tuple[object, ...] = ()
        self._keys: Any = None

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The keys as they are now; raises `CredentialRetrievalError` naming the file that cannot be read."""
        paths = {name: os.environ.get(f"{name}_FILE") for name in NAMES}
        try:
            found = tuple((name, _identity(path) if path else os.environ.get(name)) for name, path in paths.items())
            if found != self._seen:
                self._keys, self._seen = _complete([_value(name, path) for name, path in paths.items()]), found
        except (OSError, UnicodeDecodeError) as error:
            raise CredentialRetrievalError(provider=self.method, error_msg=str(error)) from None
        return self._keys


def _value(name: str, path: str | None) -> str | None:
    return Path(path).read_text().strip() if path else os.environ.get(name)


def _identity(path: str) -> tuple[int, ...]:
    found = Path(path).stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _complete(values: list[str | None]) -> ReadOnlyCredentials:
    key_id, secret, token = values
    for name, value in ((KEY_ID, key_id), (SECRET, secret)):
        if not value:
            missing = f"{name} or {name}_FILE is missing or empty"
            raise CredentialRetrievalError(provider=FileCredentials.method, error_msg=missing)
    return ReadOnlyCredentials(key_id, secret, token or None)


class FileProvider:
    """A link of botocore's chain: `AWS_ACCESS_KEY_ID_FILE`, `AWS_SECRET_ACCESS_KEY_FILE`, `AWS_SESSION_TOKEN_FILE`."""

    METHOD = FileCredentials.method
    CANONICAL_NAME = None

    async def load(self) -> FileCredentials | None:
        """Credentials when any of the three is set, else None: the chain goes on."""
        return FileCredentials() if any(os.environ.get(f"{name}_FILE") for name in NAMES) else None


async def _load() -> Any:
    return await new_session().get_credentials()


class Credentials(AioCredentials):  # type: ignore[misc]  # aiobotocore has no types
    """Stands in a client for what the chain gives, so that all sources can be read again under a living client.

    botocore refreshes by itself what has an expiry time; a profile's file or a variable has none.
    """

    method = "syncd"

    def __init__(self, load: Callable[[], Awaitable[Any]] = _load) -> None:
        super().__init__("", "", method=self.method)  # what is signed with is always asked for below
        self._load = load
        self._inner: Any = None
        self._lock = asyncio.Lock()
        self._renewing, self._renewed = asyncio.Lock(), False
        self.shown = "no key"

    @property
    def source(self) -> str:
        """botocore's name of the link of its chain that gave the keys; empty before they were asked for."""
        return self._inner.method if self._inner else ""

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """What requests are signed with now; raises botocore's errors."""
        async with self._lock:
            if self._inner is None:
                self._inner = await self._load()
            if self._inner is None:
                raise NoCredentialsError
            inner = self._inner
        try:
            keys = await inner.get_frozen_credentials()
        except RuntimeError as error:  # botocore's word for "refreshed, and still expired"
            raise CredentialRetrievalError(provider=inner.method, error_msg=str(error)) from None
        self.shown = f"key {mask(keys.access_key)}"
        return keys

    async def changed(self, used: ReadOnlyCredentials) -> bool:
        """Whether the keys are others than those that a server refused; every source is read again to find out, unless
        another request's refusal has brought others already. Raises botocore's errors.

        A source that makes new keys at each reading is believed once, until a request has `worked`.
        """
        async with self._renewing:
            if await self.get_frozen_credentials() != used:
                return True
            async with self._lock:
                self._inner = None
            before, self._renewed = self._renewed, await self.get_frozen_credentials() != used
            return self._renewed and not before

    def worked(self) -> None:
        """A request was answered: the keys are good."""
        self._renewed = False
