"""Export trained encoders for other libraries."""
