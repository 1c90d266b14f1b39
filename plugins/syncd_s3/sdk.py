"""Large bodies by the SDK: whatever botocore is configured for, at three times the cost."""

from collections.abc import Mapping
from typing import Any

from syncd.errors import StoreError
from syncd.local.threads import to_its_end
from syncd.store import Fetched
from syncd.store.landing import Landing
from syncd_s3.body import RangeBody
from syncd_s3.client import Client, Progress
from syncd_s3.wire import Span


class SdkPath:
    """A `paths.Path` by aiobotocore."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def send(
        self, operation: str, what: str, span: Span, urgent: bool, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        bodies: list[RangeBody] = []

        def body(progress: Progress) -> RangeBody | bytes:
            if not span.length:
                return b""
            bodies.append(RangeBody(span.fd, span.offset, span.length, progress))
            return bodies[0]

        try:
            return await self._client.send(operation, what, body, ContentLength=span.length, **about)
        except StoreError:
            if bodies and bodies[0].torn:
                raise bodies[0].torn from None
            raise

    async def fetch(self, what: str, span: Span, about: Mapping[str, Any]) -> tuple[dict[str, Any], Fetched]:
        answer, data = await self._client.get(what, **about)
        landing = Landing(span.fd, span.offset, span.length)
        await to_its_end(landing.take, memoryview(data)[: span.length])
        return answer, landing.fetched

    async def aclose(self) -> None:
        return None
