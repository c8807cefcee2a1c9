"""Recipes and families of models: what is trained, and the losses it is trained with."""

from trainer.models.family import Family, Part
from trainer.models.micro_batch import MicroBatch, moved
from trainer.models.recipes import RECIPES, Recipe, choose_recipe

__all__ = ["RECIPES", "Family", "MicroBatch", "Part", "Recipe", "choose_recipe", "moved"]
