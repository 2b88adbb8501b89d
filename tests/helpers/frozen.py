"""Import this last: collections of garbage leave out all that exists by then."""

import gc

from clipkit.data.text.clip_bpe import clip_bpe

clip_bpe().encode("a red square")  # each process would read the vocabulary
gc.collect()
gc.freeze()
