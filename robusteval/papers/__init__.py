"""Papers as data, and their tables made here: ``robusteval reproduce``."""
