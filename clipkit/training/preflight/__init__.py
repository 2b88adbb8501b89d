"""What a run will do, on one screen, and what is refused before its first step."""
