"""From shards to batches: storage, shards, order, images, audio, text, samples, stream, packing.

The public names are listed in ``__init__.pyi`` and imported at their first use, so that
``import clipkit.data`` stays light.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
