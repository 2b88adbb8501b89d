"""Choose the samples of a data set that a run trains on, and look at what the data hold."""
