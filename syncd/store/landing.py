"""Where a `fetch` of a store writes: a range of an open file, summed as it comes."""

import errno

from syncd.local.digest import add_crc, spell
from syncd.store import Fetched, write_at


class Unwritable(Exception):
    """The caller's disk did not take what came: an OSError that is not the connection's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class Landing:
    """`length` bytes of an open file from `offset` on. Sums what it writes, since it is in the processor's cache now."""

    def __init__(self, fd: int, offset: int, length: int) -> None:
        self._fd, self._offset, self._length = fd, offset, length
        self.moved = self._crc = 0

    @property
    def fetched(self) -> Fetched:
        """What has come."""
        return Fetched(self.moved, spell(self._crc))

    def take(self, data: bytes | memoryview) -> None:
        """Write what came next. Raises `Unwritable`, or ConnectionError for more than was asked for. Blocks."""
        if self.moved + len(data) > self._length:
            raise ConnectionError(errno.EPROTO, f"more than {self._length} bytes came")
        try:
            write_at(self._fd, data, self._offset + self.moved)
        except OSError as error:
            raise Unwritable(error) from None
        self.moved, self._crc = self.moved + len(data), add_crc(data, self._crc)
