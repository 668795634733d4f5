"""A suite becomes a plan, a plan becomes jobs, jobs become outcomes."""
