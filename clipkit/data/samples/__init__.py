"""From raw members to a sample and a batch; faults and their budget."""
