"""Speed, measured beside what a user would run instead and beside the machine's own limits."""
