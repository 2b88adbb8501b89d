"""The mathematics of the losses: tiles, products and their gradients, without options or state."""
