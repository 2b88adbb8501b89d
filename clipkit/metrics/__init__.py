"""Exact retrieval and classification metrics, as functions and as torchmetrics states.

The states are imported at their first use: torchmetrics takes three seconds, which the pure
functions need not wait for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
