"""One placeholder for class names and captions, in training and evaluation."""

from __future__ import annotations

import pytest

from clipkit.errors import ConfigError
from clipkit.evaluation import GENERIC_TEMPLATES
from clipkit.templates import check_templates, fill_template


@pytest.mark.parametrize("place", ["{}", "{c}"])
def test_both_placeholders_are_filled(place):
    assert fill_template(f"a {place} {{d}}", "red {c} {} %s") == "a red {c} {} %s {d}"


def test_a_template_without_a_place_is_refused():
    with pytest.raises(ConfigError, match=r"file: expected '\{\}' in every template, got 'a dog'"):
        check_templates(["{}", "a dog"], "file")
    with pytest.raises(ConfigError, match="file: expected at least one template"):
        check_templates([], "file")


def test_the_generic_templates_differ():
    assert len(set(check_templates(GENERIC_TEMPLATES, "generic"))) == len(GENERIC_TEMPLATES)
