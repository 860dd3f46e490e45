"""Pages of a list: tokens that say where the next page begins, and nothing a caller could use."""

import binascii
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from engineshed.errors import InvalidFieldError

T = TypeVar("T")

DEFAULT_SIZE: Final = 100


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page of a list is asked for."""

    size: int
    after: str  # the key of the last item of the page before; "" for the first page

    @classmethod
    def of(cls, page_size: int, page_token: str) -> "PageRequest":
        """Return what the two fields of a request ask for.

        Raises:
            InvalidFieldError: the token is none that was given out.

        """
        try:
            after = b64decode(page_token, altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise _invalid() from error
        return cls(page_size or DEFAULT_SIZE, after)

    @property
    def after_position(self) -> int | None:
        """The key as a position; None for the first page.

        Raises:
            InvalidFieldError: it is the token of another list.

        """
        if not self.after:
            return None
        if not (self.after.isascii() and self.after.isdigit() and len(self.after) < 19):
            raise _invalid()
        return int(self.after)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items of a list."""

    items: list[T]
    next_token: str  # "" on the last page


def page_of(found: list[tuple[str, T]], size: int) -> Page[T]:
    """Return the page of `found`, which has one item more than fits if there are more pages.

    Args:
        found: items in order, each with its key.
        size: how many the page has at most.

    """
    items = [item for _, item in found[:size]]
    more = len(found) > size
    return Page(items, urlsafe_b64encode(found[size - 1][0].encode()).decode() if more else "")


def _invalid() -> InvalidFieldError:
    return InvalidFieldError.of(
        "page_token", "it is not the next_page_token of a page of this list; leave it out to begin"
    )
