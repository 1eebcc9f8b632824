"""Our import of canvases against Celery itself: the same canvas, run by both on the same workers."""
