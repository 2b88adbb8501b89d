"""JSON members of samples."""

from __future__ import annotations

import json
from typing import Any

from clipkit.errors import SampleError


def parsed_json(data: bytes | str, member: str) -> Any:
    """Parse a JSON member.

    Args:
        data: The member's content.
        member: Its extension, for the message.

    Raises:
        SampleError: If it is not JSON, or nested deeper than the parser follows.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise SampleError(f"member {member!r} is not JSON: {error}") from None
    except RecursionError:
        raise SampleError(f"member {member!r}: JSON that is nested too deeply") from None
