"""Convert a user's corpus to shards, piece by piece, on any number of processes."""
