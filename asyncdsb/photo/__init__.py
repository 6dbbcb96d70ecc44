"""Photographs: reading and writing, windows on them, fills of their holes, settings and results."""
