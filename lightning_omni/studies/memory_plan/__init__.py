"""Cost of a recipe before training: parameters, memory, arithmetic and time."""
