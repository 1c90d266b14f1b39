"""Microsoft's emulator of Azure's blob storage, where it is installed: `npm install azurite`."""

import base64
import hashlib
import hmac
import secrets
import shutil
import socket
import urllib.request
from email.utils import formatdate
from pathlib import Path

from syncd.testing.servers import Server, skip

ACCOUNT = "devstoreaccount1"
VERSION = "2021-08-06"


class Azurite(Server):
    """One account, whose key is made on the spot. Skips the test where no `azurite-blob` is in PATH."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "azurite")
        self._binary = shutil.which("azurite-blob") or skip("Azurite", "npm install azurite, its azurite-blob in PATH")
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()

    @property
    def env(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": self.key,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{self.port}/{ACCOUNT}",
        }

    def command(self) -> list[str]:
        port = ["--blobPort", str(self.port)]
        return [self._binary, *port, "--location", str(self.directory), "--skipApiVersionCheck", "--silent"]

    def environment(self) -> dict[str, str]:
        return {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{self.key}"}

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def make_container(self, name: str) -> str:
        """Make a container; its name. By Create Container with a Shared Key, since obstore cannot."""
        date = formatdate(usegmt=True)
        headers = f"x-ms-date:{date}\nx-ms-version:{VERSION}"
        text = "PUT" + "\n" * 12 + f"{headers}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        proof = hmac.digest(base64.b64decode(self.key), text.encode(), hashlib.sha256)
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{ACCOUNT}/{name}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": date,
                "x-ms-version": VERSION,
                "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(proof).decode()}",
                "Content-Length": "0",
            },
        )
        urllib.request.urlopen(request, timeout=10).close()
        return name
