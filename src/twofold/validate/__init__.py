"""Predictions held against measurements: samples by group, error statistics, intervals."""
