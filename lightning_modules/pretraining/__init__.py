"""What learns from unlabelled exams: one file a pretraining, each holding all of it."""
