"""Questions that are answered from counted steps alone: what a use case requires of a platform, what long
contexts cost, how far attention is from its I/O bound."""
