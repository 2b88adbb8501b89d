"""What all tests of commands need."""

from __future__ import annotations

# Its logger keeps the stderr that it finds at import, which would be that of the first test that
# captures it, and closed for the next one.
import lightning.pytorch  # noqa: F401

from tests.helpers.quick_trainers import _quick_trainers  # noqa: F401
