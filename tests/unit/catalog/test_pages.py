"""Pages of lists."""

import pytest

from engineshed.catalog.pages import PageRequest, page_of
from engineshed.catalog.templates import TemplateNotFoundError, Templates, sample_template
from engineshed.errors import InvalidFieldError


def test_the_token_of_a_page_asks_for_the_next_one() -> None:
    page = page_of([("3", "c"), ("2", "b"), ("1", "a")], size=2)

    assert page.items == ["c", "b"]
    assert PageRequest.of(2, page.next_token).after_position == 2


def test_the_last_page_has_no_token() -> None:
    assert page_of([("2", "b"), ("1", "a")], size=2).next_token == ""


@pytest.mark.parametrize("token", ["x", "????", "_w==", "Y3VzdG9t", "LTE="])
def test_a_token_that_was_not_given_out_is_refused(token: str) -> None:
    with pytest.raises(InvalidFieldError, match="page_token"):
        assert PageRequest.of(0, token).after_position is None


def test_templates_are_listed_by_name_page_by_page() -> None:
    templates = Templates(sample_template("ckpt_01J00000000000000000000000"))

    first = templates.page(PageRequest.of(1, ""))
    second = templates.page(PageRequest.of(1, first.next_token))

    assert [item.model_name for item in first.items] == ["custom"]
    assert [item.model_name for item in second.items] == ["engineshed/sample"]
    assert second.next_token == ""


def test_an_unknown_template_is_answered_with_those_there_are() -> None:
    with pytest.raises(TemplateNotFoundError, match="custom"):
        Templates().get("nobody/nothing")
