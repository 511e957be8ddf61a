"""Pure functions on Arrow and NumPy columns. Nothing here knows Beam, files or the clock."""
