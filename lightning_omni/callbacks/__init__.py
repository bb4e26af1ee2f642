"""Lightning callbacks: monitoring, exports and the defaults of every run."""
