"""The data module and how its options become an index or a mixture."""
