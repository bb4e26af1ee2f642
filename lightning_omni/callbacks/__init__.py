"""Lightning callbacks: exports and TensorBoard."""
