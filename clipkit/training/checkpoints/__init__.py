"""What a training checkpoint contains, where it is stored, how it is written."""
