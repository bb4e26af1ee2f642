"""What a recipe would cost: parameters, memory, arithmetic and time, before anything is trained."""
