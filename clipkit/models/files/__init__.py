"""Files of weights, plain and sharded."""
