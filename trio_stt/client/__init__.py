"""A client of the native dialect."""
