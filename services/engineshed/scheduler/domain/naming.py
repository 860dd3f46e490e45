"""Routing keys: the name of an endpoint in requests and host names."""

import re
import string
import unicodedata
from typing import Final

SUFFIX_ALPHABET: Final = string.digits + string.ascii_lowercase
SUFFIX_LENGTH: Final = 6

_LONGEST_LABEL: Final = 63  # of a DNS name
_UNNAMED: Final = "endpoint"
_NO_LABEL: Final = re.compile(r"[^a-z0-9]+")


def routing_key(name: str, suffix: str) -> str:
    """Return a DNS label made of an endpoint's name and a random suffix, e.g. `support-bot-x7f3q2`.

    A name without any Latin letter or digit becomes `endpoint`.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = _NO_LABEL.sub("-", plain)[: _LONGEST_LABEL - 1 - len(suffix)].strip("-")
    return f"{slug or _UNNAMED}-{suffix}"
