"""The rows of the table of effects in docs/recipes.md."""

from tests.effects.measure import Effect

EFFECTS: dict[str, Effect] = {}
