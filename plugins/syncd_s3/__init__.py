"""The store `s3://bucket/prefix`: Amazon S3, MinIO, R2 and whatever else speaks S3 with CRC-64/NVME checksums.

This module is loaded by every command, so it imports no S3 client; `store` does, when such a URL is opened.
"""

from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, Field

from syncd import hookimpl
from syncd.errors import ConfigError
from syncd.store import Store

_LOWER = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
_CLIENT = {"aiobotocore", "aiohttp", "botocore"}


class S3Settings(BaseModel):
    """What S3 needs beyond the URL. Credentials come by the AWS names alone, or `AWS_…_FILE` for each of the three."""

    s3_endpoint_url: str | None = Field(
        default=None, description="URL of the S3 server; default AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else Amazon's"
    )
    s3_region: str | None = Field(
        default=None, description="region of the bucket; default AWS_REGION, AWS_DEFAULT_REGION or the AWS profile's"
    )
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        default="auto", description="bucket in the URL's path or in the host's name; auto: path for all but Amazon"
    )
    s3_ca_bundle: Path | None = Field(
        default=None,
        description="file of PEM certificates that vouch for the server; default AWS_CA_BUNDLE, else the system's",
    )
    s3_profile: Annotated[Literal["auto", "aws", "minio", "r2", "gcs", "ceph", "b2", "generic"], _LOWER] = Field(
        default="auto",
        description="kind of server, for what it does differently (not the AWS profile); auto: by the endpoint's host",
    )
    s3_path: Annotated[Literal["auto", "fast", "signed", "sdk"], _LOWER] = Field(
        default="auto",
        description="how large bodies travel; auto: fast, behind a proxy signed, sdk where that is refused",
    )
    s3_sse: Literal["AES256", "aws:kms"] | None = Field(
        default=None, description="encryption by the server of what is stored; default: the bucket's own"
    )
    s3_sse_kms_key_id: str | None = Field(
        default=None, min_length=1, description="key of KMS for aws:kms; default: the account's"
    )
    s3_storage_class: str | None = Field(
        default=None, pattern="^[A-Z0-9_]+$", description="storage class of what is stored, such as STANDARD_IA"
    )
    s3_requester_pays: bool = Field(default=False, description="pay for requests to another's bucket")
    s3_timeout: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="seconds without an answer or progress that end a request"
    )


class OpenStore(Protocol):
    """The event of the hook `open_store`, as far as it is used here."""

    @property
    def url(self) -> str: ...

    @property
    def settings(self) -> S3Settings: ...


@hookimpl
def settings() -> type[S3Settings]:
    """The fields that join the settings table."""
    return S3Settings


@hookimpl
async def open_store(event: OpenStore) -> Store | None:
    """The store for an `s3://` URL, checked and ready; None for another scheme.

    Raises `ConfigError` or `Denied` for what the operator must mend, `Transient` for a server that is away.
    """
    if not event.url.lower().startswith("s3:"):
        return None
    try:
        from syncd_s3.store import S3Store
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _CLIENT:
            raise
        raise ConfigError("s3://… needs the s3 extra: pip install 'syncd[s3]'") from None
    return await S3Store.open(event.url, event.settings)
