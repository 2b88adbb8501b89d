"""Terms that look at the tokens of several modalities together, by a joint encoder."""
