"""Where bytes come from: addresses, transfers and the local cache of remote files."""
