"""The package `theory` imports its topics when they are asked for, and no others exist."""

import pytest

import theory


def test_topics_are_attributes() -> None:
    for name in theory.__all__:
        assert getattr(theory, name).__name__ == f"theory.{name}"


def test_unknown_topic_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'theory' has no attribute 'alchemy'"):
        theory.alchemy  # noqa: B018
