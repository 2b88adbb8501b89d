"""Show what a run will do on one screen, and refuse what cannot work before its first step."""
