"""How much of a device's peaks an op of each kind reaches, by few parameters that each have a meaning."""
