"""Export embedded collections to other systems of search."""
