"""aiobotocore's HTTP without redirects, as botocore's own is: aiohttp would send a body, and a listing's trust, anywhere."""

from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.parsers import ResponseParserError

REDIRECTS = (301, 302, 303, 307, 308)


class UnredirectedSession(AIOHTTPSession):  # type: ignore[misc]
    """What a server answers is the answer; a bucket's other region is botocore's business, which signs anew for it."""

    async def _get_session(self, proxy_url: str | None) -> Any:
        return _Unredirected(await super()._get_session(proxy_url))


class _Unredirected:
    """As much of a `ClientSession` as aiobotocore uses to send."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **about: Any) -> aiohttp.ClientResponse:
        answer = await self._session.request(method, allow_redirects=False, **about)
        if answer.status in REDIRECTS and "location" in answer.headers and "x-amz-bucket-region" not in answer.headers:
            answer.close()
            # botocore would ask for the bucket's region, be redirected, and ask again without end.
            raise ResponseParserError(f"status {answer.status} leads elsewhere")
        return answer
