"""The emoji data of the demo."""
