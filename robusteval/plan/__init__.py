"""What a run will do: its suite, its spec, its plan, and what its jobs need at hand."""
