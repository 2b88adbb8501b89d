"""Towers for sound and time, which read features of frames; time is the last axis."""
