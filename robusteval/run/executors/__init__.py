"""Who does the jobs: this process, or others."""
