"""What a run writes about itself into its folder."""
