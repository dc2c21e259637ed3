"""Data sets, recipes, the training loop and evaluation (torch, MONAI, Lightning); never needed to run a model."""
