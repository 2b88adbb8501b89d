"""Addresses, transfers and the local cache of remote files."""
