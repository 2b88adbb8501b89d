"""Contents, files, and reading and writing of training checkpoints."""
