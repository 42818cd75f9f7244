"""Weakly typed recipes (trtexec and Polygraphy commands, Polygraphy scripts) and their strongly typed equivalent."""

from precision_planner.emitting.migrate.read import read_recipe
from precision_planner.emitting.migrate.recipe import Recipe, RecipeConstraint
from precision_planner.emitting.migrate.translate import Migration, migrate

__all__ = ["Migration", "Recipe", "RecipeConstraint", "migrate", "read_recipe"]
