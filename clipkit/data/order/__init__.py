"""Order of the samples in an epoch, and its partition into steps and ranks."""
