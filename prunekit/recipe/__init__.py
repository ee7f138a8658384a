"""From a YAML file to a checked, frozen Recipe, and back: schema, places of faults, overrides.

Knows what a recipe says and nothing of how it is run. The rooms above `recipe` may import it.
"""
