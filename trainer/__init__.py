"""The trainer: streams a finished dataset into PyTorch and trains reference models on it. Never imports Beam."""
