"""Languages of captions, recognised by py3langid, which an extra installs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from clipkit.data.text.scripts import script_of
from clipkit.errors import ConfigError

UNKNOWN: Final = "none"
"""Script and language of a text without letters."""


def language_detector(wanted: Sequence[str]) -> Callable[[str], str]:
    """Return a function that names the language of a text by its ISO 639-1 code.

    All languages that py3langid knows are compared, so that a text in another language is not taken
    for a wanted one.

    Args:
        wanted: Codes that must be known.

    Raises:
        ConfigError: If py3langid is not installed, or does not know a code.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ConfigError(
            "languages: need py3langid, which is not installed; pip install 'clipkit[languages]', "
            "or choose captions by --scripts"
        ) from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    for code in wanted:
        if code not in identifier.labels:
            raise ConfigError(
                f"languages: expected codes that py3langid knows "
                f"({', '.join(sorted(identifier.labels))}), got {code!r}"
            )

    def name(text: str) -> str:
        # Without letters, the identifier would return an arbitrary language.
        is_unknown = script_of(text) == UNKNOWN
        return UNKNOWN if is_unknown else str(identifier.classify(text)[0])

    return name
