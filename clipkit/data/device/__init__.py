"""From batches in host memory to batches on a device."""
