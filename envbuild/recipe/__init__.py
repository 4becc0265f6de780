"""Recipes: the model, its checks, and the nearest valid spelling."""
