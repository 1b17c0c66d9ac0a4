"""The policies of the ladder: the same but for what each step may see."""
