"""Content of tars: scans, sidecar tables, sample counts, members of a sample."""
