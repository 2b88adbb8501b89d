"""Images of strangers: their types, decoding within bounds, uploads."""
