"""Data sets of sounds in the form in which they are published, with folds or splits."""
