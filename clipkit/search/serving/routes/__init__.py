"""Routes of the server, one file for what belongs together."""
