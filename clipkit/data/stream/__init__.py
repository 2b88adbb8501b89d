"""The stream of batches: order, reader and sample maker together, with state and workers."""
