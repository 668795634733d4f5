"""From options to evidence: what a user asks is prepared, and every job is done."""
