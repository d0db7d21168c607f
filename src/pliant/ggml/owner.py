"""The life of a native object: it is freed once, by close() or with its last reference."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from pliant.errors import GgmlError


class Owner:
    """Owns one native object; use it in a `with`, or close() it."""

    _address: int | None = None
    _release: Callable[[int], None]

    def _own(self, address: int | None, release: Callable[[int], None], failed: str) -> None:
        """Take over what `release` frees. Raises GgmlError, saying what `failed`, for none."""
        if not address:
            raise GgmlError(failed)
        self._address = address
        self._release = release

    @property
    def address(self) -> int:
        """The C pointer; raises GgmlError after close()."""
        if not self._address:
            raise GgmlError(f"the {type(self).__name__} is closed")
        return self._address

    def close(self) -> None:
        """Free the object. Idempotent."""
        address, self._address = self._address, None
        if address:
            self._release(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
