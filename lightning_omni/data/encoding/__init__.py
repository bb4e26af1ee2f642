"""Turn prepared media into codes, shard by shard, on any number of processes and devices."""
