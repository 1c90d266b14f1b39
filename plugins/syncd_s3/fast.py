"""Requests with large bodies past the SDK: botocore signs them and reads the answers, `wire` carries them.

An SDK passes every byte through Python several times; here none of them does. What is not large stays the SDK's.
"""

import ssl
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from botocore.awsrequest import HeadersDict
from botocore.exceptions import ClientError
from botocore.httpsession import get_cert_path
from botocore.parsers import ResponseParserError, create_parser

from syncd.errors import Transient
from syncd_s3.client import Client
from syncd_s3.wire import Answer, Request, Span, Wire

EXPIRES = 3600
"""Seconds for which a signed URL is good: it is used at once, by a machine whose clock may differ."""


def proxied(url: str) -> bool:
    """Whether the environment names a proxy for this URL: then the SDK, which knows proxies, carries everything."""
    parts = urlsplit(url)
    if parts.scheme not in urllib.request.getproxies():
        return False
    return not urllib.request.proxy_bypass(str(parts.hostname))


class FastPath:
    """Sends a range of a file as one request's body, and takes one answer's body into a file.

    Raises the store's errors, as `Client` does; `Torn` for a file that is shorter than said or cannot be read,
    `wire.Unwritable` for one that takes no more.
    """

    def __init__(self, client: Client, tls: ssl.SSLContext | None) -> None:
        self._client = client
        self._wire = Wire(tls, client.timeout)
        self._parser: Any = create_parser("rest-xml")

    @classmethod
    def beside(cls, client: Client) -> "FastPath | None":
        """The fast path to a client's server, None where the environment's proxy stands between."""
        url = client.api.meta.endpoint_url
        if proxied(url):
            return None
        # The same certificates as the SDK trusts beside us.
        tls = None
        if urlsplit(url).scheme == "https":
            tls = ssl.create_default_context(cafile=get_cert_path(client.ca_bundle or True))
        return cls(client, tls)

    async def aclose(self) -> None:
        await self._wire.aclose()

    async def send(self, operation: str, what: str, span: Span, /, **params: Any) -> dict[str, Any]:
        """One PutObject or UploadPart; the parsed answer."""
        async with self._client.said(what):
            request = await self._signed(operation, params, body=span)
            return self._parsed(operation, await self._wire.exchange(request))

    async def fetch(self, what: str, span: Span, /, **params: Any) -> tuple[dict[str, Any], int]:
        """GetObject of a range into a file; the parsed answer, and how many bytes came."""
        async with self._client.said(what):
            answer = await self._wire.exchange(await self._signed("get_object", params, into=span))
            return self._parsed("get_object", answer), answer.moved

    async def _signed(
        self, operation: str, params: Mapping[str, Any], *, body: Span | None = None, into: Span | None = None
    ) -> Request:
        api = self._client.api
        about = {"Bucket": self._client.place.bucket, **params}
        url = await api.generate_presigned_url(operation, Params=about, ExpiresIn=EXPIRES)
        # What the signature covers must be sent as it was signed: the parameters that travel as headers.
        model = self._model(operation)
        shapes = model.input_shape.members
        headers = {
            str(shapes[name].serialization["name"]): str(value)
            for name, value in about.items()
            if shapes[name].serialization.get("location") == "header"
        }
        return Request(model.http["method"], url, headers, body, into)

    def _parsed(self, operation: str, answer: Answer) -> dict[str, Any]:
        model = self._model(operation)
        if answer.status < 300 and not answer.moved and answer.headers.get("content-type", "").startswith("text/html"):
            raise ResponseParserError("a page for people")
        if answer.status < 300 and operation == "get_object":  # its body is in the file
            return {"ContentRange": answer.headers.get("content-range", "")}
        response = {"status_code": answer.status, "headers": HeadersDict(answer.headers), "body": answer.body}
        parsed: dict[str, Any] = self._parser.parse(response, model.output_shape)
        if answer.status >= 300:
            raise ClientError(parsed, model.name)
        if "ETag" not in parsed:
            raise Transient(f"{self._client.place}: {model.name} was answered without an ETag")
        return parsed

    def _model(self, operation: str) -> Any:
        api = self._client.api
        return api.meta.service_model.operation_model(api.meta.method_to_api_mapping[operation])
