"""Tools around the core: calibration, experiments, benchmarks, the memory planner, reports."""
