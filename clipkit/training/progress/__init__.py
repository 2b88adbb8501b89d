"""Progress of a run in samples and reference steps."""
