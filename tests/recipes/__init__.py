"""`make test-recipes`: docs/recipes.md, as it stands, against the product. It needs npm, and PyPI by uv."""
