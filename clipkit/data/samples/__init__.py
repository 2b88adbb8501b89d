"""Convert raw members to samples and batches; count faults against a budget."""
