"""What a model is asked: one file a task, each holding all of that task."""
