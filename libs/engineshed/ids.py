"""Ids: a prefix that says of what, and a ULID that sorts by time."""

import re
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

_ID: Final = re.compile(r"[a-z]+_[0-9A-HJKMNP-TV-Z]{26}")


def new(prefix: str) -> str:
    """Return a new id, e.g. `ep_01J…`."""
    return f"{prefix}_{ULID()}"


def is_id(text: str, prefix: str) -> bool:
    """Tell whether `text` is an id with this prefix."""
    return text.startswith(f"{prefix}_") and _ID.fullmatch(text) is not None
