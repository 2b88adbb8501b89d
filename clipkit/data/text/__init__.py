"""Select a caption of a sample, and encode it as token ids."""
