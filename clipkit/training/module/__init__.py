"""The Lightning module and the callbacks that it always brings along."""
