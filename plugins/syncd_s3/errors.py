"""S3's errors in the store's words: who must act, and one line that says what to do."""

import errno
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from syncd.errors import Denied, Exists, NotFound, SlowDown, StoreError, SyncdError, Transient


class Damaged(Transient):
    """The server received other bytes than the checksum says."""


class NoRight(Denied):
    """The server says that these keys may not do this."""


class NoKeys(Denied):
    """There are no keys that count now; what is under way was signed by some that did."""


class EmptyRange(NotFound):
    """A range that begins at or after an object's end."""


class UploadGone(Transient):
    """A multipart upload is not there any more, or its parts are not what was sent: begin it anew."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a message names: the bucket and the endpoint's URL without user and password."""

    bucket: str
    endpoint: str

    def __str__(self) -> str:
        return f"s3://{self.bucket} at {self.endpoint}"


def _codes(names: str) -> frozenset[str]:
    return frozenset(names.split())


OUTDATED = _codes(
    "ExpiredToken ExpiredTokenException TokenRefreshRequired InvalidToken InvalidAccessKeyId SignatureDoesNotMatch"
)
"""Codes after which the keys are read again before anybody is troubled: they may have been rotated."""

# What its status would not tell: 5xx, 408, 409 and 429 are transient under any name.
_TRANSIENT = _codes("RequestTimeout IncompleteBody")
_SLOW = _codes("SlowDown SlowDownRead SlowDownWrite Throttling ThrottlingException RequestThrottled TooManyRequests")
_DAMAGED = _codes("BadDigest XAmzContentChecksumMismatch InvalidDigest XAmzContentSHA256Mismatch")
_GONE = _codes("NoSuchUpload InvalidPart InvalidPartOrder EntityTooSmall")
_REGION = _codes(
    "PermanentRedirect TemporaryRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301 307"
)
NOT_S3 = "the answer is not S3's; point the endpoint at the S3 port, not at a console or proxy"
_KEYS = "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the AWS profile"
_DENIED = {
    "NoSuchBucket": "no bucket has this name; create it or correct the URL of the store",
    "InvalidBucketName": "this is no name for a bucket; correct the URL of the store",
    "AccessDenied": "{key} may not {operation}; grant it that right on this bucket and prefix",
    "AllAccessDisabled": "all access to this bucket is disabled; use another, or ask its owner",
    "AccountProblem": "the account has a problem; ask the provider",
    "InvalidAccessKeyId": f"{{key}} is not known there; {_KEYS}",
    "SignatureDoesNotMatch": f"the secret does not belong to {{key}}; {_KEYS}",
    "ExpiredToken": "the session token of {key} has expired and no newer one was found; renew it",
    "InvalidToken": "the session token of {key} is not valid; renew AWS_SESSION_TOKEN, or unset it for permanent keys",
    "RequestTimeTooSkewed": "this machine's clock differs too much from the server's; set it (NTP)",
    "KeyTooLongError": "a key of over 1,024 bytes; shorten the URL's prefix or the file's path",
    "XMinioInvalidObjectName": "the server refuses this name; rename the file",
    "NotImplemented": "the server cannot {operation} in this way; name its kind (SYNCD_S3_PROFILE), and leave out"
    " SYNCD_S3_SSE and SYNCD_S3_STORAGE_CLASS where it knows none",
    "XMinioAdminBucketQuotaExceeded": "the bucket's quota is used up; raise it or delete something",
    "InvalidObjectState": "the object is archived; restore it from its storage class first",
}
_ALIAS = {
    "403": "AccessDenied",
    "Forbidden": "AccessDenied",
    "ExpiredTokenException": "ExpiredToken",
    "TokenRefreshRequired": "ExpiredToken",
}


def code_of(error: BaseException) -> str:
    """S3's error code; the empty string when it is not the server's answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, boto.ClientError) else ""


def status_of(error: boto.ClientError) -> int:
    """The answer's status; 0 where it had none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def date_of(error: boto.ClientError) -> str | None:
    """When the server answered, by its own clock; None where it does not say."""
    found = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return None if found is None else str(found)


def translate(error: Exception, place: Place, key: str, what: str) -> StoreError:
    """The `StoreError` for what a request ended in. `key`: the masked key id; `what`: the object or prefix."""
    if isinstance(error, boto.ClientError):
        return _answer(error, place, key, what)
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return Denied(f"{place}: {_short(error)}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if isinstance(error, boto.MetadataRetrievalError):
        return Transient(f"{place}: the machine's metadata service gave no credentials: {_short(error)}")
    if isinstance(error, (boto.CredentialRetrievalError, boto.UnauthorizedSSOTokenError, boto.SSOTokenLoadError)):
        return NoKeys(f"{place}: the credentials cannot be had: {_short(error)}; mend their source")
    if isinstance(error, ResponseParserError):
        return Denied(f"{place}: {NOT_S3}")
    return _no_answer(error, place)


def _answer(error: Any, place: Place, key: str, what: str) -> StoreError:
    response = error.response
    status = status_of(error)
    code = _ALIAS.get(code_of(error), code_of(error))
    said = f"{place}: {what}: " if what else f"{place}: "
    detail = f"{code or status}: {_one_line(response.get('Error', {}).get('Message', ''))}"
    if code in _DAMAGED:
        return Damaged(f"{said}the bytes were damaged on the way ({code})")
    if code in _GONE:
        return UploadGone(f"{said}the multipart upload must begin anew ({code})")
    if code in ("InvalidRange", "416"):
        ranged = error.operation_name == "GetObject"
        return EmptyRange(f"{said}the object ends before the range") if ranged else Transient(f"{said}{detail}")
    if code in ("PreconditionFailed", "412"):
        conditional = error.operation_name == "PutObject"
        return Exists(f"{said}exists already") if conditional else Transient(f"{said}{detail}")
    if code in _REGION:
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region") or "its region"
        return Denied(f"{place}: the bucket is in another region; set SYNCD_S3_REGION={region}")
    if code in _DENIED:
        kind = {"AccessDenied": NoRight, "ExpiredToken": NoKeys, "InvalidAccessKeyId": NoKeys}.get(code, Denied)
        return kind(said + _DENIED[code].format(key=key, operation=error.operation_name))
    if code in _SLOW or status == 429:
        return SlowDown(f"{said}{detail}")
    # By status, since servers differ in what they call things; a 200 is CompleteMultipartUpload's late error.
    if code in _TRANSIENT or status >= 500 or status in (200, 408, 409):
        return Transient(f"{said}{detail}")
    absent = code in ("NoSuchKey", "404", "NoSuchVersion") or status == 404
    if absent and error.operation_name not in ("ListObjectsV2", "ListMultipartUploads"):
        return NotFound(f"{said}no such object")
    return Denied(f"{said}{error.operation_name} was refused: {detail}; change the settings, or use another server")


def _no_answer(error: Exception, place: Place) -> StoreError:
    for cause in _causes(error):
        if isinstance(cause, ResponseParserError):
            return Denied(f"{place}: {NOT_S3}")
        if isinstance(cause, socket.gaierror):
            if cause.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
                return Denied(f"{place}: this host's name is not known; correct the endpoint, region or addressing")
            return Transient(f"{place}: the host's name cannot be looked up now: {cause.strerror}")
        if isinstance(cause, ssl.SSLCertVerificationError):
            # aiohttp's error is of this class too, but lacks the message.
            why = next(
                (said for one in _causes(cause) if (said := getattr(one, "verify_message", None))), "not verified"
            )
            return Denied(f"{place}: the certificate is not trusted ({why}); name its CA in SYNCD_S3_CA_BUNDLE")
        if isinstance(cause, ssl.SSLError) and getattr(cause, "reason", None) == "WRONG_VERSION_NUMBER":
            return Denied(f"{place}: the server does not speak TLS on this port; try http:// in the endpoint")
        if isinstance(cause, OSError) and cause.errno in (errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE):
            return Transient(f"{place}: connection {'refused' if cause.errno == errno.ECONNREFUSED else 'reset'}")
    if isinstance(error, (TimeoutError, boto.ConnectTimeoutError, boto.ReadTimeoutError)):
        return Transient(f"{place}: no answer or progress in time")
    passing = (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError)
    if isinstance(error, passing) or not isinstance(error, boto.BotoCoreError):
        # Their texts are long and hold whole URLs; the innermost kind tells enough.
        *_, innermost = _causes(error)
        return Transient(f"{place}: the connection broke ({type(innermost).__name__})")
    return Denied(f"{place}: {_short(error)}; correct the settings")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was made from, in every way in which botocore and aiohttp wrap."""
    seen: list[BaseException] = [error]
    for one in seen:
        yield one
        named = [getattr(one, name, None) for name in ("os_error", "certificate_error", "__cause__", "__context__")]
        below = (getattr(one, "kwargs", {}).get("error"), *named)
        # Not below an error of ours: that was being handled when this one came, and is another story.
        seen += [e for e in below if isinstance(e, BaseException) and not isinstance(e, SyncdError) and e not in seen]


def _short(error: BaseException) -> str:
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
