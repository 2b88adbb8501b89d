"""Import this last: collections of garbage leave out all that exists by then."""

import gc

gc.collect()
gc.freeze()
