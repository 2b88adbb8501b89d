"""Near-duplicates of images and captions, and the groups that they form."""
