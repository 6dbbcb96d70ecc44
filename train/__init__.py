"""Training and evaluation programs of AsyncDSB; they import the package, never the reverse."""
