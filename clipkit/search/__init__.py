"""Search in an embedded collection: exact or with an index, from the shell or in a page."""
