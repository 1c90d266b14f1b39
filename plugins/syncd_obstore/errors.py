"""obstore's errors in the store's words. Its types tell some; the answer's status stands only in the text."""

import re
from urllib.parse import quote, urlsplit

from obstore import exceptions as obs

from syncd.errors import Denied, Exists, NotFound, SlowDown, StoreError, Transient

FAILURES = (obs.BaseError, FileNotFoundError, ValueError, OSError)
"""What its calls raise."""

_STATUS = re.compile(r"status code: (\d{3})")
_NO_PLACE = re.compile(r"NoSuchBucket|InvalidBucketName|ContainerNotFound|The specified bucket does not exist")
_NO_RANGE = re.compile(r"Invalid range|Requested range was invalid|Wanted range starting at|status code: 416")
_NO_KEYS = re.compile(
    r"169\.254\.169\.254|Account must be specified|metadata\.google\.internal|[Mm]issing.*(credential|key|token)"
)
_KEYS = "set the service's credentials (GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and _KEY, or AWS_…)"


class EmptyRange(NotFound):
    """A range that begins at or after an object's end, or another that the service does not have."""


def translate(error: Exception, place: str, what: str) -> StoreError:
    """The `StoreError` for what a call ended in. `place`: the store's URL. `what`: the key or prefix."""
    text = str(error)
    for name in (what, urlsplit(place).path.strip("/")):  # a key may read like an error
        text = text.replace(name, "…").replace(quote(name), "…") if len(name) > 6 else text
    at = f"{place}: {what}: " if what else f"{place}: "
    said = at + (_short(text) or type(error).__name__)
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    if _NO_PLACE.search(text):
        return Denied(f"{place}: no bucket or container has this name; create it or correct the URL of the store")
    if _NO_KEYS.search(text):
        return Denied(f"{place}: no credentials were found; {_KEYS}")
    if _NO_RANGE.search(text):
        return EmptyRange(said)
    if isinstance(error, (obs.AlreadyExistsError, obs.PreconditionError)):
        return Exists(f"{at}exists already")
    if isinstance(error, FileNotFoundError) or "Not a directory" in text:
        return NotFound(f"{at}no such object")
    if status == 429 or "SlowDown" in text or "ServerBusy" in text:
        return SlowDown(said)
    if status >= 500 or status in (408, 409):
        return Transient(said)
    if isinstance(error, (obs.PermissionDeniedError, obs.UnauthenticatedError)) or status in (401, 403):
        return Denied(f"{said}; {_KEYS}, with the right to read, write, list and delete there")
    if isinstance(error, obs.NotSupportedError):
        return Denied(f"{said}; this service cannot hold a task's checkpoints: use another")
    return (
        _no_answer(text, said, place) if not status else Denied(f"{said}; correct the settings, or use another store")
    )


def _no_answer(text: str, said: str, place: str) -> StoreError:
    if re.search(r"invalid peer certificate|UnknownIssuer|self.signed", text):
        return Denied(f"{place}: the certificate is not trusted; name its CA in SYNCD_OBSTORE_CA_BUNDLE")
    if re.search(r"Name or service not known|nodename nor servname|No address associated", text):
        return Denied(f"{place}: this host's name is not known; correct the endpoint or the account")
    if "HTTP error" in text or "error sending request" in text or "error decoding response" in text:
        return Transient(f"{said}: the connection broke or was refused")
    if re.search(r"Permission denied|Read-only file system|Is a directory", text):
        return Denied(f"{said}; name a place that you may write")
    return Transient(said)


def _short(text: str) -> str:
    """One line, without the library's debug output, markup, and queries of URLs, which may hold a signature."""
    text = text.partition("Debug source")[0]
    message = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    text = re.sub(r"<[^>]*>", " ", message[1] if message else text)
    return " ".join(re.sub(r"\?\S+", "", text).split())[:200]
