"""Attacks: the libraries' by name, and our own that know the prototypes."""
