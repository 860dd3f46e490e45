"""Ids: a prefix that says of what, and a ULID that sorts by time."""

import os
import re
import time
from itertools import product
from typing import Final

from ulid import ULID

ENDPOINT: Final = "ep"
CHECKPOINT: Final = "ckpt"
REPLICA: Final = "rep"
NODE: Final = "node"
ORGANIZATION: Final = "org"
TOKEN: Final = "tok"  # noqa: S105 - the prefix of an id, no secret
EVENT: Final = "evt"

# The organization of what belongs to the platform itself.
PLATFORM: Final = "_platform"

# Two characters of a ULID for every ten bits.
_PAIRS: Final = ["".join(pair) for pair in product("0123456789ABCDEFGHJKMNPQRSTVWXYZ", repeat=2)]

_ID: Final = re.compile(r"[a-z]+_[0-9A-HJKMNP-TV-Z]{26}")


def new(prefix: str) -> str:
    """Return a new id, e.g. `ep_01J…`."""
    return f"{prefix}_{ULID()}"


def several(prefix: str, count: int) -> list[str]:
    """Return `count` new ids, ascending, in a fraction of the time that it takes to make each.

    They share their time and most of their random bits; different calls share none of these.
    """
    random = int.from_bytes(os.urandom(10))
    begin = f"{prefix}_{_encode(time.time_ns() // 1_000_000, 5)}{_encode(random >> 20, 6)}"
    first = random % (2**20 - count)
    return [
        f"{begin}{_PAIRS[number >> 10]}{_PAIRS[number & 1023]}"
        for number in range(first, first + count)
    ]


def _encode(number: int, pairs: int) -> str:
    return "".join(_PAIRS[number >> 10 * place & 1023] for place in reversed(range(pairs)))


def is_id(text: str, prefix: str) -> bool:
    """Tell whether `text` is an id with this prefix."""
    return text.startswith(f"{prefix}_") and _ID.fullmatch(text) is not None
