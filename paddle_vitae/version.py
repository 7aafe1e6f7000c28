"""The version of this project, and nothing else; pyproject.toml and exports read it here."""
VERSION = '0.1.0'
