"""The story of a run, one stage a file: train, search, retrain, export, profile; deploy is all."""
