"""From the members of a sample to one caption, and from a caption to token ids."""
