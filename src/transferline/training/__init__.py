"""Fitting and tuning: the only importers of the Trainer of Lightning and of optuna."""
