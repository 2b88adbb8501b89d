"""Search hyperparameters of a run with Optuna."""
