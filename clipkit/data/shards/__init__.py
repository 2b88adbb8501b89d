"""What a tar contains and where: scans, sidecar tables, sample counts, members of a sample."""
