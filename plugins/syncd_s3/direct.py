"""Requests with large bodies past the SDK: botocore signs them and reads the answers, `wire` or `session` carries them.

An SDK passes every byte through Python several times; here one copy is the most. What is not large stays the SDK's.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import quote

from botocore.awsrequest import AWSRequest, HeadersDict
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError, create_parser

from syncd.errors import Transient
from syncd.store import Fetched
from syncd_s3.client import Client
from syncd_s3.clock import S3V4
from syncd_s3.wire import Answer, Request, Span

UNRESERVED = "-_.~"
"""What a signed URL holds as itself, beside letters and digits."""


class Carrier(Protocol):
    """What moves signed requests: `wire.Wire` or `session.Session`."""

    async def exchange(self, request: Request) -> Answer: ...
    async def aclose(self) -> None: ...


class DirectPath:
    """A `paths.Path` whose requests a carrier sends."""

    def __init__(self, client: Client, carrier: Carrier) -> None:
        self._client, self.carrier = client, carrier
        self._parser: Any = create_parser("rest-xml")
        self._url: str | None = None

    async def aclose(self) -> None:
        await self.carrier.aclose()

    async def send(
        self, operation: str, what: str, span: Span, urgent: bool, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        async with self._client.said(what) as keys:
            request = await self._signed(keys, operation, about, body=span)
            return self._parsed(operation, await self.carrier.exchange(replace(request, polite=not urgent)))

    async def fetch(self, what: str, span: Span, about: Mapping[str, Any]) -> tuple[dict[str, Any], Fetched]:
        async with self._client.said(what) as keys:
            answer = await self.carrier.exchange(await self._signed(keys, "get_object", about, into=span))
            return self._parsed("get_object", answer), answer.fetched or Fetched(0)

    async def _signed(
        self,
        keys: ReadOnlyCredentials,
        operation: str,
        params: Mapping[str, Any],
        *,
        body: Span | None = None,
        into: Span | None = None,
    ) -> Request:
        """A request signed by header: `generate_presigned_url` resolves the endpoint anew each time, which costs more
        than all the rest, and has the session's token in the URL."""
        api = self._client.api
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
        S3V4(keys, "s3", api.meta.region_name).add_auth(signed)
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
        landed = answer.fetched.nbytes if answer.fetched else 0
        if answer.status < 300 and not landed and answer.headers.get("content-type", "").startswith("text/html"):
            raise ResponseParserError("a page for people")
        if answer.status < 300 and operation == "get_object":  # its body is in the file
            return {"ContentRange": answer.headers.get("content-range", "")}
        if answer.status < 300 and "etag" in answer.headers:
            # A put's answer is its headers; the general parser costs as much as sending a small object.
            sum_ = answer.headers.get("x-amz-checksum-crc64nvme")
            return {"ETag": answer.headers["etag"]} | ({"ChecksumCRC64NVME": sum_} if sum_ else {})
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
