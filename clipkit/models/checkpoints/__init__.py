"""From an encoder to a checkpoint and back."""
