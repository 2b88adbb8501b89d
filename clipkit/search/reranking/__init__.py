"""The second stage of a search: a joint encoder looks at what was found."""
