"""Callbacks that measure the speed of a run, or watch whether it makes progress."""
