"""Turn report content into positions, colours and texts that the templates print."""
