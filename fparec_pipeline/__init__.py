"""Positional attention for sequential recommendation: data, training and honest tables."""
