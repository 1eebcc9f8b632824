"""A Django app: pictures."""
