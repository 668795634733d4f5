"""TOML files that robusteval finds by an entry point."""
