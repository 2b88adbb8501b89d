"""Which parts of an image and which words carry a matching logit."""
