"""How a recipe is read: YAML to values with places, overrides, errors as sentences, schema."""
