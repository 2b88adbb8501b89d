"""Captions from templates with a class name or another caption."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from clipkit.class_names import read_class_names
from clipkit.data.shards.members import read_label
from clipkit.data.text.captions import Candidate, CaptionPicker
from clipkit.errors import ConfigError, SampleError
from clipkit.templates import check_templates, fill_template
from clipkit.types import IGNORE_LABEL


@final
class LabelTemplates(CaptionPicker):
    """Captions with the name of the sample's class, such as ``"a photo of a {}"``.

    Args:
        classnames: File with one name per line, or the names, in the order of the labels. A
            blank line is a class without a name.
        templates: Texts with ``{}`` for the class name.
        field: Member with the label ("cls"), or field of a JSON member ("json:category").

    Raises:
        ConfigError: If there are no names or no templates, or a template lacks ``{}``.

    Examples:
        >>> pick = LabelTemplates(["cat", "dog"], ["a photo of a {}"])
        >>> pick({"cls": b"1"}, np.random.default_rng(0))
        'a photo of a dog'
    """

    def __init__(
        self, classnames: list[str] | str, templates: list[str], field: str = "cls"
    ) -> None:
        if isinstance(classnames, str):
            classnames = read_class_names(classnames, "classnames")
        self.classnames = list(classnames)
        if not any(self.classnames):
            raise ConfigError("classnames: expected at least one name, got none")
        self.templates = check_templates(templates, "templates")
        self.field = field
        self.source = f"label {field!r}"

    @property
    def members(self) -> frozenset[str]:
        """See `CaptionPicker.members`."""
        return frozenset({self.field.partition(":")[0]})

    def candidates(self, members: Mapping[str, bytes]) -> list[Candidate]:
        """See `CaptionPicker.candidates`."""
        label = read_label(members, self.field)
        if label == IGNORE_LABEL:
            return []
        if label >= len(self.classnames):
            raise SampleError(
                f"label {self.field}: expected less than {len(self.classnames)}, the number of "
                f"class names, got {label}"
            )
        name = self.classnames[label]
        if not name:
            raise SampleError(f"label {self.field}: class {label} has no name in classnames")
        return [Candidate(fill_template(template, name), 1.0) for template in self.templates]


@final
class TemplatedCaptions(CaptionPicker):
    """Captions of another picker, put into templates.

    Args:
        captions: Picker of the captions.
        templates: Texts with ``{}`` for the caption; ``"{}"`` is the caption itself.

    Examples:
        >>> pick = TemplatedCaptions(TextField(), ["an icon of {}"])
        >>> pick({"txt": b"a dog"}, np.random.default_rng(0))
        'an icon of a dog'
    """

    def __init__(self, captions: CaptionPicker, templates: list[str]) -> None:
        self.captions = captions
        self.templates = check_templates(templates, "templates")
        self.source = captions.source

    @property
    def members(self) -> frozenset[str] | None:
        """See `CaptionPicker.members`."""
        return self.captions.members

    def candidates(self, members: Mapping[str, bytes]) -> list[Candidate]:
        """See `CaptionPicker.candidates`."""
        return [
            candidate._replace(text=fill_template(template, candidate.text))
            for candidate in self.captions.candidates(members)
            for template in self.templates
        ]
