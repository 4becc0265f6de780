"""Recipes: the model, its checks, and the nearest valid spelling."""

from envbuild.recipe.load import find_ref, list_recipes, load_recipe, parse_ref
from envbuild.recipe.model import Recipe, Ref

__all__ = ["Recipe", "Ref", "find_ref", "list_recipes", "load_recipe", "parse_ref"]
