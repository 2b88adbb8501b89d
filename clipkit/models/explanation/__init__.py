"""Which parts of an image and which words carry the similarity of a pair."""
