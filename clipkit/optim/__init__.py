"""Parameter groups, schedules and averages of weights."""
