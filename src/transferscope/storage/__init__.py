"""What is kept on disk: the feature store, files of features, files of weights."""
