"""The S3 store passes the suite of all stores."""

import pytest

from syncd.store import Store
from syncd.testing import StoreSuite


class TestS3Store(StoreSuite):
    """On MinIO; the fixture `store` is conftest's."""

    @pytest.mark.slow
    async def test_list_of_more_than_one_page(self, store: Store) -> None:
        await super().test_list_of_more_than_one_page(store)
