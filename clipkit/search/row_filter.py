"""Conditions on the columns of a collection's tables, such as ``width_pixels>=256``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, final

from clipkit.errors import ConfigError, check_choice

OPERATORS: Final = ("=", "!=", "<", "<=", ">", ">=", "~", "!~")
_CONDITION: Final = re.compile(r"([^=!<>~]+)(>=|<=|!=|!~|==|=|<|>|~)(.*)", re.DOTALL)


@final
@dataclass(frozen=True, slots=True)
class RowFilter:
    """A condition on one column that rows pass or not.

    Args:
        column: Name of the column.
        operator: "=", "<", "<=", ">" or ">=" compare numbers, or texts as they are sorted by
            character; "~" finds a part of a text, upper or lower case. "!=" and "!~" are passed by
            exactly those rows that do not pass "=" and "~". A row without a value passes only
            these two. Of a list, such as ``captions``, one item must pass.
        value: What is compared with the column. For ``label``, the number of a class or its name.

    Raises:
        ConfigError: If there is no such operator, or no value to search for.

    Examples:
        >>> RowFilter.parse("width_pixels >= 256")
        RowFilter(column='width_pixels', operator='>=', value='256')
    """

    column: str
    operator: str
    value: str

    def __post_init__(self) -> None:
        check_choice(f"filter of {self.column}", self.operator, OPERATORS)
        if not self.value and self.operator not in ("=", "!="):
            raise ConfigError(f"filter {self}: expected a value after {self.operator!r}, got none")

    def __str__(self) -> str:
        return f"{self.column}{self.operator}{self.value}"

    @classmethod
    def parse(cls, text: str) -> RowFilter:
        """Parse a condition; space around column and value is ignored.

        Raises:
            ConfigError: If it is no condition.
        """
        match = _CONDITION.fullmatch(text)
        if match is None or not match[1].strip():
            raise ConfigError(
                f"filter: expected COLUMN, one of {' '.join(OPERATORS)}, and a value, such as "
                f"width_pixels>=256 or captions~cat, got {text!r}"
            )
        operator = "=" if match[2] == "==" else match[2]
        return cls(match[1].strip(), operator, match[3].strip())
