"""A set of labels is one text, and comes back from it."""

import pytest

from transferline import labelsets


@pytest.mark.parametrize("names", [[], ["a"], ["b", "a"], ["with space", "comma, inside"]])
def test_a_set_comes_back_sorted(names: list[str]) -> None:
    assert labelsets.names_of(labelsets.join(names), multilabel=True) == sorted(names)


def test_a_class_is_the_whole_of_its_text() -> None:
    assert labelsets.names_of("a;b", multilabel=False) == ["a;b"]
