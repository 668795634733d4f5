"""Backbones, prototype heads, the adapter, and the registry of entries."""
