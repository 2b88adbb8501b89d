"""``clipkit search``: search in an embedded collection."""
