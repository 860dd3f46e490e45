"""Routing keys are labels of host names."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineshed.scheduler.domain.naming import routing_key

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("support-bot", "support-bot-x7f3q2"),
        ("GPT-20B Endpoint (updated)", "gpt-20b-endpoint-updated-x7f3q2"),
        ("  Schlüssel__Dienst  ", "schlussel-dienst-x7f3q2"),
        ("机车库", "endpoint-x7f3q2"),
        ("--", "endpoint-x7f3q2"),
    ],
)
def test_they_are_made_of_the_name(name: str, key: str) -> None:
    assert routing_key(name, "x7f3q2") == key


@given(st.text(min_size=1, max_size=100))
def test_they_are_always_labels(name: str) -> None:
    assert LABEL.fullmatch(routing_key(name, "x7f3q2"))
