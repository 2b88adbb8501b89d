"""Tables as a source: rows in batches, columns by name, images in files or in the table."""
