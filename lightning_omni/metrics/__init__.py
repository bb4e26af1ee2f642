"""What is measured, in and outside of training."""
