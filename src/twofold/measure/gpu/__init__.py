"""Microbenchmarks of an NVIDIA GPU, in torch and in CUDA: what `calibrate --device cuda` runs."""
