"""What is in the database."""

from django.db import models


class Order(models.Model):
    """An order."""

    item = models.CharField(max_length=100)
    count = models.IntegerField()
    state = models.CharField(max_length=20, default="new")


class Entry(models.Model):
    """An entry of the journal of tasks."""

    run = models.CharField(max_length=100)
    task = models.CharField(max_length=100)
    word = models.CharField(max_length=200)
    queue = models.CharField(max_length=100)
    priority = models.IntegerField()
    limits = models.CharField(max_length=100)
