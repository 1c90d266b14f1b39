"""The stores `gs://…` and `az://…`, and by `obstore+…` whatever else the library obstore knows.

obstore, not fsspec: it has create-only writes on every service (fsspec has none, and no task may have two owners), errors
with types, and one Rust library in place of a package with its own event loop for each service.

This module is loaded by every command, so it imports no client; `store` does, when such a URL is opened.
"""

from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, Field

from syncd import hookimpl
from syncd.errors import ConfigError
from syncd.store import Store

SCHEMES = ("gs", "az", "azure", "adl", "abfs", "abfss")
"""Those that obstore alone serves here; any other with `obstore+` before it."""


class ObstoreSettings(BaseModel):
    """What such a store needs beyond the URL. Credentials come by the services' own names."""

    obstore_ca_bundle: Path | None = Field(
        default=None, description="file of PEM certificates that vouch for the server too, beside the system's"
    )
    obstore_timeout: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="seconds without an answer or progress that end a request"
    )


class OpenStore(Protocol):
    """The event of the hook `open_store`, as far as it is used here."""

    @property
    def url(self) -> str: ...

    @property
    def settings(self) -> ObstoreSettings: ...


@hookimpl
def settings() -> type[ObstoreSettings]:
    """The fields that join the settings table."""
    return ObstoreSettings


@hookimpl
async def open_store(event: OpenStore) -> Store | None:
    """The store for one of the URLs above, checked and ready; None for another scheme.

    Raises `ConfigError` or `Denied` for what the operator must mend, `Transient` for a server that is away.
    """
    scheme = event.url.partition(":")[0].lower()
    if scheme not in SCHEMES and not scheme.startswith("obstore+"):
        return None
    try:
        from syncd_obstore.store import ObstoreStore
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "obstore":
            raise
        raise ConfigError(f"{scheme}://… needs the obstore extra: pip install 'syncd[obstore]'") from None
    return await ObstoreStore.open(event.url, event.settings)
