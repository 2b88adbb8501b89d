"""The objective: contrastive, sigmoid, label and combined losses."""
