"""The page and the HTTP interface of `clipkit search serve`."""
