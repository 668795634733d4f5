"""What jobs leave behind, and what is read from it: every number comes from here."""
