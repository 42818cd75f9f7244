"""The language of rule files: its values, how YAML becomes them, and the pages that explain them."""
