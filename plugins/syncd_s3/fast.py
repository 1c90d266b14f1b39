"""Requests with large bodies past the SDK: botocore signs them and reads the answers, `wire` carries them.

An SDK passes every byte through Python several times; here none of them does. What is not large stays the SDK's.
"""

import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest, HeadersDict
from botocore.exceptions import ClientError
from botocore.httpsession import get_cert_path
from botocore.parsers import ResponseParserError, create_parser

from syncd.errors import Transient
from syncd_s3.client import Client
from syncd_s3.wire import Answer, Request, Span, Wire

UNRESERVED = "-_.~"
"""What a signed URL holds as itself, beside letters and digits."""


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
        self._url: str | None = None

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

    async def send(
        self, operation: str, what: str, span: Span, /, *, urgent: bool = True, **params: Any
    ) -> dict[str, Any]:
        """One PutObject or UploadPart; the parsed answer. Unless it is urgent, the trainer's processes come first."""
        async with self._client.said(what):
            request = await self._signed(operation, params, body=span)
            return self._parsed(operation, await self._wire.exchange(replace(request, polite=not urgent)))

    async def fetch(self, what: str, span: Span, /, **params: Any) -> tuple[dict[str, Any], int]:
        """GetObject of a range into a file; the parsed answer, and how many bytes came."""
        async with self._client.said(what):
            answer = await self._wire.exchange(await self._signed("get_object", params, into=span))
            return self._parsed("get_object", answer), answer.moved

    async def _signed(
        self, operation: str, params: Mapping[str, Any], *, body: Span | None = None, into: Span | None = None
    ) -> Request:
        """A request signed by header: `generate_presigned_url` resolves the endpoint anew each time, which costs more
        than all the rest, and has the session's token in the URL."""
        api = self._client.api
        keys = await self._client.credentials.get_frozen_credentials()
        model = self._model(operation)
        shapes = model.input_shape.members
        parts: dict[str, dict[str, str]] = {"header": {}, "querystring": {}, "uri": {}}
        for name, value in (self._client.added(operation) | dict(params)).items():
            place = shapes[name].serialization
            parts[place["location"]][place["name"]] = str(value)
        query = "&".join(f"{name}={quote(value, safe=UNRESERVED)}" for name, value in parts["querystring"].items())
        key = quote(parts["uri"]["Key"], safe=f"/{UNRESERVED}")
        url = f"{await self._base()}{key}{'?' if query else ''}{query}"
        signed = AWSRequest(model.http["method"], url, parts["header"])
        signed.context["client_config"] = api.meta.config  # says that the payload is not hashed
        S3SigV4Auth(keys, "s3", api.meta.region_name).add_auth(signed)
        return Request(model.http["method"], url, dict(signed.headers), body, into)

    async def _base(self) -> str:
        """The URL before the key, as botocore makes it of endpoint, addressing and bucket."""
        if self._url is None:
            about = {"Bucket": self._client.place.bucket, "Key": "x"}
            url = await self._client.api.generate_presigned_url("head_object", Params=about)
            self._url = str(url).partition("?")[0].removesuffix("x")
        return self._url

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
