"""A Django app: orders."""
