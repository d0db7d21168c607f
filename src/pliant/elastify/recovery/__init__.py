"""Recovery: what a sub-model lost by being cut, a LoRA per level brings back."""
