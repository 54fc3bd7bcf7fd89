"""The groups of measurements that predictions are held against."""
