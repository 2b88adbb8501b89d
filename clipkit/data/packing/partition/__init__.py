"""Pack the parts of a large table on several machines, into one folder."""
