"""Joint encoders: towers whose tokens see each other."""
