"""Fitting what a generation of devices reaches of its peaks to measured times of operators."""
