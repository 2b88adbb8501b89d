"""Suites: several data sets by several models, with results in the formats of other tools."""
