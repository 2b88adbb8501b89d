"""Registry of runs: their records, an index, filters, comparisons, and a page of curves.

The public names are listed in ``__init__.pyi`` and imported at their first use: listing runs needs
no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
