"""Which URIs name a directory of this host."""

from pathlib import Path

import pytest

from engineshed.catalog.domain.errors import CheckpointInvalidError, UriNotAllowedError
from engineshed.catalog.source import path_of, reach


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///models/bot", "/models/bot"),
        ("file://localhost/models/bot", "/models/bot"),
        ("file:/models/bot", "/models/bot"),
        ("FILE:///models/bot", "/models/bot"),
        ("file:///models/my%20bot", "/models/my bot"),
        ("file:///models/%C3%A9", "/models/é"),
        ("file:///models/100%25", "/models/100%"),
    ],
)
def test_file_uris_are_decoded(uri: str, path: str) -> None:
    assert path_of(uri) == path


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("/models/bot", "file:///models/bot"),
        ("s3://bucket/bot", "not supported yet: use file://|not supported yet; use file://"),
        ("https://example.org/bot", "not supported yet"),
        ("engineshed-sample:x", "not supported yet"),
        ("file://models/bot", "another host"),
        ("file://[::1", "is not a URI"),
        ("file:///models/bot?x=1", "%3F"),
        ("file:///models/bot#x", "%23"),
        ("file:///models/%ff", "UTF-8"),
        ("file:///models/%00", "absolute path"),
        ("file:models", "absolute path"),
        ("file://", "absolute path"),
        ("\ud800", "not a URI"),
        ("file:///a\nb", "not a URI"),
    ],
)
def test_other_uris_are_refused_and_name_the_field(uri: str, told: str) -> None:
    with pytest.raises(CheckpointInvalidError, match=told) as refused:
        path_of(uri)

    assert refused.value.fields[0].field == "uri"
    refused.value.message.encode()


def test_only_what_is_below_a_root_may_be_read() -> None:
    allowed = reach(anywhere=False, roots=[Path("/models")], never=[Path("/models/state")])

    allowed.require(Path("/models/bot"))
    for path in ("/", "/etc", "/modelsx/bot", "/models/state/artifacts"):
        with pytest.raises(UriNotAllowedError):
            allowed.require(Path(path))


def test_nobody_may_read_the_platforms_own_files() -> None:
    allowed = reach(anywhere=True, roots=[], never=[Path("/var/lib/engineshed")])

    allowed.require(Path("/var/lib"))
    with pytest.raises(UriNotAllowedError, match="own files"):
        allowed.require(Path("/var/lib/engineshed/artifacts"))


def test_without_roots_nothing_may_be_read() -> None:
    with pytest.raises(UriNotAllowedError, match="ENGINESHED_IMPORT_ROOTS"):
        reach(anywhere=False, roots=[], never=[]).require(Path("/models"))
