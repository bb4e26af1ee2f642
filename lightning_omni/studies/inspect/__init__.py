"""Look at data: what is in a folder, what a recipe sees of it, and the rows of its batches."""
