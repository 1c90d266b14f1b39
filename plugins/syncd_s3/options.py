"""What the settings add to requests: encryption, storage class, who pays."""

from collections.abc import Mapping
from typing import Any, Protocol

from syncd.errors import ConfigError

_OF_BUCKETS = frozenset({"get_bucket_versioning"})
_MAKES_OBJECTS = frozenset({"put_object", "create_multipart_upload"})


class Settings(Protocol):
    """The settings that matter here."""

    @property
    def s3_sse(self) -> str | None: ...
    @property
    def s3_sse_kms_key_id(self) -> str | None: ...
    @property
    def s3_storage_class(self) -> str | None: ...
    @property
    def s3_requester_pays(self) -> bool: ...


class Options:
    """Parameters beside a request's own, by operation. Raises `ConfigError` for settings that contradict each other."""

    def __init__(self, settings: Settings) -> None:
        if settings.s3_sse_kms_key_id and settings.s3_sse != "aws:kms":
            raise ConfigError("SYNCD_S3_SSE_KMS_KEY_ID names a key of KMS: set SYNCD_S3_SSE=aws:kms too")
        new = {
            "ServerSideEncryption": settings.s3_sse,
            "SSEKMSKeyId": settings.s3_sse_kms_key_id,
            "StorageClass": settings.s3_storage_class,
        }
        self._new: Mapping[str, Any] = {name: value for name, value in new.items() if value}
        self._all: Mapping[str, Any] = {"RequestPayer": "requester"} if settings.s3_requester_pays else {}

    def of(self, operation: str) -> dict[str, Any]:
        """For an operation by botocore's name, such as `put_object`."""
        return {**({} if operation in _OF_BUCKETS else self._all), **(self._new if operation in _MAKES_OBJECTS else {})}
