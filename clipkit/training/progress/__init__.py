"""How far a run is, in samples and reference steps."""
