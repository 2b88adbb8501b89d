"""The stream of batches: order, reader and sample maker, with state and workers."""
